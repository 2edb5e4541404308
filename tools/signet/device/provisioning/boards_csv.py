"""The list of boards to provision: a CSV file with a header.

    id           device id, as --id; required
    mac          aa:bb:cc:dd:ee:ff; the board has to have it
    port         serial port, for a real board: /dev/ttyUSB0
    hw           hardware revision, instead of --hw
    wifi_ssid    network to join, instead of --wifi-ssid
    wifi_key     its passphrase; the file must be readable by its owner only then
    address      static address with its netmask, 192.168.7.5/24, in the network that is tried first
    gateway      needed with it
    dns          name server; without it the gateway
    factory      esp_secure_cert dump of a module that Espressif provisioned

The columns may be in any order; nothing else is known. The whole file is read and checked, and all
that is wrong is said at once, before anything is touched.
"""

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from signet import files
from signet.board.serial_device import check_name
from signet.device.networks import (
    Addresses,
    Wifi,
    check_private,
    check_wifi,
    parse_addresses,
)
from signet.device.settings import HARDWARE
from signet.errors import SignetError, listed
from signet.pki import names

COLUMNS = (
    "id", "mac", "port", "hw", "wifi_ssid", "wifi_key", "address", "gateway", "dns", "factory",
)  # fmt: skip
_UNIQUE = ("id", "mac", "factory")
_MAC = re.compile("([0-9a-f]{2}:){5}[0-9a-f]{2}")
_GROUP_BIT = 1  # of the first byte: not the address of one station (IEEE 802)


@dataclass(frozen=True)
class Board:
    """A board to provision; what is None is for the whole run to say."""

    id: str
    mac: str | None = None
    port: str | None = None
    hw: str | None = None
    wifi: Wifi | None = None
    factory: Path | None = None
    addresses: Addresses | None = None


def read_boards(path: Path) -> list[Board]:
    """All boards of the file, at least one. Raises SignetError with the lines that are wrong."""
    try:
        text = files.read_file(path, "list of boards").decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SignetError(f"{path}: not UTF-8: byte {error.start}") from error
    boards: list[Board] = []
    problems: list[str] = []
    seen: dict[tuple[str, str], int] = {}
    for line, cells in _rows(path, text, problems):
        try:
            _check_unique(cells, line, seen)
            boards.append(_board(cells))
        except SignetError as error:
            problems.append(f"{path}:{line}: {error}")
    if not boards and not problems:
        problems.append(f"{path}: no boards, expected a line for each below the header")
    if problems:
        raise SignetError(listed(problems))
    if any(board.wifi and board.wifi.key for board in boards):
        check_private(path)
    return boards


def _rows(path: Path, text: str, problems: list[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and cells by column of every row; what has no such form goes to `problems`."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(reader, [])
        unknown = [name for name in header if name not in COLUMNS]
        if unknown or "id" not in header or len(set(header)) < len(header):
            raise SignetError(
                f"{path}:1: columns {','.join(header)!r}, expected id and any of "
                f"{','.join(COLUMNS[1:])}, each once"
            )
        for cells in reader:
            if len(cells) == len(header):
                yield reader.line_num, dict(zip(header, cells, strict=True))
            elif cells:  # not an empty line
                problems.append(
                    f"{path}:{reader.line_num}: {len(cells)} cells, expected {len(header)}"
                )
    except csv.Error as error:
        problems.append(f"{path}:{reader.line_num}: not CSV: {error}")


def _check_unique(cells: dict[str, str], line: int, seen: dict[tuple[str, str], int]) -> None:
    for column in _UNIQUE:
        value = cells.get(column, "").lower() if column == "mac" else cells.get(column, "")
        if value:
            first = seen.setdefault((column, value), line)
            if first != line:
                raise SignetError(f"{column} {value!r} is on line {first} already")


def _board(cells: dict[str, str]) -> Board:
    names.check_device_id(cells["id"])
    hw = cells.get("hw") or None
    if hw is not None and not HARDWARE.fullmatch(hw):
        raise SignetError(f"hw {hw!r}, expected the form {HARDWARE.pattern}")
    factory = cells.get("factory")
    return Board(
        cells["id"],
        parse_mac(cells["mac"]) if cells.get("mac") else None,
        check_name(cells["port"]) if cells.get("port") else None,
        hw,
        _wifi(cells.get("wifi_ssid", ""), cells.get("wifi_key", "")),
        Path(factory) if factory else None,
        parse_addresses(*(cells.get(name, "") for name in ("address", "gateway", "dns"))),
    )


def _wifi(ssid: str, key: str) -> Wifi | None:
    if not ssid:
        if key:
            raise SignetError("wifi_key without wifi_ssid")
        return None
    wifi = Wifi(ssid, key)
    check_wifi(wifi)
    return wifi


def parse_mac(text: str) -> str:
    """A MAC address in lower case; SignetError unless it is that of one station."""
    mac = text.lower()
    if not _MAC.fullmatch(mac) or int(mac[:2], 16) & _GROUP_BIT:
        raise SignetError(f"mac {text!r}, expected a station's: 24:0a:c4:12:34:56")
    return mac
