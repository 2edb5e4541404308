"""How an MQTT client connects; apart from it, so that whoever is short of memory can drop it."""

from micropython import const

from .codec import MQTTError, MQTTProtocolError
from .link import Link, MQTTConnectionError, within

_CONNACK = const(2)


async def connect(client):
    """`Client.connect`, once the client is closed."""
    try:
        present = await attempt(client)
    except MQTTError:
        client._note()
        raise
    client.start()
    return present


async def attempt(client):
    """Connect once; returns whether the session is present, or raises an MQTTError."""
    link, session = await _open(client)
    try:
        _begin(client, link, session)
    except Exception as error:  # no memory, or the store
        client.error = link.fail(error)
        await link.close()
        raise client.error
    return session


async def _open(client):
    """Try each broker once; returns the Link and whether the session is present.

    Raises what the last one raised.
    """
    options = client.options
    protocol = client.protocol
    for open_stream in client.brokers:
        timeout_s = min(client.timeout_s, options[1])
        link = Link(protocol.decode, client._buffer, options[6], timeout_s, client._pump)
        try:
            link.stream = await within(link.timeout_s, open_stream(), "no connection")
            link.running = True  # this task is the one that waits for the network
            link.write(protocol.encode_connect(*options))
            await link.flush()
            link.running = False
            packet = await within(link.timeout_s, link.receive(), "no CONNACK")
            if packet[1] != _CONNACK:
                raise MQTTProtocolError("packet type %d, expected CONNACK" % packet[1])
            session = protocol.check_connack(packet)
            name = not options[0] and (packet[4] or {}).get("assigned_client_identifier")
            if name:  # so that the next connection finds the session
                client.options = (name,) + options[1:]
            if session and options[2]:
                raise MQTTProtocolError("CONNACK: session present, expected a clean one")
        except Exception as error:
            cause = getattr(error, "cause", None)
            if isinstance(cause, EOFError):
                name = "5" if protocol.level == 5 else "3.1.1"
                error = MQTTConnectionError(
                    "closed by the broker, without a CONNACK: perhaps it speaks no MQTT %s" % name,
                    cause,
                )
            client.error = link.fail(error)
            await link.close()
        except BaseException:  # cancelled
            await link.close()
            raise
        else:
            return link, session
    raise client.error


def _begin(client, link, session):
    """Make it the client's link; what was on its way goes again, in order; sections 4.4 and 4.6."""
    requests = client._requests
    for request in requests[:]:
        if not request.packet:
            requests.remove(request)
            client._room.set()
    if client.patience and requests and client._link:
        try:
            from .blame import check

            check(client, client._link, link)
        except MemoryError:  # then nobody is to blame
            pass
    if client.max_qos > 1:  # mqtt.full
        client._begin(session)
    for message in client._backlog[:]:
        message.rest = b""
        if not session:  # it is new, and so are its packet ids
            message.packet_id = 0
        elif message.qos and not (client._taken and message is client._backlog[0]):
            client._backlog.remove(message)  # it comes again
            client._waiting -= message.size
    for request in requests[:]:
        client._repeat(request, session)
    if not session:
        waiting = [name for each in requests if each.wanted for name in each.wanted[0]]
        from .setup import subscribe  # not for long

        for name, details in client._wanted.items():
            if name not in waiting:
                subscribe(client, name, *details)
                requests.insert(0, requests.pop())  # before what it may answer
    client._link = link
    link.quota = client.protocol.receive_maximum
    client.error = None
    link.run(client._watch(link))
    link.wake()
    client._note()
