"""What the names in certificates look like: of devices, hosts, operators and services."""

import re

from signet.errors import SignetError

# A dot makes them names that the device CA cannot sign (signet/pki/authority.py).
OPERATOR_NAME = "operator.signet"
SERVICE_NAME = "service.signet"
DEVICE_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,30}")
HOST_NAME = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?"
                        r"(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*")  # fmt: skip


CRL_URL = re.compile(r"(?=.{1,128}\Z)https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?"
                     r"/[A-Za-z0-9._~!$&'()*+,;=:@%/?-]*")  # fmt: skip


def check_device_id(device_id: str) -> None:
    """Raise SignetError unless the id has the form that topics, CN and file names rely on."""
    if not DEVICE_ID.fullmatch(device_id):
        raise SignetError(
            f"device id {device_id!r}, expected 1 to 31 of a-z, 0-9 and '-', not starting with '-'"
        )
