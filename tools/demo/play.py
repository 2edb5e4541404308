"""`make demo`: all of Signet on one machine, in eight steps, with every claim checked.

A virtual ESP32 runs the unmodified firmware under MicroPython with an ESP32's heap; broker, image
server, certificates and signatures are real. Everything is below build/demo. The exit code is 0
only if every step held.
"""

import contextlib
import hashlib
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click

from demo.cases import CASES, refuse_and_recover
from demo.stage import DEVICE, MODEL, OTHER_DEVICE, Stage, claim_folder
from demo.transcript import NotHeldError, Transcript
from signet.errors import SignetError
from signet.fleet.reports import Report
from signet.fleet.serving import LOOPBACK
from signet.formats.flash import Flash
from signet.run import run_program
from signet.sources import SOURCE
from trust.identity import Identity

WATCHDOG_S = 6
_MQTT_CONNECT = b"\x10\x0f\0\x04MQTT\x04\x02\0\x3c\0\x03who"
_HTTP_GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


def make_fleet(stage: Stage) -> str:
    hosts = ["localhost", "127.0.0.1", *([stage.host] if stage.host else [])]
    command = ("pki", "init", str(stage.pki), *(f"--host={host}" for host in hosts))
    stage.signet(*command)
    keys = {path: path.read_bytes() for path in sorted(stage.pki.glob("*.key"))}
    stage.check(
        f"{len(keys)} private keys with mode 0600: " + ", ".join(path.stem for path in keys),
        keys and all(path.stat().st_mode & 0o777 == 0o600 for path in keys),
    )
    stage.show.said(stage.signet(*command, code=1))
    stage.check(
        "a second run overwrote none of them",
        all(path.read_bytes() == content for path, content in keys.items()),
    )
    return f"{len(keys)} keys, never overwritten"


def build_release(stage: Stage) -> str:
    now = int(time.time())
    unsigned, again = (_build(stage, "1.0.0", 1, now, name) for name in ("1.0.0", "again"))
    content = unsigned.read_bytes()
    stage.check(
        f"built twice, the same bytes: SHA-256 {hashlib.sha256(content).hexdigest()[:32]}…",
        content == again.read_bytes(),
    )
    signed = _sign(stage, unsigned)
    key = stage.pki / "release.pub"
    run_program("espsecure", "verify-signature", "--version", "2", "--keyfile", key, signed)
    stage.show.held("espsecure verify-signature accepts it, and so does our own verifier")
    return f"{len(content)} bytes, reproducible, signed"


def provision(stage: Stage) -> str:
    stage.flash.parent.mkdir()
    addresses = stage.fleet.addresses
    stage.signet(
        "device", "provision", "--pki", stage.pki, "--id", DEVICE, "--model", MODEL, "--hw", "A1",
        "--broker", addresses["broker"], "--images", addresses["images"], "--ntp", addresses["ntp"],
        "--watchdog-s", str(WATCHDOG_S), "--image", stage.folder / "1.0.0.img", "-o", stage.flash,
    )  # fmt: skip
    _check_slot(stage, "a", "1.0.0", floor=1)
    if stage.host:
        _provision_for_host(stage)
    return f"{DEVICE}, 1.0.0 in slot a"


def _provision_for_host(stage: Stage) -> None:
    """A second device, for a real board or an emulator: it knows this machine as `stage.host`."""
    addresses = stage.fleet.addresses
    ports = {name: addresses[name].rpartition(":")[2] for name in ("broker", "images", "ntp")}
    path = stage.folder / "device/flash.bin"
    path.parent.mkdir()
    stage.signet(
        "device", "provision", "--pki", stage.pki, "--id", OTHER_DEVICE, "--model", MODEL,
        "--hw", "A1", *(f"--{name}={stage.host}:{port}" for name, port in ports.items()),
        *(["--wifi-ssid", stage.wifi] if stage.wifi else []),
        "--image", stage.folder / "1.0.0.img", "-o", path,
    )  # fmt: skip
    record = Identity(Flash.load(path).device("esp_secure_cert")).record()
    stage.check(
        f"{OTHER_DEVICE}, for a real board or an emulator, knows this machine as {stage.host}",
        all(record[name] == f"{stage.host}:{port}" for name, port in ports.items()),
    )


def start_servers(stage: Stage) -> str:
    stage.start_servers()
    for name, address in stage.fleet.addresses.items():
        stage.show.said(f"{name:9} {address}")
    stage.check(
        "to a client without a certificate, broker and image server say nothing",
        not stage.answers_without_certificate(stage.fleet.broker.port, _MQTT_CONNECT)
        and not stage.answers_without_certificate(stage.fleet.images_port, _HTTP_GET),
    )
    with stage.open_as_device("dev-0666") as other:
        try:
            other.publish(f"signet/{DEVICE}/up/state", b"{}")
        except SignetError as error:
            stage.show.said(f"dev-0666 is told: {error}")
        else:
            raise NotHeldError(f"dev-0666 could speak for {DEVICE}")
    stage.show.held("a device with a certificate of its own cannot speak for another")
    return "mutual TLS, topics by identity"


def power_on(stage: Stage) -> str:
    mark = stage.mark
    stage.board.power_on(record_flash=True)
    state = stage.reports.wait_for_state(mark, version="1.0.0", status="confirmed")
    stage.show.said(f"{DEVICE} reports: {_brief(state)}")
    telemetry = stage.reports.wait_for("telemetry", lambda kind, _: kind == "telemetry", mark)
    stage.show.said(f"{DEVICE} telemetry: {telemetry}")
    stage.check(
        "it verified slot a, connected with its own certificate, and reports",
        state["online"] and state["id"] == DEVICE,
    )
    return "1.0.0 verified, online"


def update(stage: Stage) -> str:
    signed = _sign(stage, _build(stage, "1.1.0", 2, int(time.time()), "1.1.0"))
    mark, started = stage.mark, time.monotonic()
    printed = stage.signet(
        "release", "publish", "--pki", stage.pki, "--fleet", stage.fleet.folder,
        "--device", DEVICE, "--image", signed,
    )  # fmt: skip
    stage.show.said(printed)
    for result in ("accepted", "trying", "confirmed"):
        stage.wait_for_update(result, mark)
    state = stage.reports.wait_for_state(mark, version="1.1.0", status="confirmed")
    elapsed_s = time.monotonic() - started
    stage.show.said(f"{DEVICE} reports: {_brief(state)}")
    _check_slot(stage, "b", "1.1.0", floor=2)
    requests = stage.requests()
    stage.check(
        f"the image server answered {len(requests)} range requests, all of {DEVICE}",
        requests and all((r["identity"], r["status"]) == (DEVICE, 206) for r in requests),
    )
    return f"confirmed after {elapsed_s:.1f} s, floor 2"


STEPS: list[tuple[str, str, Callable[[Stage], str]]] = [
    ("1  Make a fleet: keys and certificates", "keys and certificates", make_fleet),
    ("2  Build and sign release 1.0.0", "release 1.0.0", build_release),
    ("3  Provision a virtual board", "a virtual board", provision),
    ("4  Start broker, image server and time server", "servers", start_servers),
    ("5  Power on: boot.py and main.py as they are, with an ESP32's heap", "power on", power_on),
    ("6  Update to 1.1.0", "update to 1.1.0", update),
    ("7  Refuse what is wrong, recover from what goes wrong", "attacks, accidents",
     refuse_and_recover),
]  # fmt: skip


def _build(stage: Stage, version: str, counter: int, time_s: int, name: str) -> Path:
    path = stage.folder / f"{name}.unsigned"
    stage.signet(
        "image", "build", "--version", version, "--model", MODEL, "--counter", str(counter),
        "--build-time", str(time_s), "-o", path,
    )  # fmt: skip
    return path


def _sign(stage: Stage, unsigned: Path) -> Path:
    signed = unsigned.with_suffix(".img")
    stage.signet("image", "sign", unsigned, "--key", stage.pki / "release.key", "-o", signed)
    return signed


def _check_slot(stage: Stage, slot: str, version: str, floor: int) -> None:
    found = stage.evidence()
    content = (stage.folder / f"{version}.img").read_bytes()
    stage.check(
        f"slot {slot} is confirmed and holds {version}, byte for byte; security floor {floor}",
        (found.active, found.status, found.floor) == (slot, "confirmed", floor)
        and stage.holds(slot, content),
    )


def _brief(state: Report) -> str:
    return "{version} in slot {slot} is {status}, floor {floor}, order {order}".format(**state)


def play(stage: Stage) -> bool:
    """All steps, up to the first that does not hold, and the table; whether everything held."""
    started = time.monotonic()
    show = stage.show
    show.title("Signet: a virtual ESP32, from its keys to its updates")
    for title, name, step in STEPS:
        show.title(title)
        if not show.perform(name, partial(step, stage)):
            break
    show.title("8  What happened")
    show.table()
    good = len(show.rows) == len(STEPS) + len(CASES) and all(row.held for row in show.rows)
    elapsed_s = time.monotonic() - started
    if good:
        show.held(f"Every step held, in {elapsed_s:.0f} s.")
    else:
        show.failed(f"Not every step held, after {elapsed_s:.0f} s.")
    return good


def keep(stage: Stage) -> None:
    """Leave everything running until Ctrl-C, and say how to watch it."""
    host, port = stage.fleet.addresses["operators"].split(":")
    stage.show.title("The fleet goes on until Ctrl-C. To watch it, in another terminal:")
    stage.show.command(f".venv/bin/signet board console {stage.flash.parent}")
    stage.show.command(
        f".toolchain/bin/mosquitto_sub -h {host} -p {port} --cafile {stage.pki}/server-ca.pem "
        f"--cert {stage.pki}/operator.pem --key {stage.pki}/operator.key -v -t 'signet/+/up/#'"
    )
    if stage.host:
        folder = stage.folder
        stage.show.title(f"To let {OTHER_DEVICE} join it, on a real board or in an emulator:")
        stage.show.command(
            "make flash PORT=/dev/ttyUSB0 MICROPYTHON_BIN=ESP32_GENERIC-OTA-….bin "
            f"DEVICE={folder}/device"
        )
        stage.show.command(
            f".venv/bin/signet board image --micropython ESP32_GENERIC-OTA-….bin "
            f"--device {folder}/device/flash.bin -o flash.bin && make qemu FLASH=flash.bin"
        )
        stage.show.command(
            f".venv/bin/signet release publish --pki {stage.pki} --fleet {folder}/fleet "
            f"--device {OTHER_DEVICE} --image {folder}/1.1.0.img"
        )
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            time.sleep(1)


@click.command()
@click.option("--keep", "keeps", is_flag=True, help="Leave the fleet running afterwards.")
@click.option("--folder", default="build/demo", show_default=True, type=click.Path(path_type=Path),
              help="Where it all is; wiped first.")  # fmt: skip
@click.option("--host", help="Address of this machine for a second device, which a real board or "
              "an emulator (10.0.2.2) is to be.")  # fmt: skip
@click.option("--wifi", help="Name of the open Wi-Fi network that it is to join.")
@click.option("--bind", default=LOOPBACK, show_default=True, help="Where servers listen.")
def main(keeps: bool, folder: Path, host: str | None, wifi: str | None, bind: str) -> None:
    """Show Signet's main job on a virtual board; exit code 0 only if every step held."""
    os.chdir(SOURCE)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # or the broker would be left over
    try:
        with claim_folder(folder), Stage(folder, Transcript(), host, wifi, bind) as stage:
            good = play(stage)
            if keeps:
                keep(stage)
    except SignetError as error:
        click.echo(f"demo: error: {error}\ndemo: hint: {error.hint}", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        click.echo("demo: interrupted", err=True)
        sys.exit(1)
    sys.exit(0 if good else 1)
