"""Service tokens: which open the console, and that each is spent before it does."""

import asyncio

import slots
from board_sim import BoardSim

from firmware.ondemand import orders, service
from trust import TrustError
from trust.state import BootState

_LAST = slots.ISSUED - 1000


def accept(board, name, now=slots.NOW, profile=1):
    boot, _ = board.boot()
    boot.record["profile"] = profile
    return service.accept(slots.order(name), boot, now)


def make_board(last=_LAST):
    return BoardSim(order=last)


def last_order(board):
    return BootState(board.state).order


def test_a_good_token_is_spent_at_once():
    for profile in (0, 1):
        board = make_board()
        assert accept(board, "token", profile=profile) == slots.ISSUED
        assert last_order(board) == slots.ISSUED
        # In both records: the loss of one does not bring it back.
        for sector in (0, 1):
            assert (
                slots.struct.unpack(slots.RECORD, board.state.sector(sector)[:28])[8]
                == slots.ISSUED
            )


def test_refused_tokens_change_nothing():
    # name: reason
    cases = {
        "token-other-device": "for device 'dev-0002', this is 'dev-0001'",
        "token-expired": "expired at",
        "token-far-ahead": "was issued at",
        "token-long-lived": "valid for more than 30 days",
        "token-other-kind": "kind 'update', expected 'console'",
        "token-no-kind": "kind is None",
        "token-text-number": "number is '%d'" % slots.ISSUED,
        "token-version-2": "expected version 1",
        "token-by-fleet": "signed by an unknown key",
        "good": "signed by an unknown key",  # an update order
        "by-release": "kind is None",  # signed as a token is
        "by-other": "signed by an unknown key",
    }
    for name in cases:
        board = make_board()
        before = board.snapshot()
        slots.check_refused(cases[name], TrustError, accept, board, name)
        assert board.snapshot() == before, name


def test_replay():
    for last in (slots.ISSUED, slots.ISSUED + 1):
        board = make_board(last)
        before = board.snapshot()
        slots.check_refused("is not above the last one", orders.OrderError, accept, board, "token")
        assert board.snapshot() == before
    board = make_board()
    accept(board, "token")
    slots.check_refused("is not above the last one", orders.OrderError, accept, board, "token")


def test_a_token_spends_the_orders_before_it():
    """One sequence: an order from before the token is refused after it."""
    board = make_board()
    accept(board, "token")
    boot, _ = board.boot()
    for name in ("good", "older"):
        slots.check_refused(
            "is not above the last one", orders.OrderError,
            orders.accept, slots.order(name), boot, board.files, slots.NOW,
        )  # fmt: skip


def test_a_token_is_no_order():
    boot, _ = make_board().boot()
    files = make_board().files
    for name in ("token", "token-by-fleet"):
        slots.check_refused(
            "", TrustError, orders.accept, slots.order(name), boot, files, slots.NOW
        )


def test_a_sealed_board_has_no_console():
    board = BoardSim("sealed", floor=1, order=_LAST)
    before = board.snapshot()
    slots.check_refused(
        "a sealed board has no console", TrustError, accept, board, "token", profile=2
    )
    assert board.snapshot() == before


def test_expiry_by_the_second():
    assert accept(make_board(), "token", now=slots.ISSUED + 3599)
    slots.check_refused(
        "expired", TrustError, accept, make_board(), "token", now=slots.ISSUED + 3600
    )


class Agent:
    """What `take` asks of the agent."""

    def __init__(self):
        self.board = make_board()
        self.boot, _ = self.board.boot()
        self.device = self.wake = self
        self.restart_reason = None
        self.events = []

    def event(self, name, **details):
        self.events.append((name, details["reason"]))

    def set(self):
        self.events.append("wake")


def test_the_report_is_acknowledged_before_anything_opens():
    agent = Agent()

    async def publish(kind, message, qos):
        assert last_order(agent.board) == slots.ISSUED
        assert (agent.restart_reason, agent.events) == (None, [])
        await asyncio.sleep(0)
        assert (kind, qos) == ("event", 1)
        agent.events.append(message["reason"])

    asyncio.run(service.take(slots.order("token"), agent, slots.NOW, publish))
    assert agent.events == ["console opens", "wake"]
    assert agent.restart_reason == "console"


def test_nothing_opens_without_a_report():
    agent = Agent()

    async def publish(kind, message, qos):
        raise OSError(104)

    slots.check_refused(
        "104", OSError, asyncio.run, service.take(slots.order("token"), agent, slots.NOW, publish)
    )
    assert (agent.restart_reason, agent.events) == (None, [])
    assert last_order(agent.board) == slots.ISSUED


def test_a_refusal_is_an_event():
    agent = Agent()
    asyncio.run(service.take(slots.order("token-expired"), agent, slots.NOW, None))
    (event,) = agent.events
    assert event[0] == "security"
    assert event[1].startswith("console refused: order expired at")
    assert agent.restart_reason is None
