"""How an MQTT client connects; apart from it, so that whoever is short of memory can drop it."""

from micropython import const

from .codec import MQTTProtocolError
from .link import Link, within

_CONNACK = const(2)


async def connect(client):
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
            if session and options[2]:
                raise MQTTProtocolError("CONNACK: session present, expected a clean one")
        except Exception as error:
            client.error = link.fail(error)
            await link.close()
        except BaseException:  # cancelled
            await link.close()
            raise
        else:
            return link, session
    raise client.error
