"""inventory and audit: one transaction a change, and a chain that shows what was altered."""

import sqlite3
import threading
from pathlib import Path

import pytest
from sqlalchemy import event
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateTable

from host_tests.tool_helpers import mode
from signet.device.provisioning import audit
from signet.device.provisioning.inventory import STARTED, Base, Device, Inventory, find, location
from signet.errors import RefusedError, SignetError


def device(number: int, **fields: object) -> Device:
    values = {
        "id": f"dev-{number}", "status": STARTED, "serial": f"{number:040x}", "mac": None,
        "model": "m", "hw": "A1", "profile": "production", "version": "1.0.0",
        "flash": f"/f/{number}", "started_at": "2026-01-01T00:00:00",
    }  # fmt: skip
    return Device(**(values | fields))


@pytest.fixture
def inventory(tmp_path):
    return Inventory(location(None, tmp_path))


def fill(inventory, count=5):
    with inventory.changing() as session:
        for number in range(count):
            session.add(device(number))
            audit.append(session, "provision", f"dev-{number}", "done")


def test_reading_makes_no_file(inventory, tmp_path):
    with inventory.reading() as session:
        assert session.get(Device, "dev-0") is None
        assert audit.verify(session) == []
        with pytest.raises(RefusedError, match="dev-0: not in the inventory"):
            find(session, "dev-0")
    assert list(tmp_path.iterdir()) == []


def test_what_was_entered_is_there(inventory, tmp_path):
    fill(inventory)
    with Inventory(str(location(None, tmp_path))).reading() as session:
        assert find(session, "dev-3").serial == f"{3:040x}"
        assert [line.device for line in audit.verify(session)] == [f"dev-{n}" for n in range(5)]
    assert mode(tmp_path / "inventory.db") == 0o600


def test_a_block_that_raises_changes_nothing(inventory):
    fill(inventory, 1)

    def interrupted() -> None:
        with inventory.changing() as session:
            session.add(device(7))
            audit.append(session, "provision", "dev-7", "done")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with inventory.reading() as session:
        assert session.get(Device, "dev-7") is None
        assert len(audit.verify(session)) == 1


@pytest.mark.parametrize(
    "fields",
    [{"id": "dev-0"}, {"serial": f"{0:040x}"}, {"mac": "24:0a:c4:00:00:01"}, {"public_key": "00"}],
    ids=["id", "serial", "mac", "key"],
)
def test_id_serial_key_and_mac_are_unique(inventory, fields):
    with inventory.changing() as session:
        session.add(device(0, mac="24:0a:c4:00:00:01", public_key="00"))
    with pytest.raises(RefusedError, match="is taken"), inventory.changing() as session:
        session.add(device(1, **fields))


# --- the chain

TAMPERED = {
    "altered result": ("update audit set result = 'failed' where number = 3", "line 3 was altered"),
    "altered time": ("update audit set time = '2020' where number = 1", "line 1 was altered"),
    "altered author": ("update audit set who = 'me' where number = 5", "line 5 was altered"),
    "removed": ("delete from audit where number = 2", "line 2 is missing"),
    "removed first": ("delete from audit where number = 1", "line 1 is missing"),
    "removed and renumbered": (
        "delete from audit where number = 2; update audit set number = number - 1 where number > 2",
        "line 2 was altered",
    ),
    "altered, with a digest of its own": (
        "update audit set device = 'dev-9', digest = '{forged}' where number = 3",
        "line 4 was altered, or one before it",
    ),
    "put in between": (
        "update audit set number = number + 100 where number > 2;"
        "update audit set number = number - 99 where number > 100;"
        "insert into audit select 3, time, who, what, device, result, digest from audit"
        " where number = 2",
        "line 3 was altered",
    ),
}


@pytest.mark.parametrize(("statements", "reason"), TAMPERED.values(), ids=TAMPERED)
def test_a_chain_that_was_tampered_with_is_found(inventory, tmp_path, statements, reason):
    fill(inventory)
    with inventory.reading() as session:
        lines = audit.verify(session)
        lines[2].device = "dev-9"
        forged = lines[2].chained(lines[1].digest)
        session.rollback()
    with sqlite3.connect(tmp_path / "inventory.db") as connection:
        connection.executescript(statements.format(forged=forged))
    with inventory.reading() as session, pytest.raises(RefusedError, match=reason):
        audit.verify(session)


def test_a_long_result_is_cut(inventory):
    with inventory.changing() as session:
        audit.append(session, "provision", "dev-0", "x" * 10_000)
    with inventory.reading() as session:
        assert len(audit.verify(session)[0].result) == audit.MAX_RESULT_LEN


def test_writers_at_the_same_time_make_one_chain(inventory, tmp_path):
    fill(inventory, 1)
    failures: list[BaseException] = []

    def write(writer: int) -> None:
        try:
            own = Inventory(location(None, tmp_path))
            for number in range(20):
                with own.changing() as session:
                    audit.append(session, "label", f"dev-{writer}-{number}", "label")
        except BaseException as error:  # shown by the main thread
            failures.append(error)

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with inventory.reading() as session:
        assert len(audit.verify(session)) == 81


# --- a database of a version without the column public_key


@pytest.fixture
def older(inventory, tmp_path):
    fill(inventory)
    path = tmp_path / "inventory.db"
    with sqlite3.connect(path) as connection:
        (table,) = connection.execute("select sql from sqlite_master where name = 'devices'")
        columns = [line for line in table[0].splitlines() if "public_key" not in line]
        names = ", ".join(line.split()[0] for line in columns if line.startswith("\t"))
        names = names.split(", PRIMARY")[0]
        connection.executescript(
            "alter table devices rename to old;" + "\n".join(columns) + ";"
            f"insert into devices select {names} from old; drop table old"
        )
    return path


@pytest.mark.parametrize("first", ["reading", "changing"])
def test_an_older_database_goes_on_with_keys_that_are_unique(older, first):
    inventory = Inventory(location(str(older), Path()))
    with getattr(inventory, first)() as session:
        assert find(session, "dev-3").public_key is None
        assert len(audit.verify(session)) == 5
    with inventory.changing() as session:
        session.get_one(Device, "dev-1").public_key = "00"
    with pytest.raises(RefusedError, match="key or MAC is taken"), inventory.changing() as session:
        session.get_one(Device, "dev-2").public_key = "00"
    with Inventory(location(str(older), Path())).reading() as session:
        assert find(session, "dev-1").public_key == "00"


def test_an_older_database_that_cannot_be_written_is_said_to_be_one(older):
    inventory = Inventory(location(str(older), Path()))

    @event.listens_for(inventory._engine, "connect")
    def _connect(connection, _record):
        connection.set_authorizer(
            lambda action, *_: action == sqlite3.SQLITE_ALTER_TABLE  # 1 is SQLITE_DENY
        )

    reason = "made by an older version, and cannot be brought up to date: not authorized"
    with pytest.raises(SignetError, match=reason), inventory.reading():
        pass


def test_two_programs_may_open_an_older_database_at_once(older):
    failures: list[BaseException] = []

    def use() -> None:
        try:
            with Inventory(location(str(older), Path())).reading() as session:
                find(session, "dev-1")
        except BaseException as error:  # shown by the main thread
            failures.append(error)

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


# --- what cannot be reached

UNREACHABLE = {
    "no folder": (
        "sqlite:///{folder}/gone/inventory.db",
        "cannot make the inventory: No such file",
    ),
    "not a database": ("{folder}/junk", "file is not a database"),
    "no URL": ("://", "inventory"),
    "no such kind": ("nosuch://host/db", "nosuch"),
}


@pytest.mark.parametrize(("url", "reason"), UNREACHABLE.values(), ids=UNREACHABLE)
def test_an_inventory_that_cannot_be_reached_is_an_error_of_the_environment(tmp_path, url, reason):
    (tmp_path / "junk").write_bytes(b"junk" * 1024)
    with pytest.raises(SignetError, match=reason) as failure:
        fill(Inventory(location(url.format(folder=tmp_path), Path("/nowhere"))))
    assert failure.value.exit_code == 2


def test_a_password_in_the_url_is_not_shown():
    with pytest.raises(SignetError) as failure:
        Inventory("sqlite://me:hunter2@/x.db")
    assert "hunter2" not in str(failure.value)


def test_the_tables_are_sql_for_postgresql():
    """No server is here: at least the statements compile for it."""
    statements: list[str] = []
    for table in Base.metadata.sorted_tables:
        statements.append(str(CreateTable(table).compile(dialect=postgresql.dialect())))
    assert len(statements) == 2
    assert all(text.strip().startswith("CREATE TABLE") for text in statements)
