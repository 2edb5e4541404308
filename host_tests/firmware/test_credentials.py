"""firmware.ondemand.credentials: the client id, which brokers that do not know better go by."""

import hashlib
import sys
from types import SimpleNamespace

import pytest

DEVICES = 2000  # more than 16 bits keep apart: 255 pairs are to be expected


@pytest.fixture
def client_id(load, monkeypatch):
    """The client id of a device by its id and its private key."""
    monkeypatch.setitem(sys.modules, "mtls", SimpleNamespace(client_context=lambda *_: None))
    credentials = load("ondemand.credentials")

    def make(device_id: str, key: bytes) -> str:
        identity = SimpleNamespace(
            key=key, certificate=b"", ca=b"", record=lambda: {"id": device_id}
        )
        monkeypatch.setattr(credentials, "Identity", lambda _: identity)
        _, found = credentials.load(None)
        assert isinstance(found, str)
        return found

    return make


def test_a_client_id_is_the_same_at_each_start(client_id):
    assert client_id("dev-0001", b"key") == client_id("dev-0001", b"key")


def test_no_two_devices_have_the_same_client_id(client_id):
    """Nor one that can be told from what others see of a device, its id."""
    made = {client_id("dev-0001", b"key %d" % number) for number in range(DEVICES)}
    assert len(made) == DEVICES
    assert client_id("dev-0001", b"key") != client_id("dev-0002", b"key")


def test_a_client_id_cannot_be_guessed(client_id):
    """64 bits of a digest of the private key; and it is not the key's own, which may be known."""
    device_id, _, secret = client_id("dev-0001", b"key").rpartition("-")
    assert device_id == "dev-0001"
    assert len(bytes.fromhex(secret)) == 8
    assert secret not in hashlib.sha256(b"key").hexdigest()
    assert secret == hashlib.sha256(b"signet client id" + b"key").hexdigest()[:16]
