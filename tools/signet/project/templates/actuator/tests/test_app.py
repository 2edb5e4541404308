"""The application's decisions, without a board."""

import app
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
    assert app.switch_on(relay, 100, {"for_s": 60}) == {"on": True, "left_s": 60}
    assert [relay.left_s(now_s) for now_s in (100, 159)] == [60, 1]
    assert pin == [0, 1]
    assert relay.left_s(160) == 0
    assert pin == [0, 1, 0]
    assert not relay.is_on


def test_a_later_command_counts_anew(pin):
    relay = Relay(pin)
    app.switch_on(relay, 100, {"for_s": 60})
    app.switch_on(relay, 150, {"for_s": 60})
    assert relay.left_s(160) == 50
    assert app.switch_off(relay) == {"on": False, "left_s": 0}
    assert relay.left_s(161) == 0
    assert pin[-1] == 0


@pytest.mark.parametrize("args", [{}, {"for_s": 0}, {"for_s": 3601}, {"for_s": "60"}])
def test_a_time_that_makes_no_sense_switches_nothing(pin, args):
    with pytest.raises(ValueError, match="for_s: expected 1 to 3600 seconds"):
        app.switch_on(Relay(pin), 0, args)
    assert pin == [0]
