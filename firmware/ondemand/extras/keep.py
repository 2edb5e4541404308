"""device.keep(values): telemetry that stays, over restarts too, until the broker has it.

A record is a line of JSON.  Records wait in memory for some seconds, to be written together, and
then in segments: files of a few KB, named by the number of their first record, to the newest of
which is added.  littlefs shows either what a file had before it was opened or all that had been
written when it was closed, so a power cut loses what is in memory and nothing else.  A segment is
removed when the broker has all of it: after a restart up to a segment comes twice, with the numbers
that it had.  What `next` holds is never below a number that was used.
"""

import asyncio
import json
import os

from micropython import const

from mqtt.codec import MQTTError, MQTTRefusedError

_PATH = const("/kept")
_NEXT = const("next")
_BATCH = const(8)  # records that wait in memory …
_BATCH_LEN = const(1024)  # … or bytes of them …
_HOLD_S = const(10)  # … or for how long
_LINE_LEN = const(512)
_SEGMENT_LEN = const(2048)
_SEGMENT = const(32)  # records
_SEGMENTS = const(16)  # 512 records, 32 KB; littlefs gives each a block of 4 KB
_TURN_MS = const(100)
_RESERVE = const(64)  # numbers are written down by so many


class Keep:
    """lost: records that found no room, or could not be written or read; ever."""

    def __init__(self, device):
        self._device = device
        self._agent = device._agent
        self._new = []  # lines in memory
        self._timer = self._sender = None  # tasks
        self._at = 0  # of the oldest segment, what the broker has
        self._left = self._left_len = 0  # records and bytes that the newest segment has room for
        self._segments = []  # numbers, oldest first
        try:
            os.mkdir(_PATH)
        except OSError:  # it is there; if not, the first write fails
            pass
        for name in os.listdir(_PATH):
            if name != _NEXT:
                try:
                    self._segments.append(int(name, 16))
                except ValueError:  # not ours
                    pass
        self._segments.sort()
        self._next, self.lost = self._load()
        self._reserved = self._next
        self._told = 0  # what was lost, by the last event

    def __call__(self, values):
        """Keep a dict; ValueError if it has a key `kept`, which is added: [number, time, trust]."""
        if "kept" in values:
            raise ValueError("values: the key 'kept' is not free")
        if self._next >= self._reserved:
            self._reserved = self._next + _RESERVE
            self._note()
        record = dict(values)
        record["kept"] = (self._next,) + self._device.time()
        line = json.dumps(record).encode()
        if len(line) > _LINE_LEN or b"\n" in line:
            words = "kept telemetry: %d bytes, expected a line of up to %d"
            self._device.event("error", reason=words % (len(line), _LINE_LEN))
            return
        self._next += 1
        self._new.append(line)
        if len(self._new) >= _BATCH or sum([len(line) for line in self._new]) >= _BATCH_LEN:
            self.flush()
        elif not self._timer:
            self._timer = asyncio.create_task(self._hold())
        self.start()

    async def _hold(self):
        await asyncio.sleep(_HOLD_S)
        self._timer = None
        self.flush()

    def flush(self):
        """Put on flash what is in memory; returns when it is there."""
        while self._new:
            try:
                self._append()
                return
            except OSError as error:  # full, most likely
                print("signet: error: %s: %s" % (_PATH, error))
            # What was written of it may be torn: nothing may come behind that.
            self._left = 0
            if self._segments[-1:] == [self._next - len(self._new)]:  # it was begun for these
                self._remove(-1)
            if self._segments:
                self._drop()
            else:
                lost = len(self._new)
                self._new = []
                self._lose(lost)

    def _append(self):
        lines = self._new
        size = sum([len(line) + 1 for line in lines])
        if len(lines) > self._left or size > self._left_len:
            while len(self._segments) >= _SEGMENTS:
                self._drop()
            self._segments.append(self._next - len(lines))
            self._left, self._left_len = _SEGMENT, _SEGMENT_LEN
        with open(self._path(-1), "ab") as file:
            for line in lines:
                file.write(line + b"\n")
        self._left -= len(lines)
        self._left_len -= size
        self._new = []

    def start(self):
        """Send what there is, as soon as there is a session."""
        waiting = self._segments or self._new
        if waiting and self._device._session and not self._sender:
            self._sender = asyncio.create_task(self._send())

    async def _send(self):
        """The task that sends until nothing is left, or the connection is lost."""
        session = self._device._session
        try:
            line = self._oldest()
            while line and not session.client.error and not self._agent.restart_reason:
                # What comes first over a connection needs all memory, and events go before us.
                if session.fresh or self._agent.outbox:
                    await asyncio.sleep_ms(_TURN_MS)
                    continue
                if self.lost != self._told:
                    self._told = self.lost
                    self._device.event("kept", lost=self.lost)
                    continue
                await self._publish(session, line)
                line = self._oldest()
        except MQTTError as error:
            print("signet: error: up/telemetry:", error)
        finally:
            self._sender = None

    async def _publish(self, session, line):
        """Send the oldest record; it is passed when the broker has it."""
        try:
            await session.client.publish(session.prefix + "up/telemetry", line, 1)
        except MQTTRefusedError as error:
            print("signet: error: up/telemetry:", error)
            self._lose(1)
        # Meanwhile it may have come to flash, or have been dropped.
        if line == self._oldest():
            if self._segments:
                self._at += len(line) + 1
            else:
                self._new.pop(0)

    def _oldest(self):
        """The oldest record; None if there is none."""
        while self._segments:
            try:
                with open(self._path(0), "rb") as file:
                    file.seek(self._at)
                    line = file.read(_LINE_LEN + 1)
            except OSError:
                line = b"?"
            if not line:  # the broker has all of it
                self._remove(0)
                continue
            end = line.find(b"\n")
            if end > 0 and line[:1] + line[end - 1 : end] == b"{}":
                return line[:end]
            # Whoever can write to flash can change it.
            if end < 0:
                self._remove(0)
            else:
                self._at += end + 1
            self._lose(1)
        return self._new[0] if self._new else None

    def _drop(self):
        """Give the oldest segment up."""
        lost = 0
        try:
            with open(self._path(0), "rb") as file:
                file.seek(self._at)
                for _ in file:
                    lost += 1
        except OSError:
            lost = lost or 1
        self._remove(0)
        self._lose(lost)

    def _remove(self, index):
        try:
            os.remove(self._path(index))
        except OSError:
            pass
        self._segments.pop(index)
        if not index:
            self._at = 0
        if not self._segments:
            self._left = self._at = 0

    def _lose(self, count):
        self.lost += count
        self._agent.dropped[1] += count
        self._note()

    def _load(self):
        """The next number, and what was lost before."""
        try:
            with open("/".join((_PATH, _NEXT)), "rb") as file:
                number, lost = [int(word) for word in file.read(32).split()]
        except (OSError, ValueError):
            number, lost = 1, 0
        if self._segments:  # if they are older than what is said of them, it is wrong
            number = max(number, self._segments[-1] + _SEGMENT)
        return number, lost

    def _note(self):
        try:
            with open("/".join((_PATH, _NEXT)), "wb") as file:
                file.write(b"%d %d" % (self._reserved, self.lost))
        except OSError as error:
            print("signet: error: %s: %s" % (_PATH, error))

    def _path(self, index):
        return "%s/%08x" % (_PATH, self._segments[index])


def make(device):
    device.keep = device._kept = Keep(device)
    return device.keep
