"""No two devices have one private key, wherever it comes from; nothing is written before."""

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from host_tests.tool_helpers import SETTINGS, snapshot
from signet.device import flash_file, identity
from signet.device.flash_file import Credentials
from signet.device.provisioning import batch
from signet.device.provisioning.batch import Bench, Job
from signet.device.provisioning.inventory import DONE, STARTED, Device, Inventory, location
from signet.device.provisioning.making import Task
from signet.device.settings import Settings
from signet.errors import RefusedError
from signet.formats.flash import Flash
from signet.pki import authority
from trust.identity import Identity

pytest_plugins = ["host_tests.tool_fixtures"]


class Station:
    """A bench without serial ports."""

    def __init__(self, folder, keys, template):
        self.folder, self.keys = folder, keys
        self.bench = Bench(template, keys, Inventory(location(None, folder)))

    def job(self, device_id: str, **options) -> Job:
        settings = Settings(device_id, *list(vars(SETTINGS).values())[1:])
        output = self.folder / device_id / "flash.bin"
        return Job(Task(settings, output, authority.new_serial(), **options))

    def run(self, *jobs: Job, workers: int = 1) -> batch.Result:
        todo, done = batch.choose(self.bench.inventory, jobs)
        result = batch.make_files(self.bench, todo, workers, lambda _: None)
        result.skipped = done
        return result

    def rows(self) -> dict[str, Device]:
        with self.bench.inventory.reading() as session:
            rows = session.query(Device).all()
            session.expunge_all()
        return {row.id: row for row in rows}


@pytest.fixture
def station(tmp_path, keys, project, signed_file):
    template = flash_file.prepare(keys, signed_file, project, SETTINGS.model, SETTINGS.profile)
    signed_file.unlink()
    return Station(tmp_path, keys, template)


def new_key(keys) -> bytes:
    """A factory's, as a module has it."""
    return identity.stored_key(authority.issue_device(keys, "module")[1])


def hash_of(key: bytes) -> str:
    return identity.key_hash(identity.load_key(key).public_key())


def test_two_copies_of_a_dump_in_one_list(station, keys):
    """The dumps are two files: the list's check of names cannot see it."""
    key, other = new_key(keys), new_key(keys)
    jobs = [station.job(name, factory_key=data) for name, data in
            (("dev-1", key), ("dev-2", other), ("dev-3", key))]  # fmt: skip
    with pytest.raises(RefusedError, match="dev-3: its private key is that of dev-1 ") as refusal:
        station.run(*jobs)
    assert hash_of(key)[:16] in str(refusal.value)
    assert (snapshot(station.folder), station.rows()) == ({}, {})
    assert station.run(*jobs[:2]).made == ["dev-1", "dev-2"]


def test_a_copy_of_a_dump_in_a_later_run(station, keys):
    key = new_key(keys)
    assert station.run(station.job("dev-1", factory_key=key)).made == ["dev-1"]
    before = snapshot(station.folder / "dev-1")
    der = identity.load_key(key).private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    for form in (key, der):  # it is the key that counts, not how it is written
        with pytest.raises(RefusedError, match="dev-2: its private key is that of dev-1 "):
            station.run(station.job("dev-2", factory_key=form))
    assert list(station.rows()) == ["dev-1"]
    assert snapshot(station.folder / "dev-1") == before
    assert not (station.folder / "dev-2").exists()


def test_credentials_that_were_used(station, keys):
    chain, key = authority.issue_device(keys, "dev-1")
    assert station.run(station.job("dev-1", credentials=Credentials(chain, key))).made == ["dev-1"]
    public = identity.load_key(key).public_key()
    again = authority.certify_device(keys, "dev-2", public, authority.new_serial())
    with pytest.raises(RefusedError, match="dev-2: its private key is that of dev-1 "):
        station.run(station.job("dev-2", credentials=Credentials(again, key)))


def test_a_key_that_was_made_here_is_known(station):
    assert station.run(station.job("dev-1")).made == ["dev-1"]
    row = station.rows()["dev-1"]
    flash = station.folder / "dev-1/flash.bin"
    pem = Identity(Flash.load(flash).device("esp_secure_cert")).key
    assert row.public_key == hash_of(pem)
    stolen = identity.stored_key(pem)
    with pytest.raises(RefusedError, match="dev-2: its private key is that of dev-1 "):
        station.run(station.job("dev-2", factory_key=stolen))


def test_random_numbers_that_repeat_are_noticed(station, monkeypatch):
    """As those of a copied machine would. In one run, in the transaction of both boards."""
    _, key = authority.issue_device(station.keys, "dev-1")
    public = identity.load_key(key).public_key()

    def issue(pki, device_id, serial):
        return authority.certify_device(pki, device_id, public, serial), key

    with monkeypatch.context() as patch:
        patch.setattr(authority, "issue_device", issue)
        result = station.run(station.job("dev-1"), station.job("dev-2"))
    assert (result.made, list(result.failed)) == (["dev-1"], ["dev-2"])
    assert "its private key is that of dev-1" in str(result.failed["dev-2"])
    assert not (station.folder / "dev-2/flash.bin").exists()
    assert {row.id: row.status for row in station.rows().values()} == {"dev-1": DONE}
    assert station.run(station.job("dev-2")).made == ["dev-2"]  # with a new one


def test_in_parallel_workers(station, keys):
    names = [f"dev-{number}" for number in range(4)]
    result = station.run(*(station.job(name) for name in names), workers=2)
    assert sorted(result.made) == names
    assert len({row.public_key for row in station.rows().values()}) == 4


def test_a_run_that_goes_on_is_not_its_own_duplicate(station, keys, monkeypatch):
    key = new_key(keys)
    jobs = [station.job("dev-1", factory_key=key), station.job("dev-2")]
    with monkeypatch.context() as patch:
        patch.setattr(batch, "record_done", lambda *_: 1 // 0)  # as Ctrl-C, or a kill, would
        with pytest.raises(ZeroDivisionError):
            station.run(*jobs)
    assert {row.status for row in station.rows().values()} == {STARTED}
    before = snapshot(station.folder / "dev-1")
    result = station.run(*jobs)
    assert sorted(result.made) == ["dev-1", "dev-2"]
    assert station.rows()["dev-1"].public_key == hash_of(key)
    assert snapshot(station.folder / "dev-1") == before
    assert sorted(station.run(*jobs).skipped) == ["dev-1", "dev-2"]


def test_who_enters_first_has_the_key(station, keys):
    """Two ports, or two programs: what was chosen before is looked at again when it is entered."""
    key = new_key(keys)
    jobs = [station.job(name, factory_key=key) for name in ("dev-1", "dev-2")]
    for job in jobs:
        assert batch.choose(station.bench.inventory, [job])[0] == [job]
    batch.enter(station.bench.inventory, station.bench.template, [jobs[0]])
    with pytest.raises(RefusedError, match="dev-2: its private key is that of dev-1 "):
        batch.enter(station.bench.inventory, station.bench.template, [jobs[1]])
    assert list(station.rows()) == ["dev-1"]
