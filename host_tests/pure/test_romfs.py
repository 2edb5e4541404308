"""romfs: what is found in an archive, and that nothing outside it is read, whatever it says."""

import slots

from romfs import Archive
from romfs.files import Reader, entries, in_place

TEXT = "Grüße\nzweite €\nEnde".encode()


def number(value):
    """As MicroPython's py/misc has it: 7 bits a byte, high ones first."""
    encoded = [value & 0x7F]
    while value > 0x7F:
        value >>= 7
        encoded.insert(0, 0x80 | value & 0x7F)
    return bytes(encoded)


def record(kind, content):
    return number(kind) + number(len(content)) + content


def named(kind, name, content):
    return record(kind, number(len(name)) + name + content)


def file(name, content):
    return named(5, name, record(2, content))


def archive(body):
    return b"\xd2\xcd\x31" + number(len(body)) + body


class Device:
    """A block device over bytes, which notes the lowest and highest one that was read."""

    def __init__(self, content):
        self.content = content
        self.low, self.high = len(content), 0

    def readblocks(self, block, buf, offset):
        start = block * 4096 + offset
        if start < 0 or start + len(buf) > len(self.content):
            raise ValueError("read outside the flash: the test's own bound")
        self.low = min(self.low, start)
        self.high = max(self.high, start + len(buf))
        buf[:] = self.content[start : start + len(buf)]


SECRET = b"not signed"
# Data in line, data by a pointer, padding, a kind of record that is not known, folders in folders.
BODY = (
    record(1, b"\0\0")
    + record(2, TEXT)
    + file(b"a.mpy", b"M code")
    + named(
        4,
        b"data",
        named(5, b"text", record(9, b"?") + record(3, number(len(TEXT)) + number(6)))
        + file(b"empty", b"")
        + named(4, b"inner", file(b"x.py", bytes(range(256)) * 20)),
    )
    + named(4, b"none", b"")
)


def make(content, start=4096, length=None):
    """(Archive, Device), with something before and behind that is not its own."""
    length = len(content) if length is None else length
    device = Device(bytes(start) + content + SECRET)
    return Archive(device, start, length), device


def read_all(found):
    """Whatever an application or an import could ask for, of everything there is."""
    paths = [""]
    buf = bytearray(64)
    while paths:
        path = paths.pop()
        for name, kind, _, _ in entries(found, path):
            inner = path + "/" + name
            if kind == 0x4000:
                paths.append(inner)
            else:
                opened = found.open(inner, "rb")
                while opened.readinto(buf):
                    pass


def test_what_is_in_it():
    found, _ = make(archive(BODY))
    assert list(entries(found, "")) == [
        ("a.mpy", 0x8000, 0, 6),
        ("data", 0x4000, 0, 0),
        ("none", 0x4000, 0, 0),
    ]
    assert list(found.ilistdir("/none")) == []
    assert [entry[0] for entry in found.ilistdir("/data")] == ["text", "empty", "inner"]
    assert found.stat("/a.mpy")[0] == 0x8000
    assert found.stat("/a.mpy")[6] == 6
    assert found.stat("/data/inner")[0] == found.stat("")[0] == 0x4000
    with found.open("/data/text", "rb") as opened:
        assert opened.read() == TEXT
    # A large one: longer than the window, across blocks.
    buf = bytearray(255)
    opened = Reader(found, *found.find_data(*found.find("/data/inner/x.py")[1:])[1:], text=False)
    whole = b""
    while True:
        size = opened.readinto(buf)
        if not size:
            break
        whole += buf[:size]
    assert whole == bytes(range(256)) * 20


def test_what_is_imported():
    found, _ = make(archive(BODY))
    opened = found.open("/a.mpy", "rb")
    buf = bytearray(4)
    assert (opened.ioctl(11, 0), opened.ioctl(4, 0)) == (255, 0)
    assert (opened.readinto(buf), bytes(buf)) == (4, b"M co")
    assert (opened.readinto(buf), bytes(buf[:2])) == (2, b"de")
    assert opened.readinto(buf) == 0


def test_what_is_not_there():
    found, _ = make(archive(BODY))
    for path in ("/b", "/a.mp", "/a.mpyy", "/data/a.mpy", "/a.mpy/x", "/text", "/none/x"):
        slots.check_refused("2", OSError, found.stat, path)
        slots.check_refused("2", OSError, found.open, path, "rb")
    slots.check_refused("2", OSError, found.open, "/data", "rb")
    # Source is never imported from a slot, so that it is not looked for.
    slots.check_refused("2", OSError, found.stat, "/data/inner/x.py")
    slots.check_refused("20", OSError, list, Lazy(found, "/a.mpy"))
    for mode in ("w", "a", "r+", "wb", "rb+"):
        slots.check_refused("30", OSError, found.open, "/data/text", mode)


class Lazy:
    """A generator function raises when it is first asked."""

    def __init__(self, found, path):
        self.args = (found, path)

    def __iter__(self):
        return iter(entries(*self.args))


def test_a_file_of_an_application():
    found, _ = make(archive(BODY))
    with found.open("/data/text", "r") as opened:
        assert opened.readline() == "Grüße\n"
        assert opened.tell() == 8
        assert list(opened) == ["zweite €\n", "Ende"]
        assert (opened.read(), opened.readline()) == ("", "")
        assert opened.seek(0) == 0
        assert opened.read(3) == "Grü"  # never in the middle of a character
        assert opened.read() == "ße\nzweite €\nEnde"
        assert opened.seek(-4, 2) == len(TEXT) - 4
        assert opened.read(100) == "Ende"
        assert opened.seek(1000) == len(TEXT)
        slots.check_refused("expected 0 or more", ValueError, opened.seek, -1)
    with found.open("/data/empty", "rb") as opened:
        assert (opened.read(), opened.readline(), list(opened)) == (b"", b"", [])


HOSTILE = {
    "no magic": b"\xd2\xcd\x32\x05" + bytes(5),
    "nothing": b"",
    "longer than what is signed": b"\xd2\xcd\x31" + number(len(BODY) + 1) + BODY,
    "a length without an end": b"\xd2\xcd\x31" + b"\xff" * 200,
    "a length of leading zeros": b"\xd2\xcd\x31" + b"\x80" * 200,
    "a record past the end": archive(number(2) + number(50) + b"x"),
    "a folder past its parent": archive(named(4, b"d", number(4) + number(60)) + BODY),
    "a name past its record": archive(record(5, number(40) + b"x") + BODY),
    "a file without data": archive(named(5, b"f", b"")),
    "data past the end": archive(named(5, b"f", record(3, number(20) + number(0)))),
    "data that begins past the end": archive(named(5, b"f", record(3, number(1) + number(1000)))),
    "data far away": archive(named(5, b"f", record(3, number(1) + number(1 << 40)))),
    "a size that wraps": archive(named(5, b"f", record(3, number(0xFFFFFFFF) + number(2)))),
    "a pointer past its record": archive(named(5, b"f", record(3, b"\x81")) + BODY),
    "numbers of many digits": archive(named(5, b"f", record(3, b"\xff" * 60))),
}


def test_what_is_no_archive_is_not_mounted():
    for name in ("no magic", "nothing", "longer than what is signed", "a length without an end"):
        device = Device(bytes(4096) + HOSTILE[name] + SECRET * 30)
        slots.check_refused("5", OSError, Archive, device, 4096, len(HOSTILE[name]))


def test_no_archive_leads_out_of_the_signed_bytes():
    for name, content in HOSTILE.items():
        device = Device(bytes(4096) + content + SECRET * 30)
        try:
            read_all(Archive(device, 4096, len(content)))
        except OSError as error:
            assert error.args[0] == 5, name
        else:
            raise AssertionError(name + " was taken")
        assert device.high <= 4096 + len(content), name
        assert device.low >= 4096, name


def test_a_sound_archive_with_every_byte_altered_stays_within_itself():
    content = archive(BODY[:120] + file(b"tail", b"x" * 40))
    for at in range(len(content)):
        for value in (0, 1, 0x7F, 0x80, 0xFF):
            altered = content[:at] + bytes([value]) + content[at + 1 :]
            device = Device(bytes(4096) + altered + SECRET * 30)
            try:
                read_all(Archive(device, 4096, len(content)))
            except (OSError, UnicodeError):
                pass
            assert device.high <= 4096 + len(content)
            assert device.low >= 4096


def test_a_name_ends_within_its_record():
    found, _ = make(archive(record(4, number(4) + b"x") + BODY))
    slots.check_refused("5", OSError, found.stat, "/other")
    slots.check_refused("5", OSError, list, Lazy(found, ""))


def test_a_number_ends_where_it_is_larger_than_the_archive():
    device = Device(bytes(4096) + b"\xd2\xcd\x31" + b"\xff" * 1000)
    slots.check_refused("5", OSError, Archive, device, 4096, 1003)
    assert device.high < 4096 + 200  # a window was read, of 160 bytes


class Mapped(bytearray):
    """Flash that is in the address space, too."""

    def readblocks(self, block, buf, offset):
        start = block * 4096 + offset
        buf[:] = self[start : start + len(buf)]


def test_mapped_flash_is_used_in_place_once_it_is_checked():
    content = archive(BODY)
    device = Mapped(bytes(4096) + content + SECRET)
    assert bytes(in_place(Archive(device, 4096, len(content)), bytes)) == content
    found, _ = make(content)
    assert in_place(found, bytes) is found
    for name in ("a folder past its parent", "data past the end", "data far away"):
        device = Mapped(bytes(4096) + HOSTILE[name] + SECRET)
        hostile = Archive(device, 4096, len(HOSTILE[name]))
        slots.check_refused("5", OSError, in_place, hostile, bytes)
