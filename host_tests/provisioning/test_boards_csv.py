"""boards_csv: a list of boards is right to its last cell, or it says which lines are not."""

from pathlib import Path

import pytest

from signet.device.networks import Wifi
from signet.device.provisioning import boards_csv
from signet.device.provisioning.boards_csv import Board
from signet.errors import SignetError


def write(folder: Path, text: str | bytes, mode: int = 0o600) -> Path:
    path = folder / "boards.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.chmod(mode)
    return path


def test_all_columns(tmp_path):
    path = write(
        tmp_path,
        "\ufeffmac,id,wifi_key,wifi_ssid,port,hw,factory,address,gateway,dns\r\n"
        '24:0A:C4:00:00:01,dev-1,"pass,word 1","café ""x""",/dev/ttyUSB0,B2,dumps/1.bin,,,\r\n'
        "\r\n"
        ",dev-2,,,,,,192.168.7.5/24,192.168.7.1,9.9.9.9\r\n",
    )
    assert boards_csv.read_boards(path) == [
        Board("dev-1", "24:0a:c4:00:00:01", "/dev/ttyUSB0", "B2",
              Wifi('café "x"', "pass,word 1"), Path("dumps/1.bin")),
        Board("dev-2", addresses=("192.168.7.5", "255.255.255.0", "192.168.7.1", "9.9.9.9")),
    ]  # fmt: skip


BAD = {
    "empty": ("", "boards.csv:1: columns '', expected id and any of mac,port"),
    "no boards": ("id,mac\n", "boards.csv: no boards"),
    "no id column": ("mac\n24:0a:c4:00:00:01\n", "boards.csv:1: columns 'mac', expected id"),
    "unknown column": ("id,ssid\na,b\n", "boards.csv:1: columns 'id,ssid'"),
    "column twice": ("id,id\na,b\n", "boards.csv:1: columns 'id,id'"),
    "space in the header": ("id, mac\na,b\n", "boards.csv:1: columns 'id, mac'"),
    "too few cells": ("id,mac\na\n", "boards.csv:2: 1 cells, expected 2"),
    "too many cells": ("id\na,b\n", "boards.csv:2: 2 cells, expected 1"),
    "bad id": ("id\nDev 1\n", "boards.csv:2: device id 'Dev 1'"),
    "path as id": ("id\n../a\n", "boards.csv:2: device id '../a'"),
    "no id": ("id,mac\n,24:0a:c4:00:00:01\n", "boards.csv:2: device id ''"),
    "bad mac": ("id,mac\na,240ac4000001\n", "boards.csv:2: mac '240ac4000001', expected"),
    "group mac": ("id,mac\na,01:00:5e:00:00:01\n", "boards.csv:2: mac '01:00:5e:00:00:01'"),
    "id twice": ("id\na\nb\na\n", "boards.csv:4: id 'a' is on line 2 already"),
    "mac twice": (
        "id,mac\na,24:0a:c4:00:00:0a\nb,24:0A:C4:00:00:0A\n",
        "boards.csv:3: mac '24:0a:c4:00:00:0a' is on line 2 already",
    ),
    "dump twice": ("id,factory\na,x\nb,x\n", "boards.csv:3: factory 'x' is on line 2"),
    "URL as port": (
        "id,port\na,spy:///dev/ptmx?file=/root/x\n",
        "boards.csv:2: port 'spy:///dev/ptmx?file=/root/x': expected a serial device such as "
        "/dev/ttyUSB0, found a URL",
    ),
    "option as port": ("id,port\na,--before\n", "boards.csv:2: port '--before': expected"),
    "bad hw": ("id,hw\na,A 1\n", "boards.csv:2: hw 'A 1'"),
    "key without name": ("id,wifi_key\na,password1\n", "boards.csv:2: wifi_key without wifi_ssid"),
    "short key": ("id,wifi_ssid,wifi_key\na,w,short\n", "boards.csv:2: Wi-Fi passphrase of 5"),
    "address without netmask": ("id,address\na,10.0.0.1\n", "boards.csv:2: address '10.0.0.1'"),
    "address without gateway": ("id,address\na,10.0.0.1/8\n", "boards.csv:2: address '10.0.0.1/8'"),
    "gateway alone": ("id,gateway\na,10.0.0.1\n", "boards.csv:2: gateway without address"),
    "open quote": ('id\na\n"b\n', "boards.csv:3: not CSV: unexpected end of data"),
    "text behind a quote": ('id\n"a"b\n', "boards.csv:2: not CSV"),
    "not UTF-8": (b"id\n\xff\n", "boards.csv: not UTF-8: byte 3"),
    "NUL": ("id\na\0\n", "boards.csv:2:"),
}


@pytest.mark.parametrize(("text", "reason"), BAD.values(), ids=BAD)
def test_what_is_wrong_is_named_with_its_line(tmp_path, text, reason):
    with pytest.raises(SignetError) as failure:
        boards_csv.read_boards(write(tmp_path, text))
    assert reason in str(failure.value)
    assert failure.value.exit_code == 2


def test_all_mistakes_are_named_at_once_up_to_ten(tmp_path):
    text = "id\n" + "".join(f"Dev{n}\n" for n in range(12))
    with pytest.raises(SignetError) as failure:
        boards_csv.read_boards(write(tmp_path, text))
    lines = str(failure.value).splitlines()
    assert len(lines) == 11
    assert ":11: device id 'Dev9'" in lines[9]
    assert lines[10] == "  and 2 more"


def test_a_line_number_counts_lines_not_rows(tmp_path):
    text = 'id,wifi_ssid\na,"two\nlines"\nB,x\n'
    with pytest.raises(SignetError, match=r"boards\.csv:4: device id 'B'"):
        boards_csv.read_boards(write(tmp_path, text))


def test_a_passphrase_is_for_its_owner_and_never_shown(tmp_path):
    text = "id,wifi_ssid,wifi_key\na,works,correct horse\n"
    with pytest.raises(SignetError, match="can be read by others") as failure:
        boards_csv.read_boards(write(tmp_path, text, 0o644))
    assert failure.value.hint == f"chmod 600 {tmp_path / 'boards.csv'}"
    assert "correct" not in str(failure.value)
    assert boards_csv.read_boards(write(tmp_path, text))
    assert boards_csv.read_boards(write(tmp_path, "id,wifi_ssid,wifi_key\na,open,\n", 0o644))
