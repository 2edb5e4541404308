"""Image server, time server, and the proxy that other tests put before servers."""

import http.client
import json
import socket
import ssl
import struct
import time
from email.utils import parsedate_to_datetime
from typing import Any

import pytest

from host_tests.fleet_helpers import (
    CONNACK,
    CONNECT,
    WAIT_S,
    ImageClient,
    client_context,
    exchange,
    wait_until,
)
from signet.fleet import time_server
from signet.fleet.proxy import Proxy
from signet.fleet.serving import LOOPBACK, Fleet

pytest_plugins = ["host_tests.tool_fixtures", "host_tests.fleet_fixtures"]

IMAGE = bytes(range(256)) * 1200  # 307,200 bytes: several chunks, every offset recognisable
SIZE = len(IMAGE)


@pytest.fixture(scope="module")
def image_folder(fleet, keys):
    """The folder of model m: 1.img, and what must not be served."""
    folder = fleet.folder / "images/m"
    folder.mkdir()
    (folder / "1.img").write_bytes(IMAGE)
    (folder / "1.0+b_2.img").write_bytes(b"any version that image build takes")
    (folder / "link.img").symlink_to(keys / "server.key")
    (folder.parent / "secret").write_text("secret")
    return folder


# Images


@pytest.fixture
def images(devices, fleet, image_folder):
    client = ImageClient(devices, fleet.images_port)
    yield client
    client.connection.close()


@pytest.mark.parametrize(
    ("wanted", "status", "first", "end"),
    [
        ("bytes=0-0", 206, 0, 1),
        ("bytes=0-4095", 206, 0, 4096),
        ("bytes=70000-", 206, 70000, SIZE),
        ("bytes=-4096", 206, SIZE - 4096, SIZE),
        (f"bytes=-{SIZE + 1}", 206, 0, SIZE),
        (f"bytes=100-{SIZE * 10}", 206, 100, SIZE),
        (f"bytes={SIZE - 1}-", 206, SIZE - 1, SIZE),
        ("Bytes= 5-6 ", 206, 5, 7),
        (f"bytes={SIZE}-", 416, 0, 0),
        ("bytes=-0", 416, 0, 0),
        # Not one well-formed range of bytes: ignored (RFC 9110 section 14.2).
        ("bytes=2-1", 200, 0, SIZE),
        ("bytes=0-1,4-5", 200, 0, SIZE),
        ("bytes=-", 200, 0, SIZE),
        ("blocks=0-1", 200, 0, SIZE),
        ("bytes=0-9999999999999999999999", 200, 0, SIZE),
        ("bytes=+1-2", 200, 0, SIZE),
    ],
)
def test_ranges(images, wanted, status, first, end):
    found, headers, body = images.get("/images/m/1.img", Range=wanted)
    assert found == status
    assert body == IMAGE[first:end]
    assert headers["Content-Length"] == str(end - first)
    content_range = {200: None, 206: f"bytes {first}-{end - 1}/{SIZE}", 416: f"bytes */{SIZE}"}
    assert headers["Content-Range"] == content_range[status]


def test_a_connection_serves_many_requests(images):
    images.get("/images/m/1.img", Range="bytes=0-9")
    sock = images.connection.sock
    status, headers, body = images.get("/images/m/1.img", method="HEAD")
    assert (status, headers["Content-Length"], body) == (200, str(SIZE), b"")
    assert images.get("/images/m/none.img")[0] == 404
    assert images.get("/images/m/1.img", Range="bytes=8-9")[2] == IMAGE[8:10]
    assert images.connection.sock is sock


def test_a_range_of_another_file_is_not_given(images, image_folder):
    """If-Range: the whole new file instead of the rest of the old one."""
    path = image_folder / "2.img"
    path.write_bytes(b"old" * 100)
    tag = images.get("/images/m/2.img", method="HEAD")[1]["ETag"]
    assert images.get("/images/m/2.img", Range="bytes=3-5", If_Range=tag)[0] == 206
    replacement = path.with_suffix(".new")
    replacement.write_bytes(b"new" * 100)
    replacement.replace(path)
    status, _, body = images.get("/images/m/2.img", Range="bytes=3-5", If_Range=tag)
    assert (status, body) == (200, b"new" * 100)
    date = "Sat, 21 Nov 2026 00:00:00 GMT"
    assert images.get("/images/m/2.img", Range="bytes=3-5", If_Range=date)[0] == 200


@pytest.mark.parametrize(
    "path",
    [
        "/images",
        "/images/",
        "/images/m",
        "/images/m/",
        "/images/m/none.img",
        "/images/secret",
        "/images/m/link.img",
        "/images/m/../m/1.img",
        "/images/../broker/access",
        "/images/../images.log",
        "/images/m/%2e%2e/secret",
        "/images/m/..%2fsecret.img",
        "/images/%2e%2e/broker.log",
        "/images//m/1.img",
        "/images/m/1.img%00",
        "/images/m/.img",
        "/images/./1.img",
        "//images/m/1.img",
        "/fleet.json",
    ],
)
def test_nothing_else_is_served(images, path):
    status, _, body = images.get(path)
    assert (status, body) == (404, b"not found\n")


@pytest.mark.parametrize("path", ["/", "/images/m/none.img"])
def test_every_answer_has_the_time(images, path):
    """Boards take it from there."""
    before = int(time.time())
    status, headers, body = images.get(path, method="HEAD")
    assert (status, body) == (204 if path == "/" else 404, b"")
    (date,) = headers.get_all("Date")
    assert before <= parsedate_to_datetime(date).timestamp() <= time.time()
    assert len(date) == 29


def test_uploads_are_refused(images):
    assert images.get("/images/m/1.img", method="PUT")[0] == 405
    assert images.get("/images/m/1.img", method="POST")[0] == 405


def test_requests_are_logged(images, fleet):
    path = '/images/m/1.img?"\\n'
    images.get(path, Range="bytes=10-")
    entry = wait_for_entry(fleet, path)
    assert abs(entry.pop("time") - time.time()) < WAIT_S
    assert entry == {
        "identity": "dev-0001",
        "method": "GET",
        "path": path,
        "range": "bytes=10-",
        "status": 206,
        "sent": SIZE - 10,
    }


def wait_for_entry(fleet, path):
    """A line is written when its request is over, and that can be after the client has it all."""
    entries: list[dict[str, Any]] = []

    def found() -> bool:
        log = fleet.folder / "images.log"
        lines = log.read_text().splitlines() if log.exists() else []
        entries[:] = [entry for entry in map(json.loads, lines) if entry["path"] == path]
        return bool(entries)

    wait_until(found)
    return entries[-1]


def test_a_transfer_that_breaks_is_logged_as_far_as_it_came(devices, fleet, image_folder, caplog):
    """And is no error to make noise about; and the proxy cuts where it should."""
    size = 64 << 20
    path = image_folder / "large.img"
    with path.open("wb") as file:
        file.truncate(size)
    with Proxy({"images": fleet.images_port}) as proxy:
        proxy.routes["images"].cut_after = 1 << 20
        client = ImageClient(devices, proxy.routes["images"].port)
        with pytest.raises((OSError, http.client.IncompleteRead)):
            client.get("/images/m/large.img")
        assert (1 << 20) - 1024 <= proxy.routes["images"].bytes_sent <= 1 << 20
    path.unlink()
    entry = wait_for_entry(fleet, "/images/m/large.img")
    assert caplog.records == []
    assert entry["status"] == 200
    assert 0 < entry["sent"] < size


def test_a_file_that_shrinks_ends_the_connection(images, image_folder):
    path = image_folder / "shrinks.img"
    with path.open("wb") as file:
        file.truncate(64 << 20)
        images.connection.request("GET", "/images/m/shrinks.img")
        response = images.connection.getresponse()
        file.truncate(1)
        with pytest.raises((ssl.SSLError, ConnectionError, http.client.IncompleteRead)):
            response.read()
    path.unlink()


# The proxy, on which other tests rely


def test_proxy_counts_overlapping_connections(keys, devices, fleet, image_folder):
    with Proxy({"broker": fleet.broker.port, "images": fleet.images_port}) as proxy:
        one, two = proxy.routes["broker"], proxy.routes["images"]
        device = client_context(keys, devices / "dev-0001/operator.pem")
        for _ in range(10):
            assert exchange(one.port, device, CONNECT) == CONNACK
            client = ImageClient(devices, two.port)
            client.get("/images/m/1.img", Range="bytes=0-9")
            client.connection.close()
        assert proxy.max_open == 1
        client.get("/images/m/1.img", Range="bytes=0-9")
        assert exchange(one.port, device, CONNECT) == CONNACK
        assert proxy.max_open == 2
        client.connection.close()
        assert (one.connections, two.connections) == (11, 11)


def test_proxy_faults(keys, fleet):
    operator = client_context(keys, keys / "operator.pem")
    with Proxy({"broker": fleet.broker.operators_port}) as proxy:
        route = proxy.routes["broker"]
        assert exchange(route.port, operator, CONNECT) == CONNACK
        route.refuse = True
        assert exchange(route.port, operator, CONNECT) == b""
        route.refuse, route.stall_after = False, 0
        with (
            socket.create_connection((LOOPBACK, route.port), 0.5) as raw,
            pytest.raises(TimeoutError),
        ):
            operator.wrap_socket(raw, server_hostname=LOOPBACK)
        route.stall_after = None
        wait_until(lambda: proxy.open == 0)
        with socket.create_connection((LOOPBACK, route.port), WAIT_S) as raw:
            wait_until(lambda: proxy.open == 1)
            proxy.drop()
            with pytest.raises(ConnectionResetError):
                raw.recv(1)


# Time

ORIGINATE = bytes(range(8))


def ask_time(port: int, request: bytes) -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(WAIT_S)
        sock.connect((LOOPBACK, port))
        sock.send(request)
        return sock.recv(100)


def make_request(first_byte: int = 0x23) -> bytes:
    return bytes([first_byte, 0, 6]) + bytes(37) + ORIGINATE


@pytest.mark.parametrize("version", [1, 2, 3, 4])
def test_sntp_reply(fleet, version):
    """Field by field, RFC 4330 section 4 and the table in section 5."""
    before = time.time()
    reply = ask_time(fleet.ntp_port, make_request(version << 3 | 3))
    after = time.time()
    assert len(reply) == 48
    fields = struct.unpack("!BBBbII4s8s8sQQ", reply)
    assert fields[0] == version << 3 | 4  # no leap warning, the client's version, server
    assert 1 <= fields[1] <= 15
    assert fields[2] == 6  # poll, copied
    assert fields[6] == b"LOCL"
    assert fields[8] == ORIGINATE
    received, transmitted = (stamp / 2**32 - 2_208_988_800 for stamp in fields[9:])
    assert before - 0.001 <= received <= transmitted <= after + 0.001


@pytest.mark.parametrize(
    ("unix_ns", "stamp"),
    [
        (0, 2_208_988_800 << 32),  # RFC 4330 section 3: 1970
        (1_500_000_000, (2_208_988_801 << 32) + (1 << 31)),
        (2_085_978_496_000_000_000, 0),  # 2036-02-07 06:28:16, the start of era 1
        (2_085_978_495_999_999_999, (1 << 64) - 5),
    ],
)
def test_sntp_timestamps(unix_ns, stamp):
    reply = time_server.answer_sntp(make_request(), unix_ns)
    assert reply is not None
    assert struct.unpack_from("!Q", reply, 40)[0] == stamp


@pytest.mark.parametrize(
    "request_",
    [
        b"",
        make_request()[:47],
        make_request(0x24),  # a server's
        make_request(0x21),  # symmetric active
        make_request(0x26),  # control message
        make_request(0x27),  # private (the old monlist)
        make_request(0x03),  # version 0
        make_request(0x2B),  # version 5
    ],
)
def test_sntp_ignores_what_is_no_request(request_):
    assert time_server.answer_sntp(request_, 0) is None


def test_sntp_reply_is_no_longer_than_the_request(fleet):
    assert len(ask_time(fleet.ntp_port, make_request() + bytes(20))) == 48


def test_time_server_tells_the_clock_it_is_given(keys, tmp_path):
    with Fleet(tmp_path / "fleet", keys, clock_ns=lambda: 1_000_000_000) as fleet:
        reply = ask_time(fleet.ntp_port, make_request())
    assert struct.unpack_from("!I", reply, 40)[0] == 2_208_988_801
