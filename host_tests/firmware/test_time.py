"""Sequences of what happens to a board's clock: lying servers, power cycles, orders, a year.

The board's own code. One after the other, for what a single step keeps, several could give away.
"""

import asyncio
import sys
from email.utils import formatdate

import pytest
import slots

from host_tests.firmware.life import DAY, LAST, Life
from host_tests.played import NOW, Load, Machine, Ticks

pytestmark = pytest.mark.usefixtures("vectors")


@pytest.fixture
def life(load: Load, machine: Machine, ticks: Ticks, monkeypatch: pytest.MonkeyPatch) -> Life:
    return Life(load, ticks, monkeypatch)


@pytest.mark.parametrize("days", [-100, -50, 50, 110, 300])
def test_a_forged_guess_is_replaced_and_nothing_of_it_lasts(life: Life, days: int) -> None:
    """Forged, then honest; a power cycle; forged again, with the image server held back; honest."""
    life.sntp = days * DAY
    life.connect()
    way = "ahead" if days > 0 else "behind"
    jump = f"time of the time server was {abs(days) * DAY} s {way}"
    assert (life.error_s, life.events) == (0, [jump])
    assert life.floor() == NOW
    life.power_on()
    life.sntp, life.images = days * DAY, None
    life.connect()
    # What is replayed from before the floor is not even a guess.
    assert life.error_s == (days * DAY if days > 0 else 0)
    assert life.agent.timed == (0 if days > 0 else None)
    assert life.floor() == NOW
    life.images = 0
    life.connect()
    assert life.error_s == 0
    assert life.events == ([jump] if days > 0 else [])
    for _ in range(3):
        life.power_on()
        life.connect()
        life.pass_time(3600)
    assert life.floor() <= life.true_s
    assert life.error_s == 0
    assert "accepted" in life.send(life.true_s - 60)


def test_orders_wait_for_the_time(life: Life) -> None:
    """SNTP set back, the image server held back: an order that expired long ago stays that."""
    expired = NOW - 100 * DAY
    for sntp in (-100 * DAY, 0, None):
        life.sntp, life.images = sntp, None
        life.power_on()
        life.connect()
        for kind, said in (("order", "refused: "), ("console", "console refused: ")):
            before = life.board.snapshot()
            assert life.send(expired, kind="down/" + kind) == said + "the time is not authenticated"
            assert len(life.reconnects) == 1
            assert life.board.snapshot() == before
    # The next one goes on by itself when the server is there again.
    life.images = 0
    assert "order expired at" in life.send(expired)
    assert len(life.reconnects) == 1
    assert "accepted" in life.send(NOW - 60)
    assert not life.reconnects


def test_an_order_comes_while_the_image_server_is_away_for_a_moment(life: Life) -> None:
    life.images = None
    life.connect()
    life.images = 0
    assert "accepted" in life.send(NOW - 60)
    assert len(life.reconnects) == 1
    assert life.agent.restart_reason == "restart to install 1.1.0"


def test_an_order_after_a_sleep_wants_a_time_of_this_run(life: Life) -> None:
    """The clock of a deep sleep is good enough to connect with, and no better."""
    life.connect()
    for images, said in ((None, "the time is not authenticated"), (0, "accepted")):
        life.power_on(is_lost=False)
        life.pass_time(3600)
        life.agent.timed, life.agent.heard = 0, NOW
        life.images, life.sntp, life.asked, life.connections = images, None, 0, 0
        life.connect()
        assert (life.agent.timed, life.asked, life.connections) == (0, 0, 0)
        assert said in life.send(life.true_s - 60)
        assert len(life.reconnects) == 1
    life.power_on(is_lost=False)
    life.agent.timed, life.agent.heard = 0, NOW
    life.connect()
    life.agent.state["time"] = NOW  # it was published
    for days, connections in ((0, 0), (2, 1)):
        life.pass_time(days * DAY)
        life.ticks.unix_s += 3600
        life.connections = 0
        life.connect()
        assert life.connections == connections
    assert (life.agent.timed, life.events) == (life.true_s, [])  # a sleep's clock may drift


def test_a_stolen_fleet_key_does_not_walk_the_clock(life: Life) -> None:
    """Each order as far ahead as the last one may have taken the clock."""
    life.connect()
    ahead = NOW + DAY
    results = []
    for _ in range(8):
        results.append(life.send(ahead, 2 * DAY))
        life.power_on()
        life.sntp = 300 * DAY
        life.connect()
        assert life.error_s == 0
        ahead += DAY
    assert "accepted" in results[0]
    assert all("order was issued at" in result for result in results[1:])
    assert life.floor() == NOW
    # Nor without a time server, when the clock starts at its floor.
    for _ in range(8):
        life.sntp = life.images = None
        life.power_on()
        life.connect()
        assert "not authenticated" in life.send(ahead, 2 * DAY)
        ahead += DAY
    assert life.floor() == NOW


def test_a_year_of_daily_corrections(life: Life) -> None:
    """A clock that drifts, a time server that lies: the floor follows the true time, no further."""
    offsets = (0, 60 * DAY, -40 * DAY, None, 3000)
    life.certificate, life.last_s = slots.certificate(last=b"20270101000000Z"), 1798761600
    for day in range(365):
        life.sntp = offsets[day % len(offsets)]
        if day % 3 == 0:
            life.power_on()
        life.connect()
        assert life.error_s == 0
        assert life.true_s - DAY - 7 <= life.floor() <= life.true_s
        life.pass_time(DAY + 7)
        life.ticks.unix_s += 5
    assert 50 < life.writes <= 365


def test_what_lasts_is_written_once_a_day(life: Life) -> None:
    for _ in range(24 * 10):
        life.power_on()
        life.connect()
        life.pass_time(3600)
    assert life.writes == 10
    asked, connections = life.asked, life.connections
    for _ in range(24 * 10):
        life.connect()
        life.pass_time(3600)
    assert life.asked == asked  # once the time was authenticated, nobody guesses
    assert life.connections <= connections + 10
    assert life.writes <= 20


def test_without_a_time_server_the_image_server_will_do(life: Life) -> None:
    """From the floor: a clock that merely stood there is nothing to report."""
    life.sntp = None
    life.connect()
    assert (life.error_s, life.events) == (0, [])
    life.pass_time(100 * DAY)
    life.power_on()
    assert life.error_s == -100 * DAY
    life.connect()
    assert (life.error_s, life.events) == (0, [])
    assert "accepted" in life.send(life.true_s - 60)


LIES: dict[str, tuple[bytes, str]] = {
    "none": (b"", "server sent date b''"),
    "malformed": (b"Date: today\r\n", "server sent date b'today'"),
    "before the floor": (b"Date: Sun, 05 Oct 2025 08:53:20 GMT\r\n", "is below the floor"),
    "before the certificate": (
        b"Date: Sat, 05 Oct 2024 08:53:20 GMT\r\n",
        "is not within its cert",
    ),
    "after the certificate": (b"Date: Mon, 05 Oct 2026 08:53:20 GMT\r\n", "is not within its cert"),
}


@pytest.mark.parametrize("name", LIES)
def test_an_image_server_whose_time_is_not_to_be_believed(life: Life, name: str) -> None:
    life.connect()  # NOW is the floor
    life.power_on()
    life.raw_date, reason = LIES[name]
    for _ in range(5):
        life.connect()
        assert life.agent.timed == 0
        assert (life.error_s, life.floor()) == (0, NOW)
    assert len(life.events) == 5
    assert all(event.startswith("time refused: ") and reason in event for event in life.events)
    assert "not authenticated" in life.send(NOW - 60)
    life.raw_date = None
    assert "accepted" in life.send(NOW - 60)


def test_a_refused_time_is_reported_once_while_nobody_hears_it(life: Life) -> None:
    life.raw_date = b"Date: today\r\n"
    for _ in range(30):
        asyncio.run(life.link.broker(life.agent))
    assert len(life.events) == 1


@pytest.mark.parametrize("date", [b"Date: %s\r\n" * 2, b"DATE: %s\r\ndate:%s\r\n"])
def test_two_dates_are_none(life: Life, date: bytes) -> None:
    text = formatdate(NOW, usegmt=True).encode()
    life.raw_date = date.replace(b"%s", text)
    life.connect()
    assert life.agent.timed == 0


def test_a_server_that_sets_its_clock_back(life: Life) -> None:
    """A few minutes are an adjustment; the floor stays, and so no number of them goes back."""
    life.images = 200
    life.connect()
    for images in (-90, -100):
        life.power_on()
        life.images = images
        life.connect()
        assert (life.error_s, life.floor()) == (200, NOW + 200)
        assert life.agent.timed
    life.power_on()
    life.images = -101
    life.connect()
    assert not life.agent.timed
    assert life.events == [
        f"time refused: server's time {NOW - 101} is below the floor {NOW + 200}"
    ]


def test_authenticated_time_is_a_floor_at_once(life: Life) -> None:
    life.connect()
    life.pass_time(DAY + 1)
    life.images = -DAY - 302
    life.connect()
    assert life.events == [f"time refused: server's time {NOW - 301} is below the floor {NOW}"]
    assert (life.error_s, life.agent.timed) == (0, NOW)


def test_a_jump_of_the_image_servers_own_time(life: Life) -> None:
    life.connect()
    life.pass_time(DAY + 1)
    life.images = 61
    life.connect()
    assert life.events == ["time of the image server was 61 s behind"]
    life.pass_time(DAY + 1)
    life.images = 0
    life.connect()
    assert life.events[1:] == ["time of the image server was 61 s ahead"]
    life.pass_time(DAY + 1)
    life.images = 60
    life.connect()
    assert len(life.events) == 2


def test_a_guess_and_a_floor_at_which_no_certificate_is_valid(life: Life) -> None:
    """The floor is tried once; then the guess stays, as there is nothing better."""
    life.last_s = slots.BUILT - 1
    for sntp in (0, 300 * DAY, slots.BUILT - NOW):  # the last one is the floor
        life.sntp = sntp
        life.power_on()
        life.connect()
        assert (life.error_s, life.agent.timed, life.events) == (sntp, 0, [])


def test_what_a_stolen_server_key_can_do(life: Life) -> None:
    """It moves the time to where its certificate ends, for good, and no further."""
    life.images = LAST - NOW
    life.connect()
    assert life.floor() == LAST
    life.power_on()
    life.images = LAST - NOW + 1
    life.connect()
    assert life.floor() == LAST
    assert "is not within its certificate's" in life.events[0]


def test_a_silent_image_server_is_given_up(life: Life) -> None:
    life.is_silent = True
    life.connect()  # which sees that it is closed
    assert life.agent.timed == 0


@pytest.mark.parametrize("error", [OSError(12), MemoryError("TLS")])
def test_a_failure_is_no_more_than_that(
    life: Life, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(sys.modules["mtls"], "open_stream", fail)
    life.connect()
    assert (life.agent.timed, life.error_s) == (0, 0)


def test_a_power_cut_while_the_time_is_kept(life: Life) -> None:
    """littlefs has the old file or the new one."""

    def cut(*_: object) -> None:
        raise KeyboardInterrupt

    life.connect()
    life.pass_time(2 * DAY)
    life.power_on()
    life.board.files.before = cut
    with pytest.raises(KeyboardInterrupt):
        life.connect()
    life.board.files.before = None
    assert life.floor() == NOW
    life.power_on()
    life.open = 0
    life.connect()
    assert life.floor() == NOW + 2 * DAY
