"""The relay's decisions, without a board."""

import pytest
from relay import Relay


@pytest.fixture
def pin():
    """What the pin was set to, in order."""

    class Pin(list):
        __call__ = list.append

    return Pin()


def test_it_is_open_at_first_and_after_its_time(pin):
    relay = Relay(pin)
    relay.switch_on(100, 60)
    assert [relay.left_s(now_s) for now_s in (100, 159)] == [60, 1]
    assert pin == [0, 1]
    assert relay.left_s(160) == 0
    assert pin == [0, 1, 0]
    assert not relay.is_on


def test_a_later_command_counts_anew(pin):
    relay = Relay(pin)
    relay.switch_on(100, 60)
    relay.switch_on(150, 60)
    assert relay.left_s(160) == 50
    relay.switch_off()
    assert relay.left_s(161) == 0
    assert pin[-1] == 0
