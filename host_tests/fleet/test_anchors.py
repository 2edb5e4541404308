"""Who may connect to which server, and whom clients take for one: told by who signed it."""

import socket
import ssl
import subprocess
import threading
from typing import Any

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from host_tests.fleet_helpers import (
    CONNACK,
    CONNECT,
    WAIT_S,
    client_context,
    exchange,
    forge,
    put_credentials,
)
from signet.device import flash_file
from signet.errors import SignetError
from signet.fleet.serving import LOOPBACK, Fleet
from signet.fleet.session import OperatorSession
from signet.pki import authority, names

pytest_plugins = ["host_tests.tool_fixtures", "host_tests.fleet_fixtures"]

GET = b"GET /images/m/1.img HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
OPERATOR, SERVICE = names.OPERATOR_NAME, names.SERVICE_NAME
CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH
# What can be signed with a CA's key: issuer, subject, and more.
FORGED: dict[str, tuple[Any, ...]] = {
    "device CA, operator's name": ("device-ca", OPERATOR),
    "device CA, service's name": ("device-ca", SERVICE),
    "device CA, operator's name behind another": ("device-ca", f"O=x,CN={OPERATOR}"),
    "device CA, operator's name before another": ("device-ca", f"CN={OPERATOR},CN=dev-0001"),
    "device CA, operator's name and a DNS name": ("device-ca", OPERATOR, CLIENT, "a.example"),
    "device CA, no device's name": ("device-ca", "operator:demo"),
    "operator CA, device's name": ("operator-ca", "dev-0001"),
    "operator CA, device's name before its own": ("operator-ca", f"CN=dev-0001,CN={OPERATOR}"),
    "operator CA, an operator of its own": ("operator-ca", f"CN={OPERATOR},O=Ann"),
    "service CA, device's name": ("service-ca", "dev-0001"),
    "service CA, operator's name": ("service-ca", OPERATOR),
    "service CA, operator's name behind its own": ("service-ca", f"CN={SERVICE},CN={OPERATOR}"),
}


@pytest.fixture(scope="module")
def contexts(keys, devices, tmp_path_factory):
    """Contexts of clients, by what they are or what is wrong with them."""
    folder = tmp_path_factory.mktemp("foreign")
    authority.init_pki(folder / "pki", ["localhost"])
    put_credentials(folder / "device", keys, *authority.issue_device(folder / "pki", "dev-0001"))
    device = devices / "dev-0001/operator.pem"
    esp32 = client_context(keys, device)  # stock builds have no TLS 1.3
    esp32.maximum_version = ssl.TLSVersion.TLSv1_2
    old = client_context(keys, device)
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    forged = {
        name: client_context(keys, forge(keys, folder / f"{number}.pem", *certificate))
        for number, (name, certificate) in enumerate(FORGED.items())
    }
    return forged | {
        "operator": client_context(keys, keys / "operator.pem"),
        "service": client_context(keys, keys / "service.pem"),
        "device": client_context(keys, device),
        "device, TLS 1.2": esp32,
        "no certificate": client_context(keys, None),
        "foreign CA": client_context(keys, folder / "device/operator.pem"),
        "server": client_context(keys, keys / "server.pem"),
        "TLS 1.1": old,
        "plain TCP": None,
    }


ADMITTED = {
    "devices": ("device", "device, TLS 1.2", "device CA, no device's name"),
    "operators": ("operator", "operator CA, an operator of its own"),
    "services": ("service", "service CA, operator's name behind its own"),
    "images": ("device", "device, TLS 1.2", "device CA, no device's name"),  # the last gets a 403
}
CLIENTS = (
    "operator", "service", "device", "device, TLS 1.2", *FORGED,
    "no certificate", "foreign CA", "server", "TLS 1.1", "plain TCP",
)  # fmt: skip


@pytest.mark.parametrize("server", ADMITTED)
@pytest.mark.parametrize("client", CLIENTS)
def test_who_may_connect(fleet, contexts, server, client):
    """It is told by who signed the certificate; and no CA can sign another's names."""
    port, request, answer = {
        "devices": (fleet.broker.port, CONNECT, CONNACK),
        "operators": (fleet.broker.operators_port, CONNECT, CONNACK),
        "services": (fleet.broker.services_port, CONNECT, CONNACK),
        "images": (fleet.images_port, GET, b"HTTP/1.1"),
    }[server]
    accepted = client in ADMITTED[server]
    assert exchange(port, contexts[client], request) == (answer if accepted else b"")


def test_old_tls_is_refused_for_its_version(fleet, contexts):
    """Not for its weak ciphers. (asyncio's TLS drops the alert: the image server just closes.)"""
    with (
        socket.create_connection((LOOPBACK, fleet.broker.port), WAIT_S) as raw,
        pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"),
    ):
        contexts["TLS 1.1"].wrap_socket(raw, server_hostname=LOOPBACK)


SERVER = ExtendedKeyUsageOID.SERVER_AUTH
SERVERS = {
    "the server CA's": ("server-ca", SERVER, True),
    "the server CA's, for clients": ("server-ca", CLIENT, False),
    "the device CA's": ("device-ca", SERVER, False),
    "the operator CA's": ("operator-ca", SERVER, False),
    "the service CA's": ("service-ca", SERVER, False),
    "a device's own": ("device-ca", CLIENT, False),
}


@pytest.fixture(params=SERVERS)
def fake_server(request, keys, tmp_path):
    """(port, good) of a TLS server; its certificate is forged, and good if the first one's."""
    issuer, usage, good = SERVERS[request.param]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    path = forge(keys, tmp_path / "fake.pem", issuer, LOOPBACK, usage)
    path.write_bytes(path.read_bytes() + (keys / f"{issuer}.pem").read_bytes())
    context.load_cert_chain(path, path.with_suffix(".key"))
    with socket.create_server((LOOPBACK, 0)) as listener:

        def serve() -> None:
            try:
                with context.wrap_socket(listener.accept()[0], server_side=True) as sock:
                    sock.sendall(b"welcome")
            except OSError:
                pass  # the client refused, as it should

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1], good
        thread.join()


def test_only_the_server_ca_makes_a_server(keys, fake_server):
    """Or who has the bench's key could play broker to all the others: for the tools, …"""
    port, good = fake_server
    operator = OperatorSession(keys, f"{LOOPBACK}:{port}", timeout_s=WAIT_S)
    # The good certificate only gets the fake server as far as being no broker.
    why = "did not|closed" if good else "unsuitable certificate purpose|certificate verify failed"
    with pytest.raises(SignetError, match=why), operator:
        pass


def test_only_the_server_ca_makes_a_server_for_boards(
    keys, fake_server, project, signed_file, micropython, tmp_path
):
    """… and for boards: with the CA that provisioning burns into one, by mbedTLS."""
    port, good = fake_server
    template = flash_file.prepare(keys, signed_file, project, "signet-demo", "dev")
    (tmp_path / "ca.pem").write_bytes(template.ca)
    script = tmp_path / "client.py"
    script.write_text(
        "import socket, sys, tls\n"
        "context = tls.SSLContext(tls.PROTOCOL_TLS_CLIENT)\n"
        "context.verify_mode = tls.CERT_REQUIRED\n"
        "context.load_verify_locations(open(sys.argv[1], 'rb').read())\n"
        "sock = socket.socket()\n"
        f"sock.connect(socket.getaddrinfo('{LOOPBACK}', {port})[0][-1])\n"
        "try:\n"
        f"    print(context.wrap_socket(sock, server_hostname='{LOOPBACK}').read(7))\n"
        "except (OSError, ValueError) as error:\n"
        "    print('refused:', error)\n"
    )
    done = subprocess.run(
        [micropython, script, tmp_path / "ca.pem"], capture_output=True, text=True, timeout=WAIT_S
    )
    assert ("welcome" in done.stdout) == good, done
    assert ("refused:" in done.stdout) != good, done


@pytest.mark.parametrize(
    ("hosts", "foreign", "why"),
    [(["elsewhere.example"], False, "mismatch"), ([LOOPBACK], True, "verify failed")],
)
def test_the_operator_checks_the_broker(tmp_path, hosts, foreign, why):
    """Host name and CA; what it says with the right ones is in every other test."""
    authority.init_pki(tmp_path / "pki", hosts)
    trusted = tmp_path / "pki"
    if foreign:
        trusted = tmp_path / "other"
        authority.init_pki(trusted, hosts)
    with Fleet(tmp_path / "fleet", tmp_path / "pki") as fleet:
        operator = OperatorSession(trusted, fleet.addresses["operators"])
        with pytest.raises(SignetError, match=why), operator:
            pass
