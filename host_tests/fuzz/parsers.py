"""What the host reads that others may have written: each parser, its samples, and how it is called.

A parser ends with a result or with a SignetError, for whatever bytes.
"""

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from host_tests.esp_images import make_micropython
from host_tests.fuzz import mutate
from host_tests.tool_helpers import RELEASE, REPO, SETTINGS
from signet.board import real_flash
from signet.board.measure import figures
from signet.device import flash_file, identity, networks, service_token
from signet.device.provisioning import audit, boards_csv, devices
from signet.device.provisioning.inventory import Device, Inventory, location
from signet.device.sealing import burn, efuse, efuse_plan, sealed_flash
from signet.errors import SignetError
from signet.fleet.folder import STATE_NAME, running_address
from signet.fleet.session import Message
from signet.formats import (
    documents,
    esp_image,
    filesystem,
    flash,
    romfs,
    secure_cert,
    signing,
)
from signet.image import names, slot_image, symbols
from signet.pki import authority
from signet.project import manifest, packages

LAYOUT = REPO / slot_image.LAYOUT
BURN_MAC = "24:0a:c4:01:02:03"


@dataclass(frozen=True)
class Parser:
    """samples: names of files that it reads. mend: what makes checksums right again.

    heavy: so slow that it gets a twentieth of the inputs.
    """

    run: Callable[[Path], object]
    samples: tuple[str, ...]
    mend: Callable[[bytes], bytes] | None = None
    json: bool = False
    heavy: bool = False


def make_samples(folder: Path, pki: Path, project: Path) -> None:
    """Write good samples of every format. project: whose firmware is built."""
    layout = flash.load_layout(LAYOUT)

    def put(name: str, data: bytes) -> None:
        (folder / name).write_bytes(data)

    built = slot_image.build(RELEASE, project)
    put("unsigned.img", built.content)
    put("signed.img", slot_image.sign_image(built.content, pki / "release.key"))
    put("romfs", built.content[4096:])
    put("romfs.small", romfs.pack({"a/b/c": b"1", "a/d": b"22", "e": b"\0" * 300}))
    symbols.write_build(folder / "x.img", RELEASE, built)
    compiled = sorted(built.files.values(), key=len)
    put("small.mpy", compiled[0])
    put("large.mpy", compiled[-1])
    put("micropython.bin", make_micropython())
    put("partitions.csv", LAYOUT.read_bytes())
    put("table", flash.build_table(layout))
    settings = SETTINGS
    flash_file.provision(settings, pki, folder / "signed.img", project, folder / "flash.bin")
    chip = flash.Flash.load(folder / "flash.bin")
    put("identity", chip.read("esp_secure_cert"))
    put("vfs", chip.read("vfs"))
    put("tree", filesystem.pack({"/a/b/c": b"1" * 9000, "/d": b"", "/e/f": b"2"}, 16))
    board, _ = real_flash.build_board_flash(folder / "micropython.bin", folder / "flash.bin")
    put("board.bin", bytes(board.content))
    chain, key = authority.issue_device(pki, "dev-0001")
    put("chain.pem", chain)
    put("key.pem", key)
    put("stored.key", identity.stored_key(key))
    for name in ("device-ca.pem", "release.pub"):
        put(name, (pki / name).read_bytes())
    put("boards.csv", b"id,mac,port,hw,wifi_ssid,wifi_key,factory\n"
        b'a,24:0a:c4:00:00:01,/dev/ttyUSB0,A1,"n ""x""",pass word,dump\nb,,,,,,\n')  # fmt: skip
    about = 'name = "a"\nmodel = "b"\nhardware = "A"\nversion = "1"\ncounter = 1\n'
    about += 'micropython = "1.25.0"\ndata = "data"\n'
    heap, servers = "reserve_kb = 32\ndata_kb = 16\n", 'host = "a.example"\nntp_port = 123\n'
    tables = {"project": about, "heap": heap, "budget": "image_kb = 80\n", "servers": servers}
    tables["packages"] = '"a/b" = { version = "v1", sha256 = "' + "0" * 64 + '" }\n'
    text = "".join(f"[{name}]\n{table}" for name, table in tables.items())
    put("signet.toml", text.encode())
    put("package.json", b'{"urls": [["a.py", "b/a.py"]], "deps": [["c", "latest"]]}')
    put("networks.toml", b'[ethernet]\nphy_type = "LAN8720"\nphy_addr = 1\nmdc = 23\nmdio = 18\n'
        b'[[wifi]]\nssid = "n"\nkey = "pass word"\naddress = "10.0.0.2/8"\n'
        b'gateway = "10.0.0.1"\n')  # fmt: skip
    pem = (pki / "release.pub").read_text()
    plan = efuse_plan.make_plan("esp32", BURN_MAC, [pem], "0" * 64)
    put("plan.json", efuse_plan.dump_plan(plan))
    put("journal", b"\n" + json.dumps({"mac": BURN_MAC, "key": "0" * 64, "done": "x"}).encode())
    put("summary.json", json.dumps(_summary(plan)).encode())
    put("sealed.bin", _sealed_flash())
    put("fleet.json", b'{"pid": 1, "broker": "localhost:1", "images": "localhost:2", "ntp": "h:3"}')
    put("message.json", b'{"version": "1.0.0", "open": [], "memory": {"free": 1}}')
    token = service_token.make_token("dev-0001", 1_700_000_000, 1_700_003_600)
    put("token", documents.sign_document(token, pki / "release.key"))
    figures.save(folder / "figures.json", "command", [
        figures.Run("b", True, "today", rows=[figures.Row("s", 1.0, {"live": 1})])])  # fmt: skip
    inventory = Inventory(location(None, folder))
    with inventory.changing() as session:
        session.add(Device(
            id="dev-0001", status="done", serial="00", model="m", hw="A1", profile="dev",
            version="1", flash="f", started_at="2026-01-01"))  # fmt: skip
        audit.append(session, "provision", "dev-0001", "done")


def _summary(plan: efuse_plan.Plan) -> dict[str, dict[str, Any]]:
    """As espefuse prints that of a blank chip, but for what no step asks for."""
    blank = {"raw_value": "0x0", "value": 0, "readable": True, "writeable": True}
    found = {step.efuse: dict(blank) for step in plan.steps}
    for name in ("RD_DIS", "CODING_SCHEME", "ABS_DONE_0", "WAFER_VERSION_MINOR", plan.chip.cache):
        found.setdefault(name, dict(blank))
    found["WAFER_VERSION_MAJOR"] = dict(blank, raw_value="0x3")
    found["MAC"] = dict(blank, value=f"{plan.mac} (OK)")
    for block in (plan.chip.flash_block, *plan.chip.digest_blocks):
        found[block] = dict(blank, raw_value="0x" + "00" * 32)
    return found


def _sealed_flash() -> bytes:
    layout = flash.load_layout(REPO / "firmware/board/sealed/partitions-4mb.csv")
    app = esp_image.synthetic_app("v1.25.0")
    chip = flash.Flash.blank(layout, app)
    chip.write("ota_0", app)
    return bytes(chip.content)


# --- how each is called


@cache
def _plan(folder: Path) -> efuse_plan.Plan:
    return efuse_plan.load_plan(folder / "plan.json")


def _inspect(path: Path) -> object:
    return slot_image.inspect_image(path.read_bytes())


def _verify(path: Path) -> object:
    return slot_image.verify_image(path.read_bytes(), [b"\0" * 32])


def _names(path: Path) -> object:
    content = {"a.mpy": path.read_bytes()}
    return names.own_names(content), names.shorten(content, ())


def _micropython(path: Path) -> object:
    return esp_image.parse_micropython(path.read_bytes(), flash.load_layout(LAYOUT))


def _entries(path: Path) -> object:
    content = path.read_bytes()
    return secure_cert.unpack(content), identity.load_key(secure_cert.factory_key(content))


def _credentials(path: Path) -> object:
    here = path.parent.parent
    chain, key = (here / "chain.pem").read_bytes(), (here / "key.pem").read_bytes()
    data = path.read_bytes()
    for pair in ((data, key), (chain, data)):
        try:
            identity.check_device_credentials(
                *pair, "dev-0001", (here / "device-ca.pem").read_bytes()
            )
        except SignetError:
            continue
    return identity.load_key(data)


def _signature(path: Path) -> object:
    return signing.verify_bytes(path.read_bytes(), [b"\0" * 32])


def _document(path: Path) -> object:
    """What is in it, as if it had been signed."""
    text = path.read_bytes()[: -signing.BLOCK_LEN]
    with _stand_in(signing, "verify_bytes", lambda *_: b""):
        return service_token.open_token(text + bytes(signing.BLOCK_LEN), b"")


@contextlib.contextmanager
def _stand_in(module: object, name: str, function: object) -> Iterator[None]:
    """Put a function in the place of one that would need a program or a key."""
    real = getattr(module, name)
    setattr(module, name, function)
    try:
        yield
    finally:
        setattr(module, name, real)


class _Chip(efuse.Target):
    def command(self, *_: str) -> list[str]:
        return []


def _efuses(path: Path) -> object:
    plan = _plan(path.parent.parent)
    output = path.read_text(errors="replace")
    with _stand_in(efuse, "run_program", lambda *_: output):
        summary = _Chip(plan.chip).summary()
    efuse.check_chip(plan, summary)
    return efuse.survey(plan, efuse.block_contents(plan, bytes(32)), summary)


def _journal(path: Path) -> object:
    plan = _plan(path.parent.parent)
    session = burn.Session(plan, efuse.Target(plan.chip), {}, {}, path)
    return session._noted("x")


def _sealed(path: Path) -> None:
    with _stand_in(sealed_flash, "run_program", lambda *_: ""):  # whatever is signed
        sealed_flash.check_flash(path.read_bytes(), _plan(path.parent.parent))


def _symbols(path: Path) -> object:
    return names.translate("a EPERM b", symbols.read_map(path))


def _addresses(path: Path) -> object:
    path.rename(path.with_name(STATE_NAME))
    return running_address(path.parent, "broker")


def _message(path: Path) -> object:
    return Message("t", path.read_bytes(), False, 0.0).json()


def _inventory(path: Path) -> object:
    inventory = Inventory(location(str(path), Path()))
    found = devices.list_devices(inventory), devices.audit_lines(inventory)
    return found, devices.describe(inventory, "dev-0001")


def _package(path: Path) -> object:
    return packages.read_index(str(path), path.read_bytes())


PARSERS = {
    "slot image": Parser(_inspect, ("signed.img", "unsigned.img"), mutate.mend_image),
    "signed image": Parser(_verify, ("signed.img",)),
    "ROMFS": Parser(lambda path: romfs.read_files(path.read_bytes()), ("romfs.small", "romfs")),
    "littlefs": Parser(lambda path: filesystem.list_files(path.read_bytes()), ("tree", "vfs"),
                       mutate.mend_littlefs),
    "mpy": Parser(_names, ("small.mpy", "large.mpy")),
    "MicroPython": Parser(_micropython, ("micropython.bin",), heavy=True),
    "partition table": Parser(lambda path: flash.read_table(path.read_bytes()), ("table",),
                              mutate.mend_table),
    "partition CSV": Parser(flash.load_layout, ("partitions.csv",)),
    "esp_secure_cert": Parser(_entries, ("identity",), mutate.mend_entries),
    "credentials": Parser(_credentials, ("chain.pem", "key.pem", "stored.key")),
    "release key": Parser(lambda path: signing.key_digest(path), ("release.pub",)),
    "signature": Parser(_signature, ("signed.img",)),
    "document": Parser(_document, ("token",)),
    "boards CSV": Parser(boards_csv.read_boards, ("boards.csv",)),
    "networks": Parser(networks.read_networks, ("networks.toml",)),
    "eFuse plan": Parser(efuse_plan.load_plan, ("plan.json",), json=True),
    "eFuse journal": Parser(_journal, ("journal",), json=True),
    "eFuse summary": Parser(_efuses, ("summary.json",), json=True),
    "sealed flash": Parser(_sealed, ("sealed.bin",), mutate.mend_flash, heavy=True),
    "flash file": Parser(real_flash.check_file, ("board.bin", "flash.bin"), mutate.mend_flash,
                         heavy=True),
    "symbol map": Parser(_symbols, ("x.img.symbols",), json=True),
    "manifest": Parser(manifest.read_manifest, ("signet.toml",)),
    "package": Parser(_package, ("package.json",), json=True),
    "addresses": Parser(_addresses, ("fleet.json",), json=True),
    "message": Parser(_message, ("message.json",), json=True),
    "figures": Parser(figures.load, ("figures.json",), json=True),
    "inventory": Parser(_inventory, ("inventory.db",), heavy=True),
}  # fmt: skip
