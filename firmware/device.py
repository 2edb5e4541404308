"""What an application sees of the board: docs/application.md."""

import asyncio

APP_LIMIT_S = 60  # how long an application may be silent


class Device:
    """Handed to `app.run`.  Its types, and what is loaded at its first use: typings/firmware.

    id, model, version: strings.
    config: what was received last on down/config, kept over restarts; checked from `configure` on,
    and before that untrusted as the operator's typing is.
    commands: name -> function(device, args), plain or async, or (function, schema of args); its
    result, something JSON can hold, is sent back, or what it raised.
    _schema: of config; None: any.
    _session: with the broker, connected or not; None: there was none yet.
    _kept: telemetry on flash (firmware/ondemand/extras/keep.py); None: nobody uses that.
    """

    _kept = None

    def __init__(self, agent):
        boot = agent.boot
        self.id = boot.record["id"]
        self.model = boot.record["model"]
        self.version = boot.version
        self.commands = {}
        self._agent = agent

    def __getattr__(self, name):
        """Most applications need few of these; others need not pay for them."""
        try:
            return __import__("firmware.ondemand.extras." + name, None, None, (name,)).make(self)
        except ImportError:
            raise AttributeError(name)

    def telemetry(self, values, qos=0):
        """Queue a dict for up/telemetry; without a session, the last four at QoS 0 wait."""
        self._agent.post("telemetry", values, qos)

    def event(self, name, **details):
        """Queue an event for up/event, QoS 1."""
        details["event"] = name
        self._agent.post("event", details, 1)

    def uptime_s(self):
        return self._agent.supervisor.uptime_ms // 1000

    def beat(self):
        """Tell the supervisor that the application is alive."""
        self._agent.supervisor.beat("app")

    async def sleep(self, seconds):
        self._agent.supervisor.beat("app", seconds)
        await asyncio.sleep(seconds)
        self.beat()
