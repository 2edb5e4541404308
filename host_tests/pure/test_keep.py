"""Telemetry that is kept: what a power cut at any operation on files leaves, bounds, and damage.

The files are littlefs's: what is written counts when the file is closed, and then all of it.
"""

import io
import json

from firmware.ondemand.extras import keep as module
from mqtt.codec import MQTTError, MQTTRefusedError

NOW = (1760000000, 2)
TEXT = "x" * 40


class PowerCutError(Exception):
    pass


class Files:
    """`os` and `open`; the power goes before or after the operation `cut`, or there is no room."""

    def __init__(self, content=None, cut=None, room=1 << 20):
        self.content = {} if content is None else content
        self.cut = cut
        self.room = room
        self.operations = 0

    def happens(self, change):
        self.operations += 1
        if self.cut == (self.operations, "before"):
            raise PowerCutError
        change()
        if self.cut == (self.operations, "after"):
            raise PowerCutError

    def mkdir(self, path):
        if path in self.content:
            raise OSError(17)
        self.happens(lambda: self.content.update({path: None}))

    def listdir(self, path):
        return [name[len(path) + 1 :] for name in self.content if name.startswith(path + "/")]

    def remove(self, path):
        if path not in self.content:
            raise OSError(2)
        self.happens(lambda: self.content.pop(path))

    def open(self, path, mode):
        if mode == "rb":
            if path not in self.content:
                raise OSError(2)
            return io.BytesIO(self.content[path])
        if path not in self.content:
            self.happens(lambda: self.content.update({path: b""}))
        return File(self, path, self.content[path] if mode == "ab" else b"")

    def used(self):
        return sum(len(data or b"") for data in self.content.values())


class File:
    def __init__(self, files, path, data):
        self.files = files
        self.path = path
        self.data = data

    def __enter__(self):
        return self

    def write(self, data):
        room = self.files.room - self.files.used() - len(self.data)
        self.data += data[: max(room, 0)]
        if room < len(data):
            raise OSError(28)

    def __exit__(self, kind, error, trace):
        if not isinstance(error, PowerCutError):
            self.files.happens(lambda: self.files.content.update({self.path: self.data}))


class Session:
    """Publishes at once; the connection breaks after so many, which the broker has."""

    prefix = "signet/d/"
    error = None
    fresh = False

    def __init__(self, taken, breaks_after=1 << 20, refuses=b"!"):
        self.client = self
        self.taken = taken
        self.left = breaks_after
        self.refuses = refuses

    async def publish(self, topic, payload, qos):
        assert (topic, qos) == ("signet/d/up/telemetry", 1)
        if self.refuses in payload:
            raise MQTTRefusedError("no", 0x87)
        if not self.left:
            raise MQTTError("lost")
        self.left -= 1
        record = json.loads(payload)
        number, unix_s, trust = record["kept"]
        assert (unix_s, trust) == NOW
        self.taken.append((number, record["v"]))


class Slow(Session):
    """While the first is on its way, so many others are kept."""

    async def publish(self, topic, payload, qos):
        await Session.publish(self, topic, payload, qos)
        for number in range(self.changes if len(self.taken) == 1 else 0):
            self.keep({"v": 1001 + number, "text": TEXT})
        self.keep.flush()


class Tasks:
    """asyncio: the session's task is run by hand, a timer never."""

    def create_task(self, coroutine):
        coroutine.close()
        return self


class Device:
    """The agent, too."""

    restart_reason = _session = None
    outbox = ()

    def __init__(self):
        self._agent = self
        self.dropped = [0, 0]
        self.events = []

    def time(self):
        return NOW

    def event(self, name, **details):
        self.events.append((name, details))


def boot(files):
    """A Keep on these files, as after a start."""
    module.os = files
    module.open = files.open
    module.asyncio = Tasks()
    return module.make(Device())


def send(keep, session):
    keep._device._session = session
    try:
        keep._send().send(None)
    except StopIteration:
        return
    raise AssertionError("it waits")


def values_of(records):
    return [value for _, value in records]


def numbers_of(records):
    return [number for number, _ in records]


def test_records_go_up_in_order_with_number_and_time():
    files, taken = Files(), []
    keep = boot(files)
    for number in range(50):
        keep({"v": number})
    send(keep, Session(taken))
    assert values_of(taken) == list(range(50))
    assert numbers_of(taken) == [1 + number for number in range(50)]
    assert sorted(files.listdir("/kept")) == ["next"]
    assert keep.lost == 0


def test_they_wait_in_memory_for_company_and_survive_a_restart():
    files, taken = Files(), []
    keep = boot(files)
    before = files.operations
    for number in range(7):
        keep({"v": number})
    assert files.operations == before + 2  # the numbers that may be used, in a new file
    keep({"v": 7})
    assert files.operations == before + 4  # all eight in one
    keep({"v": 8})
    keep({"v": 9})
    keep.flush()
    send(boot(files), Session(taken))
    assert values_of(taken) == list(range(10))


def test_what_the_broker_has_before_it_is_written_never_comes_to_flash():
    files, taken = Files(), []
    keep = boot(files)
    for number in range(130):
        keep({"v": number})
        send(keep, Session(taken))
        assert taken.pop() == (1 + number, number)
    assert files.operations == 1 + 1 + 3  # the folder, a file, and each 64 numbers a note in it


def test_after_a_restart_at_most_a_segment_comes_twice_and_numbers_rise():
    files, taken = Files(), []
    keep = boot(files)
    for number in range(100):
        keep({"v": number, "text": TEXT})
    keep.flush()
    send(keep, Session(taken, 70))
    again = []
    send(boot(files), Session(again))
    assert values_of(taken) == list(range(70))
    assert values_of(again) == list(range(values_of(again)[0], 100))
    assert 70 - 32 <= values_of(again)[0] <= 70
    assert numbers_of(again) == [1 + value for value in values_of(again)]
    later = []
    keep = boot(files)
    keep({"v": 100})
    send(keep, Session(later))
    assert 100 < numbers_of(later)[0] <= 100 + 2 * 64


def play(files, taken, promised, given):
    """Keep, flush, send, break and restart; what has to arrive is in `promised`."""

    def more(keep, count):
        for _ in range(count):
            value = len(given)
            given.append(value)
            keep({"v": value, "text": TEXT})

    def flush(keep):
        keep.flush()
        promised.extend(given[len(promised) :])

    keep = boot(files)
    more(keep, 20)
    flush(keep)
    send(keep, Session(taken, 3))
    more(keep, 41)
    flush(keep)
    send(keep, Session(taken, 10))
    keep = boot(files)
    more(keep, 3)
    flush(keep)
    send(keep, Session(taken))
    more(keep, 5)
    send(keep, Session(taken))
    promised.extend(given[len(promised) :])
    keep = boot(files)
    more(keep, 9)
    flush(keep)


def test_a_power_cut_loses_what_is_in_memory_and_nothing_else():
    counted = Files()
    play(counted, [], [], [])
    assert counted.operations > 20
    for number in range(1, counted.operations + 1):
        for when in ("before", "after"):
            files, taken, promised, given = Files(cut=(number, when)), [], [], []
            try:
                play(files, taken, promised, given)
            except PowerCutError:
                pass
            else:
                raise AssertionError("no cut")
            files = Files(files.content)
            keep = boot(files)
            keep({"v": "last", "text": TEXT})
            send(keep, Session(taken))
            where = (number, when)
            found = {}  # as a receiver does it: by numbers
            for number_of, value in taken:
                assert found.setdefault(number_of, value) == value, where
            in_order = [found[each] for each in sorted(found)]
            assert in_order[-1] == "last", where
            assert in_order[:-1] == sorted(in_order[:-1]), where
            assert not [value for value in promised if value not in in_order], where
            assert keep.lost == 0, where
            assert sorted(files.listdir("/kept")) == ["next"], where


def test_bounds_hold_and_the_oldest_gives_way():
    for text, count in (("x" * 200, 300), ("", 700)):
        files, taken = Files(), []
        keep = boot(files)
        for number in range(count):
            keep({"v": number, "text": text})
            assert len(files.listdir("/kept")) <= 16 + 1
        keep.flush()
        assert files.used() <= 16 * 2048 + 32
        lines = sum(data.count(b"\n") for data in files.content.values() if data)
        assert lines <= 512
        lost = keep.lost
        assert keep._device.dropped == [0, lost]
        assert lines == count - lost
        if text:
            keep = boot(files)
            keep({"v": count})
            send(keep, Session(taken))
            assert keep._device.events == [("kept", {"lost": lost})]
            assert values_of(taken) == list(range(lost, count + 1))
        else:
            assert lines > 512 - 32


def test_a_full_file_system_costs_the_oldest_and_never_the_rest():
    for room in range(0, 4000, 37):
        files, taken = Files(room=room), []
        keep = boot(files)
        for number in range(60):
            keep({"v": number, "text": TEXT})
        files.room = 1 << 20
        keep({"v": 60})
        keep.flush()
        lost = keep.lost
        send(boot(files), Session(taken))
        found = sorted(set(values_of(taken)))
        assert found[-1] == 60, room
        assert len(found) + lost >= 61, room  # what is torn, and written again, may count, too
        assert len(set(numbers_of(taken))) == len(found), room


DAMAGE = (
    b"", b"\n", b"?\n", b"{}", b"{\n", b'{"v":1}', b"\xff" * 600, b"x" * 3000 + b"\n",
    b"[1]\n{}x\n", b"\n" * 100,
)  # fmt: skip


def test_damaged_segments_are_passed_over_and_counted():
    for damage in DAMAGE:
        files, taken = Files(), []
        keep = boot(files)
        for number in range(8):
            keep({"v": number})
        (name,) = [name for name in files.listdir("/kept") if name != "next"]
        files.content["/kept/00000000"] = damage
        files.content["/kept/" + name] += damage
        files.content["/kept/stranger"] = b"1"
        keep = boot(files)
        keep({"v": 8})
        send(keep, Session(taken))
        assert values_of(taken) == list(range(9)), damage
        assert (keep.lost > 0) == bool(damage), damage
        assert sorted(files.listdir("/kept")) == ["next", "stranger"], damage


def test_numbers_are_not_used_twice_whatever_their_file_says():
    for content in (b"", b"x", b"1", b"1 2 3", b"-5 0", b"\xff" * 90, None):
        files, taken = Files(), []
        keep = boot(files)
        for number in range(16):
            keep({"v": number})
        if content is None:
            files.remove("/kept/next")
        else:
            files.content["/kept/next"] = content
        keep = boot(files)
        keep({"v": 16})
        send(keep, Session(taken))
        assert values_of(taken) == list(range(17)), content
        assert len(set(numbers_of(taken))) == 17, content


def test_what_is_no_record_is_refused():
    files, taken = Files(), []
    keep = boot(files)
    keep({"v": "x" * 900})
    assert keep._device.events[0][0] == "error"
    assert " bytes, expected a line of up to 512" in keep._device.events[0][1]["reason"]
    try:
        keep({"kept": 1})
    except ValueError as error:
        assert "'kept' is not free" in str(error)
    else:
        raise AssertionError("taken")
    keep({"v": 1})
    send(keep, Session(taken))
    assert values_of(taken) == [1]


def test_what_the_broker_refuses_is_counted_and_does_not_stay():
    files, taken = Files(), []
    keep = boot(files)
    for value in ("a", "no!", "b"):
        keep({"v": value})
    send(keep, Session(taken))
    assert values_of(taken) == ["a", "b"]
    assert keep.lost == 1


def test_what_comes_to_flash_or_is_dropped_while_it_is_sent_is_passed_once():
    for changes in (0, 1, 8, 700):
        taken = []
        keep = boot(Files())
        keep._next = 1000  # so that all lines have one length
        keep({"v": 1000, "text": TEXT})
        session = Slow(taken)
        session.keep = keep
        session.changes = changes
        send(keep, session)
        # The first was given up, and arrived all the same.
        rest = list(range(1000 + max(keep.lost, 1), 1001 + changes))
        assert values_of(taken) == [1000] + rest, changes
