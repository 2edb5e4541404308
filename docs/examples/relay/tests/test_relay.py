"""The relay's rules: what keeps it on, and what does not."""

import pytest
from relay import Relay


class Pin(list):
    """What it was set to, in order."""

    __call__ = list.append


@pytest.fixture
def pin():
    return Pin()


@pytest.fixture
def relay(pin):
    return Relay(pin, 30_000)


def test_it_is_off_before_anything_else(pin):
    pin(1)  # as something before left it
    relay = Relay(pin, 30_000)
    assert (pin, relay.is_on, relay.why) == ([1, 0], False, "start")


def test_it_stays_on_while_there_is_a_connection(relay, pin):
    relay.switch_on(1000)
    for now_ms in range(1000, 3_600_000, 10_000):
        relay.look(now_ms, True)
    assert (relay.is_on, relay.why) == (True, "command")
    relay.switch_off()
    assert (pin, relay.why) == ([0, 1, 0], "command")


def test_it_goes_off_without_a_connection(relay, pin):
    relay.switch_on(1000)
    relay.look(5000, True)
    relay.look(34_999, False)
    assert relay.is_on
    relay.look(35_000, False)
    assert (pin, relay.why) == ([0, 1, 0], "no connection")
    relay.look(36_000, True)  # it is back, and nobody has asked for it anew
    assert not relay.is_on


def test_a_command_is_a_sign_of_a_connection(relay):
    relay.switch_on(100_000)
    relay.look(129_999, False)
    assert relay.is_on


def test_a_short_loss_is_forgotten(relay):
    relay.switch_on(0)
    for now_ms in range(0, 300_000, 10_000):
        relay.look(now_ms, now_ms % 30_000 == 0)
    assert relay.is_on


def test_a_pulse_has_an_end(relay, pin):
    relay.switch_on(1000, 250)
    relay.look(1249, True)
    assert (relay.is_on, relay.why) == (True, "pulse")
    relay.look(1250, True)
    assert (pin, relay.why) == ([0, 1, 0], "end of the pulse")


def test_a_pulse_that_is_longer_than_the_patience(relay):
    relay.switch_on(0, 60_000)
    relay.look(30_000, False)
    assert (relay.is_on, relay.why) == (False, "no connection")


def test_the_last_command_counts(relay):
    relay.switch_on(0, 250)
    relay.switch_on(100)  # for good
    relay.look(1000, True)
    assert relay.is_on
    relay.switch_on(1000, 250)  # and with an end again
    relay.look(1250, True)
    assert not relay.is_on
    relay.switch_on(2000, 250)
    relay.switch_off()
    relay.switch_on(2100)
    relay.look(2300, True)
    assert relay.is_on
