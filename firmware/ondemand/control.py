"""What an operator sends: configuration and commands.

Trusted as far as the broker's access list is: bounded and checked for form, and handed to
the application, which has to know what it can use.
"""

import json

from micropython import const

from firmware.ondemand import store

_CONFIG_PATH = const("/config.json")
_CONFIG_LIMIT = const(1024)


def load_config(device):
    """Give the device the configuration that it was last sent."""
    try:
        device.config = _parse_object(store.load(_CONFIG_PATH, _CONFIG_LIMIT) or b"{}")
    except ValueError:  # untrusted, like all of vfs
        device.config = {}


def configure(device, payload):
    """Take a message from down/config; an event says whether it was accepted."""
    if payload == store.load(_CONFIG_PATH, _CONFIG_LIMIT):
        return  # retained, and sent again at each connect
    try:
        if len(payload) > _CONFIG_LIMIT:
            raise ValueError("%d bytes, expected up to %d" % (len(payload), _CONFIG_LIMIT))
        device.config = _parse_object(payload)
    except ValueError as error:
        device.event("config", ok=False, reason=str(error))
    else:
        store.save(_CONFIG_PATH, payload)
        device.event("config", ok=True)


async def command(device, payload):
    """Carry out a message from down/command and answer it with an event."""
    ident = None
    try:
        message = _parse_object(payload)
        ident = message.get("id")
        function = device.commands.get(message.get("command"))
        if not function and message.get("command") == "memory":
            from firmware.ondemand import memory

            function = memory.command
        if not function:
            raise ValueError("no command %r" % message.get("command"))
        result = function(device, message.get("args") or {})
        if hasattr(result, "send"):  # a coroutine
            result = await result
        json.dumps(result)
    except Exception as error:  # the operator's or the application's; reported either way
        reason = "%s: %s" % (type(error).__name__, error)
        device.event("command", id=ident, ok=False, reason=reason)
    else:
        device.event("command", id=ident, ok=True, result=result)


def _parse_object(payload):
    value = json.loads(payload)
    # MicroPython 1.25 takes a text that ends too early for a whole one.
    if not isinstance(value, dict) or payload.strip()[-1:] != b"}":
        raise ValueError("expected a JSON object")
    return value
