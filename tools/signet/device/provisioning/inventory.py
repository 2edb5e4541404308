"""The inventory: which devices there are, and the audit line of everything that changed it.

A database by SQLAlchemy: an SQLite file, or a server by URL. A device is entered *before* its
certificate is signed (`started`, with the certificate's serial number), and is `done` when its
flash has been written and read back: so there is no certificate without a line here, and a run that
was cut off goes on with the same one. No key and no claim code is ever in it, only hashes.

Every change and its audit line are one transaction. Only a change makes a file or a table; a
database of an older version gets the column that it lacks when it is opened.
"""

import contextlib
import datetime
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

from sqlalchemy import (
    Connection,
    Engine,
    String,
    TypeDecorator,
    create_engine,
    event,
    inspect,
    make_url,
    select,
    text,
)
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from signet import files
from signet.errors import RefusedError, SignetError

FILE_NAME = "inventory.db"  # in the pki folder
STARTED, DONE = "started", "done"
_KEY_COLUMN = "public_key"
_LOCK = "LOCK TABLE audit IN EXCLUSIVE MODE"  # PostgreSQL's; SQLite locks when it begins


class _Text(TypeDecorator[str]):
    """A text, also when it is read: SQLite stores in a column of texts what it is given."""

    impl = String
    cache_ok = True

    def process_result_value(self, value: object, _dialect: object) -> str | None:
        if value is not None and not isinstance(value, str):
            raise RefusedError(f"inventory: damaged: {value!r:.80} where a text should be")
        return value


class Base(DeclarativeBase):
    """All tables of the inventory; audit.py has the other one."""

    type_annotation_map: ClassVar[dict[Any, Any]] = {str: _Text}


class Device(Base):
    """A device; docs/design.md, "Inventory", says what each column is for."""

    __tablename__ = "devices"

    id: Mapped[str] = mapped_column(primary_key=True)
    status: Mapped[str]
    serial: Mapped[str] = mapped_column(unique=True)  # of the certificate, hexadecimal
    certificate: Mapped[str | None]  # SHA-256 of its DER, hexadecimal
    public_key: Mapped[str | None] = mapped_column(unique=True)  # its SHA-256, hexadecimal
    mac: Mapped[str | None] = mapped_column(unique=True)
    model: Mapped[str]
    hw: Mapped[str]
    profile: Mapped[str]
    version: Mapped[str]  # of the image in slot A
    flash: Mapped[str]  # where its flash file was made: a run that was cut off goes on there
    port: Mapped[str | None]
    claim: Mapped[str | None]  # SHA-256 of the claim code on its label, hexadecimal
    sheet: Mapped[str | None]  # number of the label sheet
    started_at: Mapped[str]  # UTC, ISO 8601
    done_at: Mapped[str | None]


def now() -> str:
    """The time in the form in which the inventory keeps it."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


def location(url: str | None, pki_folder: Path) -> str:
    """The URL of the inventory: as given (a path, too), or the file in the pki folder."""
    if url is not None and "://" in url:
        return url
    return f"sqlite:///{Path(url) if url is not None else pki_folder / FILE_NAME}"


class Inventory:
    """An open inventory.

    Raises SignetError (exit code 2) whenever the database cannot be reached or is not one.
    """

    def __init__(self, url: str):
        try:
            self._url = make_url(url)
            self._engine = create_engine(self._url)
        except (SQLAlchemyError, ImportError) as error:
            raise SignetError(
                f"inventory: {_first_line(error)}",
                "a path, sqlite:///FILE or, with pip install 'psycopg[binary]', postgresql://…",
            ) from error
        self.name = self._url.render_as_string(hide_password=True)
        self._is_file = self._url.get_backend_name() == "sqlite"
        if self._is_file:
            _lock_at_begin(self._engine)

    @contextlib.contextmanager
    def reading(self) -> Iterator[Session]:
        """A session that changes nothing; of an inventory that is not there yet, an empty one."""
        empty = not self._exists()
        engine = create_engine("sqlite://") if empty else self._engine
        with self._errors(), Session(engine) as session:
            if empty:
                Base.metadata.create_all(engine)
            yield session

    @contextlib.contextmanager
    def changing(self) -> Iterator[Session]:
        """A transaction: all of it happens when the block ends, or nothing if it raises.

        An SQLite file is made with mode 0600; transactions wait for each other.
        """
        with self._errors():
            if not self._exists():
                self._make()
            with Session(self._engine) as session, session.begin():
                if self._url.get_backend_name() == "postgresql":
                    session.execute(text(_LOCK))
                yield session

    def _exists(self) -> bool:
        path = self._url.database
        if self._is_file and path and not Path(path).exists():
            return False
        with self._errors():
            found = inspect(self._engine)
            if not found.has_table(Device.__tablename__):
                return False
            if not self._has_key(self._engine):
                self._add_key()
            return True

    @staticmethod
    def _has_key(connection: Engine | Connection) -> bool:
        columns = inspect(connection).get_columns(Device.__tablename__)
        return _KEY_COLUMN in (column["name"] for column in columns)

    def _add_key(self) -> None:
        """Bring a database of an older version up to date; its devices' keys are not known."""
        with self._older(), self._engine.begin() as connection:
            if self._url.get_backend_name() == "postgresql":
                connection.execute(text(_LOCK))
            if not self._has_key(connection):  # another program was first
                column = f"{Device.__tablename__} ADD COLUMN {_KEY_COLUMN} VARCHAR"
                connection.execute(text(f"ALTER TABLE {column}"))
                index = f"ix_{_KEY_COLUMN} ON {Device.__tablename__} ({_KEY_COLUMN})"
                connection.execute(text(f"CREATE UNIQUE INDEX {index}"))

    @contextlib.contextmanager
    def _older(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            raise SignetError(
                f"{self.name}: inventory: made by an older version, and cannot be brought up to "
                f"date: {_first_line(error)}",
                "once, by somebody who may alter its tables",
            ) from error

    def _make(self) -> None:
        path = self._url.database
        if self._is_file and path:
            try:
                os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, files.SECRET_MODE))
            except OSError as error:
                raise SignetError(f"{path}: cannot make the inventory: {error.strerror}") from error
        Base.metadata.create_all(self._engine)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except IntegrityError as error:
            raise RefusedError(
                f"{self.name}: id, serial, key or MAC is taken: {_first_line(error)}"
            ) from error
        except SQLAlchemyError as error:
            raise SignetError(f"{self.name}: inventory: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    """What the database says, without the statement and its values."""
    return str(getattr(error, "orig", None) or error).strip().split("\n")[0]


def _lock_at_begin(engine: Engine) -> None:
    """Take SQLite's write lock when a transaction starts: what it reads stays true to its end.

    The driver begins late by itself (SQLAlchemy, "SQLite", "Transactions"). The lock also makes
    the chain of audit lines safe from a second program.
    """

    @event.listens_for(engine, "connect")
    def _connect(connection, _record):  # type: ignore[no-untyped-def]
        connection.isolation_level = None
        connection.execute("PRAGMA busy_timeout = 30000")
        connection.execute("PRAGMA synchronous = FULL")

    @event.listens_for(engine, "begin")
    def _begin(connection):  # type: ignore[no-untyped-def]
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def find(session: Session, device_id: str) -> Device:
    """A device; RefusedError if it is not in the inventory."""
    device = session.get(Device, device_id)
    if device is None:
        raise RefusedError(f"{device_id}: not in the inventory")
    return device


def find_all(session: Session, device_ids: Iterable[str]) -> dict[str, Device]:
    """Those of the devices that are in the inventory, by id."""
    wanted = set(device_ids)
    return {item.id: item for item in session.scalars(select(Device)) if item.id in wanted}


def owner_of_mac(session: Session, mac: str) -> str | None:
    """The id of the device with this MAC, if there is one."""
    return session.scalar(select(Device.id).where(Device.mac == mac))


def owner_of_key(session: Session, key: str) -> str | None:
    """The id of the device with this public key, if there is one."""
    return session.scalar(select(Device.id).where(Device.public_key == key))
