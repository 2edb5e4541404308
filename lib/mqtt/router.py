"""Handlers for the messages of an MQTT client, by topic filter.

router = Router(client)
await router.subscribe("lamp/+/set", set_lamp, qos=1)
await router.run()
"""

from micropython import const

_IDENTIFIERS = const(65521)  # if two filters have the same, copies go to both


def matches(topic_filter, topic):
    """Whether a topic name is one that the filter asks for; section 4.7."""
    levels = topic_filter.split("/")
    if levels[0] == "$share":  # MQTT 5, section 4.8.2: $share/group/filter
        levels = levels[2:]
    names = topic.split("/")
    if topic[:1] == "$" and levels[0] in ("+", "#"):  # MQTT-4.7.2-1
        return False
    for i, level in enumerate(levels):
        if level == "#":
            return True
        if i == len(names) or level not in ("+", names[i]):
            return False
    return len(levels) == len(names)


class Router:
    """client: the one it takes messages from.  unmatched: how many no filter asks for.

    A broker may send a message once for each filter that asks for it.  In MQTT 5 each copy says for
    which, by the subscription identifier, and goes to the handlers of that filter alone; in 3.1.1
    nothing tells a copy from a message that was sent twice.
    """

    def __init__(self, client):
        self.client = client
        self._handlers = []  # [topic filter, handler]
        self._ids = {}  # topic filter -> subscription identifier
        self.unmatched = 0

    async def subscribe(self, topic_filter, handler, qos=0, options=0, properties=None):
        """Subscribe, and have `handler`, async function (message), called for what comes of it.

        Returns and raises what `Client.subscribe` does.
        """
        entry = (topic_filter, handler)
        self._handlers.append(entry)  # before: retained messages come with the answer
        protocol = self.client.protocol
        if protocol.level == 5 and protocol.properties.get("subscription_identifier_available", 1):
            properties = properties.copy() if properties else {}
            number = properties.setdefault("subscription_identifier", _identifier(topic_filter))
            self._ids[topic_filter] = number
        try:
            return await self.client.subscribe(topic_filter, qos, options, properties)
        except BaseException:
            self._handlers.remove(entry)
            raise

    async def unsubscribe(self, topic_filter):
        await self.client.unsubscribe(topic_filter)
        self._handlers = [entry for entry in self._handlers if entry[0] != topic_filter]

    async def run(self):
        """Hand over messages until the client is closed; each to all handlers that match it.

        A message is acknowledged when its handlers are done.  What a handler raises ends this,
        and leaves the message unacknowledged.
        """
        async for message in self.client:
            entries = [each for each in self._handlers if matches(each[0], message.topic)]
            ids = message.properties and message.properties.get("subscription_identifier")
            if ids:
                meant = [each for each in entries if self._ids.get(each[0], ids[0]) in ids]
                entries = meant or entries  # none: of a session that began with other identifiers
            for _, handler in entries:
                await handler(message)
            if not entries:
                self.unmatched += 1


def _identifier(topic_filter):
    """A subscription identifier for a filter: the same after a restart, as sessions last longer."""
    number = 0
    for byte in topic_filter.encode():
        number = (number * 31 + byte) % _IDENTIFIERS
    return number + 1
