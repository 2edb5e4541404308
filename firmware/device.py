"""What an application sees of the board: telemetry, commands, configuration, time."""

import asyncio

APP_LIMIT_S = 60  # how long an application may be silent


class Device:
    """Handed to `app.run`.

    id, model, version: strings.
    config: the last dict received on down/config; kept over restarts, untrusted as
    the operator's typing is.
    commands: name -> function(device, args), plain or async; its result, something
    JSON can hold, is sent back, or what it raised.
    """

    def __init__(self, record, version, post, supervisor):
        self.id = record["id"]
        self.model = record["model"]
        self.version = version
        self.commands = {}
        self._post = post
        self._supervisor = supervisor
        self.config = {}

    def telemetry(self, values):
        """Queue a dict for up/telemetry, QoS 0; without a session, the last four are kept."""
        self._post("telemetry", values, 0)

    def event(self, name, **details):
        """Queue an event for up/event, QoS 1."""
        details["event"] = name
        self._post("event", details, 1)

    def uptime_s(self):
        return self._supervisor.uptime_ms // 1000

    def beat(self):
        """Tell the supervisor that the application is alive."""
        self._supervisor.beat("app")

    async def sleep(self, seconds):
        self._supervisor.beat("app", seconds)
        await asyncio.sleep(seconds)
        self._supervisor.beat("app")
