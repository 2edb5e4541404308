"""Handlers for the messages of an MQTT client, by topic filter.

router = Router(client)
await router.subscribe("lamp/+/set", set_lamp, qos=1)
await router.run()
"""


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
    """client: the one it takes messages from.  unmatched: how many no filter asks for."""

    def __init__(self, client):
        self.client = client
        self._handlers = []  # [topic filter, handler]
        self.unmatched = 0

    async def subscribe(self, topic_filter, handler, qos=0, options=0, properties=None):
        """Subscribe, and have `handler`, async function (message), called for what comes of it.

        Returns and raises what `Client.subscribe` does.
        """
        entry = (topic_filter, handler)
        self._handlers.append(entry)  # before: retained messages come with the answer
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
            is_matched = False
            for topic_filter, handler in self._handlers:
                if matches(topic_filter, message.topic):
                    is_matched = True
                    await handler(message)
            if not is_matched:
                self.unmatched += 1
