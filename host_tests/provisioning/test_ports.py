"""ports and serial_port: esptool itself, talking to ESP32s in download mode.

No chip is here. What talks to the port is the real program; what answers is the serial protocol
(virtual_loader.py).
"""

import contextlib
import os
from pathlib import Path

import pytest

from host_tests.board_helpers import SEALED
from host_tests.esp_images import make_micropython
from host_tests.provisioning.virtual_loader import ESP8266, VirtualLoader
from host_tests.tool_helpers import SETTINGS, snapshot
from signet import files, run
from signet.board import real_flash
from signet.device import flash_file
from signet.device.provisioning import audit, batch, ports, serial_port
from signet.device.provisioning.batch import Bench, Job
from signet.device.provisioning.inventory import DONE, Device, Inventory, location
from signet.device.provisioning.making import Task
from signet.device.settings import Settings
from signet.formats import flash, secure_cert
from signet.pki import authority
from trust.identity import Identity

pytest_plugins = ["host_tests.tool_fixtures"]

MAC = "24:0a:c4:00:00:01"
MICROPYTHON = b"\xe9 bootloader and app of a MicroPython image" * 20
IDENTITY = slice(0x310000, 0x312000)
TABLE = slice(flash.TABLE_OFFSET, flash.TABLE_OFFSET + flash.TABLE_LEN)


def platform(device_flash: Path) -> bytes:
    """Stands in for `board image`: something at 0x1000, the rest as it is."""
    content = device_flash.read_bytes()
    return content[:0x1000] + MICROPYTHON + content[0x1000 + len(MICROPYTHON) :]


class Station:
    """A bench with an inventory and a folder."""

    def __init__(self, folder, keys, template):
        self.folder = folder
        self.bench = Bench(template, keys, Inventory(location(None, folder)))

    def job(self, port: VirtualLoader | None, device_id="dev-0001", mac=None) -> Job:
        settings = Settings(device_id, *list(vars(SETTINGS).values())[1:])
        output = self.folder / device_id / "flash.bin"
        return Job(Task(settings, output, authority.new_serial()), mac, port.name if port else None)

    def run(self, *jobs: Job, read_key: bool = False) -> batch.Result:
        todo, done = batch.choose(self.bench.inventory, jobs)
        result = ports.provision_on_ports(
            self.bench, todo, platform, read_factory_key=read_key, on_board=lambda _: None
        )
        ports.remove_written(self.bench, jobs)
        result.skipped = done
        return result

    def devices(self) -> dict[str, Device]:
        with self.bench.inventory.reading() as session:
            rows = session.query(Device).all()
            audit.verify(session)
            session.expunge_all()
        return {row.id: row for row in rows}


@pytest.fixture
def station(tmp_path, keys, project, signed_file, monkeypatch):
    # esptool waits 0.2 s for a stub to start: here a thread of the test's has to answer.
    patience = tmp_path / "esptool.cfg"
    patience.write_text("[esptool]\ntimeout = 10\nmem_end_rom_timeout = 10\nsync_timeout = 1\n")
    monkeypatch.setenv("ESPTOOL_CFGFILE", str(patience))
    template = flash_file.prepare(keys, signed_file, project, SETTINGS.model, SETTINGS.profile)
    signed_file.unlink()
    return Station(tmp_path, keys, template)


@pytest.fixture
def chip():
    with VirtualLoader(MAC) as loader:
        yield loader


def identity_of(chip: VirtualLoader) -> Identity:
    content = bytearray(chip.flash[IDENTITY])
    return Identity(flash.BlockDevice(memoryview(content)))


def test_a_board_is_written_read_back_and_entered(station, chip):
    result = station.run(station.job(chip))
    assert (result.made, result.failed) == (["dev-0001"], {})
    row = station.devices()["dev-0001"]
    assert (row.status, row.mac, row.port) == (DONE, MAC, chip.name)
    assert chip.flash[0x1000 : 0x1000 + len(MICROPYTHON)] == MICROPYTHON
    reader = identity_of(chip)
    assert reader.record()["id"] == "dev-0001"
    assert os.listdir(station.folder / "dev-0001") == []  # the key is on the board alone
    found = flash.Flash(chip.flash, station.bench.template.layout)
    assert found.read("slot_a").rstrip(b"\xff") == station.bench.template.image.rstrip(b"\xff")


def test_the_command_makes_a_port_s_board_one_that_boots(signet, keys, signed_file, project, chip):
    """With a whole MicroPython, as `board image` takes it apart."""
    (signed_file.parent / "micropython.bin").write_bytes(make_micropython())
    options = {
        "--pki": keys, "--source": project, "--model": "signet-demo", "--hw": "A1",
        "--broker": "localhost:8883", "--images": "localhost:8443", "--ntp": "localhost:123",
        "--image": signed_file, "--inventory": "inventory.db", "--id": "dev-0001",
        "--port": chip.name, "-o": "flash.bin",
    }  # fmt: skip
    command = ("device", "provision", *(word for pair in options.items() for word in pair))
    without = signet(*command)
    assert (without.returncode, chip.written) == (2, 0)
    assert "a board on a port needs --micropython" in without.stderr
    done = signet(*command, "--micropython", "micropython.bin")
    assert (done.returncode, done.stderr) == (0, "")
    board = real_flash.check_board(flash.Flash(chip.flash, flash.read_table(chip.flash[TABLE])))
    assert (board.id, board.version, board.slot) == ("dev-0001", "1.0.0", "a")
    assert not (signed_file.parent / "flash.bin").exists()
    assert "24:0a:c4:00:00:01" in signet("device", "list", "--inventory", "inventory.db",
                                         "--pki", keys).stdout  # fmt: skip


def test_boards_on_several_ports_at_once(station):
    macs = [f"24:0a:c4:00:00:{n:02x}" for n in range(1, 4)]
    with contextlib.ExitStack() as stack:
        chips = [stack.enter_context(VirtualLoader(mac)) for mac in macs]
        chips[1].stuck_at = 0x310100
        jobs = [station.job(chip, f"dev-{n}") for n, chip in enumerate(chips)]
        result = station.run(*jobs)
    assert (sorted(result.made), list(result.failed)) == (["dev-0", "dev-2"], ["dev-1"])
    rows = station.devices()
    assert {row.id: (row.status, row.mac) for row in rows.values()} == {
        "dev-0": (DONE, macs[0]),
        "dev-1": ("started", macs[1]),
        "dev-2": (DONE, macs[2]),
    }
    assert len({row.serial for row in rows.values()}) == 3


# --- refused before anything is written


def provisioned(chip: VirtualLoader, station: Station, entries) -> None:
    """Put our table and some identity on a chip."""
    blank = flash.Flash.blank(station.bench.template.layout)
    blank.write("esp_secure_cert", secure_cert.pack(entries))
    chip.flash[:] = blank.content


REFUSED = {
    "wrong chip": (lambda: VirtualLoader(MAC, ESP8266), [], None, "ESP8266EX, expected an ESP32"),
    "short flash": (
        lambda: VirtualLoader(MAC, flash_len=2 << 20), [], None,
        "flash of 2 MB, expected at least 4 MB",
    ),
    "another board than the list's": (
        lambda: VirtualLoader(MAC), [], "24:0a:c4:00:00:02",
        f"board {MAC}, the list says 24:0a:c4:00:00:02",
    ),
    "another device of ours": (
        lambda: VirtualLoader(MAC), [secure_cert.Entry(51, 0, b'{"id":"dev-7"}')], None,
        "already provisioned: its record is b'{\"id\":\"dev-7\"}'",
    ),
    "a factory's": (
        lambda: VirtualLoader(MAC), [secure_cert.Entry(2, 0, b"key")], None,
        "holds an identity from the factory",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("make", "entries", "mac", "reason"), REFUSED.values(), ids=REFUSED)
def test_a_board_that_may_not_be_written_is_not_touched(station, make, entries, mac, reason):
    before = snapshot(station.folder)
    with make() as chip:
        if entries:
            provisioned(chip, station, entries)
        content = bytes(chip.flash)
        result = station.run(station.job(chip, mac=mac))
        assert chip.written == 0
        assert chip.flash == content
    assert result.made == []
    assert reason in str(result.failed["dev-0001"])
    assert chip.name in str(result.failed["dev-0001"])
    assert snapshot(station.folder) == before


def test_a_board_with_a_damaged_identity_is_not_touched(station, chip):
    """It may be somebody's: only what our own run began to write is written again."""
    provisioned(chip, station, [secure_cert.Entry(2, 0, b"key")])
    chip.flash[IDENTITY.start + 12] ^= 1
    content = bytes(chip.flash)
    result = station.run(station.job(chip))
    assert "entry of type 2 is cut off or damaged" in str(result.failed["dev-0001"])
    assert (result.made, chip.written, chip.flash) == ([], 0, content)


def test_an_identity_behind_a_sealed_build_s_table_is_seen(station, chip):
    provisioned(chip, station, [secure_cert.Entry(2, 0, b"key")])
    chip.flash[IDENTITY.start + 12] ^= 1
    chip.flash[0x8000:0x9000] = b"\xff" * 0x1000
    table = flash.build_table(SEALED)
    chip.flash[0x9000 : 0x9000 + len(table)] = table
    result = station.run(station.job(chip))
    assert "entry of type 2 is cut off or damaged" in str(result.failed["dev-0001"])
    assert chip.written == 0


def test_a_mac_that_the_inventory_has_is_refused(station, chip):
    assert station.run(station.job(chip)).made == ["dev-0001"]
    chip.flash[:] = b"\xff" * len(chip.flash)  # erased, and back on the bench
    before = snapshot(station.folder)
    result = station.run(station.job(chip, "dev-0002"))
    assert f"MAC {MAC} is already provisioned, as dev-0001" in str(result.failed["dev-0002"])
    assert set(chip.flash) == {0xFF}
    assert snapshot(station.folder) == before


def test_a_port_without_a_board_is_refused(station):
    result = station.run(Job(station.job(None).task, None, str(station.folder / "no-such-port")))
    assert "no-such-port" in str(result.failed["dev-0001"])
    assert station.devices() == {}


# --- cut off, and gone on with


def test_a_read_back_that_differs_fails_and_is_not_done(station, chip):
    chip.stuck_at = 0x314123  # in slot A
    failed = station.run(station.job(chip)).failed["dev-0001"]
    assert chip.name in str(failed)
    row = station.devices()["dev-0001"]
    assert row.status == "started"
    written = (station.folder / "dev-0001/flash.bin").read_bytes()
    chip.stuck_at = None
    assert station.run(station.job(chip)).made == ["dev-0001"]
    again = station.devices()["dev-0001"]
    assert (again.status, again.serial) == (DONE, row.serial)
    assert chip.flash[IDENTITY] == written[IDENTITY]


def test_our_own_comparison_does_not_rest_on_the_chips_hash(station, chip, monkeypatch):
    """The identity is read byte for byte, whatever verify-flash says."""
    really_run = run.run_program

    def lie(name, *args, **options):
        if "verify-flash" in args:
            chip.flash[0x310100] ^= 1
            return ""
        return really_run(name, *args, **options)

    monkeypatch.setattr(run, "run_program", lie)
    failed = station.run(station.job(chip)).failed["dev-0001"]
    assert "read-back failed: the identity differs" in str(failed)
    assert station.devices()["dev-0001"].status == "started"


def test_verify_flash_is_asked(station, chip, monkeypatch):
    really_run = run.run_program

    def damage(name, *args, **options):
        if "verify-flash" in args:
            chip.flash[0x314123] ^= 1
        return really_run(name, *args, **options)

    monkeypatch.setattr(run, "run_program", damage)
    failed = station.run(station.job(chip)).failed["dev-0001"]
    assert "read-back failed: esptool: failed" in str(failed)


def test_a_half_written_board_gets_the_same_identity(station, chip):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(serial_port.Port, "write", lambda *_: 1 // 0)  # as Ctrl-C, or a kill, would
        with pytest.raises(ZeroDivisionError):
            station.run(station.job(chip))
    written = (station.folder / "dev-0001/flash.bin").read_bytes()
    half = 0x310000 + 0x700
    chip.flash[:half] = written[:half]
    assert not [name for name in os.listdir(station.folder / "dev-0001") if name != "flash.bin"]
    assert station.run(station.job(chip)).made == ["dev-0001"]
    assert chip.flash[IDENTITY] == written[IDENTITY]
    assert len(station.devices()) == 1


def test_a_flash_file_that_stayed_behind_is_removed(station, chip, monkeypatch):
    monkeypatch.setattr("pathlib.Path.unlink", lambda *_, **__: None)
    assert station.run(station.job(chip)).made == ["dev-0001"]
    monkeypatch.undo()
    assert (station.folder / "dev-0001/flash.bin").exists()
    assert station.run(station.job(chip)).skipped == ["dev-0001"]
    assert os.listdir(station.folder / "dev-0001") == []


# --- a module's own key


def test_a_factory_key_is_read_from_the_board_and_kept(station, chip, keys):
    _, key = authority.issue_device(keys, "module")
    stored = files.read_file(keys / "server.key", "key")  # any P-256 key, in PKCS #8
    assert key != stored
    entry = secure_cert.Entry(2, 0, stored + b"\0")
    provisioned(chip, station, [secure_cert.Entry(0, 0, b"ca\0"), entry])
    assert station.run(station.job(chip), read_key=True).made == ["dev-0001"]
    content = bytes(chip.flash[IDENTITY])
    assert secure_cert.find(secure_cert.unpack(content), 2) == entry
    assert identity_of(chip).record()["id"] == "dev-0001"


# --- which board goes where


def test_each_port_takes_the_next_board():
    def job(device_id: str, port: str | None = None) -> Job:
        settings = Settings(device_id, *list(vars(SETTINGS).values())[1:])
        return Job(Task(settings, Path(device_id), 1), None, port)

    chosen, left = ports.assign([job("a"), job("b"), job("c")], ["P", "Q"])
    assert [(item.id, item.port) for item in chosen] == [("a", "P"), ("b", "Q")]
    assert [item.id for item in left] == ["c"]
    chosen, left = ports.assign([job("a", "Q"), job("b"), job("c", "Q"), job("d")], ["P", "Q"])
    assert {item.id: item.port for item in chosen} == {"a": "Q", "b": "P"}
    assert [item.id for item in left] == ["c", "d"]
