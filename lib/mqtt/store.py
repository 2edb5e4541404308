"""What an MQTT session keeps over a restart: one small file a message, in a folder of its own.

A file is written whole or not at all (temporary file and rename), which littlefs keeps true over a
power cut.  On flash, each message at QoS 1 costs two writes of the folder's metadata.
"""

import os
from errno import EEXIST, ENOENT

from micropython import const

from .codec import MQTTError, MQTTProtocolError
from .full import Publish

_PUBLISH = const(3)
_PUBACK = const(4)
_PUBREC = const(5)
_PUBREL = const(6)
_PUBCOMP = const(7)
_TEMPORARY = const("new")


class MQTTStoreError(MQTTError):
    """The file system did not take it, or what lies there is not ours."""


class FileStore:
    """folder: its path; made if it is not there.  For one client."""

    def __init__(self, folder):
        self._folder = folder + "/"
        self._next = 0  # number of the next message; the order of sending
        try:
            os.mkdir(folder)
        except OSError as error:
            if error.errno != EEXIST:
                raise MQTTStoreError("%s: %s" % (folder, error))

    def restore(self, protocol, requests, session):
        """Add the messages to send to `requests`, and the ids of those received to `session`.

        Returns how many were no packets that may be sent, and are removed: a broker that gets one
        hangs up.  MQTTStoreError for messages of another version of MQTT.
        """
        discarded = 0
        for key in sorted(os.listdir(self._folder)):
            if key == _TEMPORARY:  # the power was cut before it counted
                self.remove(key)
                continue
            try:
                packet_id = int(key[-4:], 16)
                if key[0] == "r":
                    session.add(packet_id)
                    continue
                number, its_level = int(key[1:9], 16), int(key[9])
            except (ValueError, IndexError):
                raise MQTTStoreError("%s%s: expected a file of ours" % (self._folder, key))
            if its_level != protocol.level:
                raise MQTTStoreError(
                    "messages for MQTT %d, expected %d" % (its_level, protocol.level)
                )
            with open(self._folder + key, "rb") as file:
                packet = file.read()
            if not _is_sound(protocol, packet, packet_id):
                self.remove(key)
                discarded += 1
                continue
            answer = _PUBCOMP if packet[0] == 0x62 else _PUBREC if packet[0] & 4 else _PUBACK
            request = Publish(answer, packet_id, packet)
            request.key = key
            request.link = request  # perhaps it was sent, before this start
            requests.append(request)
            self._next = number + 1
        return discarded

    def keep(self, request, level):
        """Write a request's packet; sets its key."""
        if not request.key:
            request.key = "m%08x%d%04x" % (self._next, level, request.packet_id)
            self._next += 1
        self.put(request.key, request.packet)

    def keep_id(self, packet_id):
        self.put("r%04x" % packet_id, b"")

    def remove_id(self, packet_id):
        self.remove("r%04x" % packet_id)

    def put(self, key, data):
        try:
            with open(self._folder + _TEMPORARY, "wb") as file:
                file.write(data)
            os.rename(self._folder + _TEMPORARY, self._folder + key)
        except OSError as error:
            raise MQTTStoreError("%s%s: %s" % (self._folder, key, error))

    def remove(self, key):
        try:
            os.remove(self._folder + key)
        except OSError as error:
            if error.errno != ENOENT:
                raise MQTTStoreError("%s%s: %s" % (self._folder, key, error))


def _is_sound(protocol, packet, packet_id):
    """Whether it is one PUBLISH at QoS 1 or 2, or PUBREL, with this id."""
    try:
        found = protocol.decode(packet, 0, len(packet), len(packet))
    except MQTTProtocolError:
        return False
    if not found or found[0] != len(packet):
        return False
    return found[1:3] == (_PUBREL, packet_id) or (found[1] == _PUBLISH and found[6] == packet_id)
