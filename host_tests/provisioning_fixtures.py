"""Fixtures for the tests of `signet device`; a plugin, which needs tool_fixtures."""

import pytest

from host_tests.provisioning_bench import Bench


@pytest.fixture
def bench(tmp_path, keys, project, signed_file):
    return Bench(tmp_path, keys, project, signed_file)
