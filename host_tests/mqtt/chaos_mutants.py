# mypy: ignore-errors
# MicroPython, whose stubs this file does not see.
"""Clients that are wrong on purpose, so that chaos.py is seen to find it.

They know the client's insides. If those change, nothing is wrong with a mutant any more, and the
test that expects it to be found fails.
"""

from mqtt.full import FullClient
from mqtt.store import FileStore

_PUBREC = 5
_ID_AT = 8  # in a PUBLISH to "up/1" or "up/2"


class DoesNotResend(FullClient):
    """What was sent on the connection before counts as acknowledged."""

    def _repeat(self, request, session):
        super()._repeat(request, session)
        if request.link and not request.wanted:
            self._settle(request, 0)


class ForgetsIds(FullClient):
    """A message at QoS 2 that comes again before its PUBREL is taken for a new one."""

    def _acknowledge(self, message):
        packet = super()._acknowledge(message)
        self._session.discard(message.packet_id)
        return packet


class FreshIds(FullClient):
    """What is sent again has another packet id."""

    def _repeat(self, request, session):
        super()._repeat(request, session)
        if request.link and request.kind == _PUBREC:
            request.packet_id = packet_id = self._new_id(2)
            packet = bytearray(request.packet)
            packet[_ID_AT] = packet_id >> 8
            packet[_ID_AT + 1] = packet_id & 0xFF
            request.packet = packet


class KeepsNoIds(FileStore):
    def keep_id(self, packet_id):
        pass


class KeepsNoMessages(FileStore):
    def keep(self, *arguments):
        pass


CLIENTS = {
    "does not resend": DoesNotResend,
    "forgets QoS 2 ids": ForgetsIds,
    "fresh id for a resend": FreshIds,
}
STORES = {"keeps no QoS 2 ids": KeepsNoIds, "keeps no messages": KeepsNoMessages}
