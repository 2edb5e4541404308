"""Fixtures for tests that need real servers: one fleet a session, and devices' credentials.

A plugin, which needs the other one:
`pytest_plugins = ["host_tests.tool_fixtures", "host_tests.fleet_fixtures"]`.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from host_tests.fleet_helpers import put_credentials
from signet.fleet.serving import Fleet
from signet.pki import authority


@pytest.fixture(scope="session")
def devices(keys: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder each for dev-0001 and dev-0002, with credentials where a session looks for them."""
    folder = tmp_path_factory.mktemp("devices")
    for device in ("dev-0001", "dev-0002"):
        put_credentials(folder / device, keys, *authority.issue_device(keys, device))
    return folder


@pytest.fixture(scope="session")
def fleet(keys: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Running servers."""
    folder = tmp_path_factory.mktemp("a fleet")  # with a space: it ends up in a configuration file
    with Fleet(folder, keys) as fleet:
        yield fleet
