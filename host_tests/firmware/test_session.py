"""firmware.session under CPython: what comes before what; the broker answers when it is told to."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from host_tests.played import Load
from mqtt.codec import MQTTRefusedError

TURNS = 30  # of the event loop, in which all is done that does not wait for the broker


class Client:
    """Stands for the MQTT client: `published` waits in it until `answer`."""

    def __init__(self, *_: object, **__: object):
        self.error: Exception | None = None
        self.pause_s = self.dropped = 0
        self.published: list[str] = []
        self.taken = 0
        self._answers: list[asyncio.Event] = []
        self.refusal: Exception | None = None  # what the next message is refused with
        self.messages: list[Any] = []

    def start(self, tries: int) -> None:
        pass

    async def subscribe(self, topic_filter: str, qos: int) -> None:
        pass

    async def publish(self, topic: str, payload: bytes, qos: int, retain: bool) -> None:
        self.published.append(topic.partition("/up/")[2] + " " + payload.decode())
        if self.refusal:
            refusal, self.refusal = self.refusal, None
            raise refusal
        answered = asyncio.Event()
        self._answers.append(answered)
        await answered.wait()

    def answer(self) -> None:
        self._answers.pop(0).set()

    def __aiter__(self) -> "Client":
        return self

    async def __anext__(self) -> Any:
        """To ask for the next is to acknowledge the one before."""
        while len(self.messages) <= self.taken:
            await asyncio.sleep(0)
        self.taken += 1
        return self.messages[self.taken - 1]


class Agent:
    def __init__(self, on_trial: bool):
        self.on_trial = on_trial
        self.confirmed = False
        self.boot = SimpleNamespace(record={"id": "dev-0001", "broker": "localhost:1"})
        self.client_id = "dev-0001-0"
        self.clock_floor = 0
        self.timed: int | None = None
        self.supervisor = self.device = self
        self._kept = None
        self.outbox: list[tuple[str, Any, int]] = []
        self.dropped = [0, 0]
        self.state: dict[str, Any] = {"dropped": []}
        self.order = 0
        self.wake = asyncio.Event()
        self.restart_reason = self.close = None
        self.tries: int | None = 2
        self.message = ("", 0)
        self.noted: list[tuple[Any, ...]] = []
        self.tasks: list[asyncio.Task[Any]] = []
        self.handle: Callable[[str], Awaitable[None]] | None = None

    def start(self, name: str, coroutine: Any, limit_s: int) -> None:
        self.tasks.append(asyncio.create_task(coroutine))

    def event(self, name: str, **details: object) -> None:
        self.outbox.append(("event", name, 1))
        self.wake.set()

    def note(self, *message: Any) -> None:
        self.message = message or ("", 0)
        self.noted.append(message)

    def beat(self, ahead_s: float = 0) -> None:
        pass


async def confirm(agent: Agent) -> None:
    agent.confirmed = True


Play = Callable[[Any, Agent, Client], Awaitable[None]]


@pytest.fixture
def play(load: Load, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Run a session that is connected, and what a test does with it."""

    def run(test: Play, on_trial: bool = False) -> None:
        client = ModuleType("mqtt.client")
        client.Client, client.Message = Client, SimpleNamespace  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "mqtt.client", client)
        monkeypatch.setitem(sys.modules, "mtls", ModuleType("mtls"))
        monkeypatch.setattr(client, "Message", lambda *_: None)
        on_demand: dict[str, dict[str, Any]] = {
            "trial": {"confirm": confirm},
            "timekeeping": {"now": lambda: 1},
            "incoming": {"handle": lambda session, kind, message: session.agent.handle(kind)},
        }
        for name, attributes in on_demand.items():
            part = ModuleType("firmware.ondemand." + name)
            vars(part).update(attributes)
            monkeypatch.setitem(sys.modules, part.__name__, part)
        module = load("session")
        # Nothing here waits for a time.
        played = SimpleNamespace(
            Event=asyncio.Event, sleep=asyncio.sleep, sleep_ms=lambda _: asyncio.sleep(0)
        )
        monkeypatch.setattr(module, "asyncio", played)

        async def main() -> None:
            agent = Agent(on_trial)
            session = module.Session(agent, 0)
            session.fresh = True
            agent.start("online", session.run(), 0)
            try:
                await test(session, agent, session.client)
            finally:
                for task in agent.tasks:
                    task.cancel()

        asyncio.run(main())

    return run


async def turns() -> None:
    for _ in range(TURNS):
        await asyncio.sleep(0)


def test_a_version_is_confirmed_when_the_broker_has_all_that_was_said_of_it(
    play: Callable[..., None],
) -> None:
    async def test(session: Any, agent: Agent, client: Client) -> None:
        for name in ("boot", "trying"):
            agent.event(name)
        for said in ("state", 'event "boot"', 'event "trying"'):
            await turns()
            assert client.published[-1].startswith(said)
            assert (agent.confirmed, agent.tries) == (False, 2)
            client.answer()
        await turns()
        assert agent.confirmed
        assert client.published[-1].startswith("state")
        assert agent.tries == 2  # there is a session when this is with the broker, too
        client.answer()
        await turns()
        assert agent.tries is None

    play(test, on_trial=True)


def test_a_message_is_acknowledged_when_its_answer_is_with_the_broker(
    play: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(session: Any, agent: Agent, client: Client) -> None:
        handled: list[str] = []

        async def answer(kind: str) -> None:
            handled.append(kind)
            agent.event(f"answer {len(handled)}")

        agent.handle = answer
        await turns()
        client.answer()  # the state
        agent.event("before")
        for _ in range(2):
            message = SimpleNamespace(topic="signet/dev-0001/down/command", payload=b"x")
            client.messages.append(message)
        await turns()
        assert (client.taken, handled) == (1, [])  # there is something to say first
        client.answer()
        await turns()
        assert (client.taken, handled) == (1, ["down/command"])
        assert client.published[-1] == 'event "answer 1"'
        assert agent.noted == [("down/command", 1)]  # until then a restart is this message's
        client.answer()
        await turns()
        assert (client.taken, len(handled)) == (2, 2)
        assert agent.noted == [("down/command", 1), (), ("down/command", 1)]

    play(test)


@pytest.mark.parametrize(("times", "handled"), [(2, True), (3, False)])
def test_a_message_at_which_the_board_restarted_again_and_again(
    play: Callable[..., None], times: int, handled: bool
) -> None:
    async def test(session: Any, agent: Agent, client: Client) -> None:
        agent.message = ("down/order", times)
        seen: list[str] = []

        async def take(kind: str) -> None:
            seen.append(kind)

        agent.handle = take
        await turns()
        client.answer()
        for kind in ("order", "order"):
            topic = "signet/dev-0001/down/" + kind
            client.messages.append(SimpleNamespace(topic=topic, payload=b"x"))
        await turns()
        if not handled:
            assert (seen, client.published[-1], client.taken) == ([], 'event "error"', 1)
            client.answer()
            await turns()
        assert len(seen) == (2 if handled else 1)  # the one behind it is another message

    play(test)


def test_what_was_dropped_is_reported_at_once(play: Callable[..., None]) -> None:
    async def test(session: Any, agent: Agent, client: Client) -> None:
        await turns()
        client.answer()
        agent.dropped[1] += 1  # telemetry
        agent.wake.set()
        await turns()
        assert len(client.published) == 1
        agent.dropped[0] += 1
        agent.wake.set()
        await turns()
        assert client.published[-1].startswith("state")
        assert '"dropped": [1, 0, 1]' in client.published[-1]
        client.answer()
        client.dropped += 3
        agent.wake.set()
        await turns()
        assert '"dropped": [1, 3, 1]' in client.published[-1]

    play(test)


def test_what_no_broker_would_take_is_not_sent(play: Callable[..., None]) -> None:
    """It would hang up, and be sent the same again with the next connection."""

    async def test(session: Any, agent: Agent, client: Client) -> None:
        await turns()
        client.answer()
        for length, start in ((4096, 'telemetry {"a"'), (4097, 'event {"event": "error"')):
            agent.outbox.append(("telemetry", {"a": "x" * (length - 9)}, 0))
            agent.wake.set()
            await turns()
            assert client.published[-1].startswith(start)
            client.answer()
            await turns()
        assert "up/telemetry: 4097 bytes, expected up to 4096" in client.published[-1]
        assert not agent.outbox

    play(test)


def test_of_a_topic_only_the_start_is_kept_and_reported(play: Callable[..., None]) -> None:
    async def test(session: Any, agent: Agent, client: Client) -> None:
        async def refuse(kind: str) -> None:
            raise ValueError(kind)

        agent.handle = refuse
        await turns()
        client.answer()
        topic = "signet/dev-0001/down/" + "x" * 2000
        client.messages.append(SimpleNamespace(topic=topic, payload=b"x"))
        await turns()
        assert agent.noted[0] == ("down/xxxxxxxxxxx", 1)

    play(test)


def test_what_the_broker_refuses_does_not_block_what_is_behind_it(
    play: Callable[..., None],
) -> None:
    async def test(session: Any, agent: Agent, client: Client) -> None:
        await turns()
        client.answer()  # the state
        client.refusal = MQTTRefusedError("given up", 0x80)
        agent.event("poison")
        agent.event("behind it")
        await turns()
        assert client.published[-2:] == ['event "poison"', 'event "behind it"']
        client.answer()
        await turns()
        assert (agent.outbox, agent.dropped) == ([], [1, 0])
        assert '"dropped": [1, 0, 0]' in client.published[-1]  # and that is said at once

    play(test)
