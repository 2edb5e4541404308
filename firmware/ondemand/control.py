"""What an operator sends: configuration and commands.

Trusted as far as the broker's access list is: bounded and checked for form, by the application's
schema (firmware/ondemand/check.py) if it has one, and handed to it.
"""

import json

from micropython import const

from firmware.ondemand import store

_CONFIG_PATH = const("/config.json")
_CONFIG_LIMIT = const(1024)
_ANSWER_LIMIT = const(3584)  # bytes of JSON; the session sends 4096 with what is around it
_SHOWN = const(64)  # characters of what was sent, in an answer
_REASON_LEN = const(400)
_ID_LIMIT = const(
    (1 << 53) - 1
)  # whole numbers that every reader of JSON has (RFC 8259, section 6)


def load_config(device):
    """Give the device the configuration that it was last sent, of which nothing is known yet."""
    device._schema = device._session = None
    try:
        device.config = _parse_object(store.load(_CONFIG_PATH, _CONFIG_LIMIT) or b"{}")
    except ValueError:  # untrusted, like all of vfs
        device.config = {}


def receive(device, payload):
    """Take a message from down/config; an event says whether it was accepted."""
    if payload == store.load(_CONFIG_PATH, _CONFIG_LIMIT):
        return  # retained, and sent again at each connect
    try:
        if len(payload) > _CONFIG_LIMIT:
            raise ValueError("%d bytes, expected up to %d" % (len(payload), _CONFIG_LIMIT))
        config = _parse_object(payload)
        if device._schema is not None:
            from firmware.ondemand import check

            config = check.fill(device._schema, config)
    except ValueError as error:
        device.event("config", ok=False, reason=str(error)[:_REASON_LEN])
    else:
        device.config = config
        store.save(_CONFIG_PATH, payload)
        device.event("config", ok=True)


async def command(device, payload):
    """Carry out a message from down/command and answer it with an event."""
    ident = None
    try:
        message = _parse_object(payload)
        ident = _ident(message.get("id"))
        name = message.get("command")
        if not isinstance(name, str):
            raise ValueError("command: expected text")
        function = device.commands.get(name)
        if not function and name == "memory":
            from firmware.ondemand import memory

            function = memory.command
        if not function:
            raise ValueError("no command %r" % name[:_SHOWN])
        args = message.get("args") or {}
        if isinstance(function, tuple):
            from firmware.ondemand import check

            function, schema = function
            check.verify(schema)
            args = check.fill(schema, args)
        result = function(device, args)
        if hasattr(result, "send"):  # a coroutine
            result = await result
        size = len(json.dumps(result).encode())
        if size > _ANSWER_LIMIT:
            raise ValueError("answer of %d bytes, expected up to %d" % (size, _ANSWER_LIMIT))
    except Exception as error:  # the operator's or the application's; reported either way
        reason = "%s: %s" % (type(error).__name__, error)
        device.event("command", id=ident, ok=False, reason=reason[:_REASON_LEN])
    else:
        device.event("command", id=ident, ok=True, result=result)


def _ident(value):
    """What an answer repeats, so it has to be short, and something that JSON can hold."""
    if isinstance(value, str):
        if len(value) > _SHOWN:
            raise ValueError("id of %d characters, expected up to %d" % (len(value), _SHOWN))
    elif value is not None and (not isinstance(value, int) or abs(value) > _ID_LIMIT):
        raise ValueError("id: expected text, or a whole number below 2**53")
    return value


def _parse_object(payload):
    value = json.loads(payload)
    # MicroPython 1.25 takes a text that ends too early for a whole one.
    if not isinstance(value, dict) or payload.strip()[-1:] != b"}":
        raise ValueError("expected a JSON object")
    return value
