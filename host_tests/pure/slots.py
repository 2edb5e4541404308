"""What pure tests share: images, orders and the record of a board, made anew in memory.

The data is the same in every run; signatures, keys and the identity partition come from the file
that $SIGNET_VECTORS names (host_tests/vectors.py).  The formats are written down here once more,
from docs/design.md, so that the code under test is not its own oracle.
"""

import binascii
import os
import struct
from hashlib import sha256

BLOCK = 4096
SIGNATURE_LEN = 1216
SLOT_BLOCKS = 6

DEVICE = "dev-0001"
MODEL = "signet-test"
PLATFORM = (1, 25, 0)  # what the simulated board runs
BUILT = 1750000000  # Unix seconds: release 1.0.0
NOW = 1760000000
ISSUED = NOW - 60  # number of the order "good"
DAY = 86400

DESCRIPTOR = "<8sHHIIIQ32s32sI"
RECORD = "<4sIBBBBB3xIII"
_CHUNK = 1024

# Images that vectors.py has signed by the release key.
IMAGES = {
    "1.0.0": {},
    "1.1.0": {"version": b"1.1.0", "counter": 2, "build_time": BUILT + 1000, "blocks": 3},
    # All that a descriptor says is as in 1.1.0, and another file system.
    "twin": {"version": b"1.1.0", "counter": 2, "build_time": BUILT + 1000, "blocks": 3},
    "1.2.0": {"version": b"1.2.0", "counter": 2, "build_time": BUILT + 2000},
    "counter-0": {"version": b"0.9.0", "counter": 0, "build_time": BUILT - 1000},
    # Security counter as in 1.1.0, but from before 1.0.0.
    "stale-build": {"version": b"1.0.5", "counter": 2, "build_time": BUILT - 1},
    "other-model": {"version": b"1.1.0", "counter": 2, "model": b"signet-other"},
    "newer-platform": {"version": b"1.1.0", "counter": 2, "platform": 1 << 16 | 25 << 8 | 1},
    "longer-than-slot": {"version": b"1.1.0", "counter": 2, "payload_len": 5 * BLOCK},
    "fills-slot": {"version": b"1.1.0", "counter": 2, "blocks": 4},
    "dev": {"version": b"1.1.0", "counter": 2, "profile": 0},
    "sealed": {"version": b"1.1.0", "counter": 2, "profile": 2},
}

# The provisioning record, as burned; the key digests are the vectors'.
DEFAULT_RECORD = {
    "v": 1,
    "id": DEVICE,
    "model": MODEL,
    "hw": "A1",
    "profile": "production",
    "broker": "broker.example:8883",
    "images": "images.example:8443",
    "ntp": "ntp.example:123",
    "watchdog_s": 30,
}


def vector(kind, name):
    """One of the things that vectors.py made: bytes."""
    # Searched, not loaded: the file is larger than an ESP32's heap.
    start = ('"%s/%s": "' % (kind, name)).encode()
    with open(os.getenv("SIGNET_VECTORS"), "rb") as file:
        text = file.read(_CHUNK)
        while start not in text:
            more = file.read(_CHUNK)
            if not more:
                raise KeyError(start)
            text = text[-len(start) :] + more
        text = text[text.find(start) + len(start) :]
        while b'"' not in text:
            text += file.read(_CHUNK)
    return binascii.a2b_base64(text[: text.find(b'"')])


def key_digest(name):
    """SHA-256 over a key as signature blocks carry it."""
    return vector("keys", name)


def block(name):
    """A signature block, 1216 bytes, by its name in vectors.py."""
    return vector("blocks", name)


def order(name):
    """A signed order as it arrives: JSON and signature block."""
    return vector("orders", name)


def record():
    """The provisioning record as `Identity.record` returns it."""
    fields = dict(DEFAULT_RECORD)
    fields["profile"] = 1
    fields["release"] = [key_digest("release")]
    fields["fleet"] = [key_digest("fleet")]
    return fields


def descriptor(
    version=b"1.0.0", model=b"signet-test", counter=1, build_time=BUILT, platform=1 << 16 | 20 << 8,
    blocks=2, payload_len=None, magic=b"SGNTSLOT", format_=2, profile=1, heap=0,
):  # fmt: skip
    """The bytes of a descriptor that are used; 0xFF follows."""
    length = blocks * BLOCK if payload_len is None else payload_len
    return struct.pack(
        DESCRIPTOR, magic, format_, profile, length, counter, platform, build_time, version, model,
        heap,
    )  # fmt: skip


def payload_unit(name, number):
    """Stands for a block of the file system, 128 times these 32 bytes; no two are the same."""
    return sha256(("%s %d" % (name, number)).encode()).digest()


def whole(data):
    """A block's 4096 bytes: of a short one, or of a payload unit."""
    if len(data) == 32:
        return data * (BLOCK // 32)
    return data + b"\xff" * (BLOCK - len(data))


def data_blocks(name):
    """Descriptor and payload of one of `IMAGES`, what is signed, block by block: see `whole`."""
    fields = IMAGES[name]
    yield descriptor(**fields)
    for number in range(fields.get("blocks", 2)):
        yield payload_unit(name, number)


def image_blocks(name, key="release"):
    """A whole image, block by block: see `whole`."""
    for data in data_blocks(name):
        yield data
    yield block("%s by %s" % (name, key))


def image_digest(name):
    hasher = sha256()
    for data in data_blocks(name):
        hasher.update(whole(data))
    return hasher.digest()


def image_len(name):
    return (IMAGES[name].get("blocks", 2) + 2) * BLOCK


def reseal(signature_block):
    """The block with its CRC made right again, as whoever alters a block can do."""
    body = bytes(signature_block[:1196])
    return body + struct.pack("<I", binascii.crc32(body)) + bytes(signature_block[1200:])


def element(tag, *contents):
    """A DER element."""
    content = b"".join(contents)
    length = len(content)
    if length < 128:
        return bytes((tag, length)) + content
    return bytes((tag, 0x82, length >> 8, length & 255)) + content


def certificate(first=b"250101000000Z", last=b"20260201000000Z", version=b"\xa0\x03\x02\x01\x02"):
    """What of a server's certificate says when it is valid: two UTCTime or GeneralizedTime."""
    times = [element(0x17 if len(text) == 13 else 0x18, text) for text in (first, last)]
    serial = element(0x02, bytes(16))
    names = element(0x30, bytes(11)), element(0x30, bytes(200))
    to_be_signed = element(
        0x30, version, serial, names[0], names[1], element(0x30, times[0], times[1]), names[1]
    )
    return element(0x30, to_be_signed, names[0], element(0x03, bytes(70)))


def state_record(
    sequence=1, active=0, a=(3, 0), b=(0, 0), floor=1, order=0, magic=b"SGBS", crc=None
):
    """A boot state record; a and b are (status, tries)."""
    raw = struct.pack(
        RECORD, magic, sequence, active, a[0], a[1], b[0], b[1], floor, order, 0
    )[:-4]  # fmt: skip
    return raw + struct.pack("<I", binascii.crc32(raw) if crc is None else crc)


def read_state(flash):
    """The newest record in boot state sectors: (sequence, active, (status, tries) of a, of b,
    floor, order), or None.  Only for sequences that do not wrap."""
    best = None
    for number in (0, 1):
        raw = flash.sector(number)[:28]
        fields = struct.unpack(RECORD, raw)
        if fields[0] != b"SGBS" or fields[9] != binascii.crc32(raw[:-4]):
            continue
        if best is None or fields[1] > best[0]:
            best = fields[1:3] + (fields[3:5], fields[5:7]) + fields[7:9]
    return best


def refusal(error, call, *args, **keywords):
    """The text of the error that the call has to raise."""
    try:
        call(*args, **keywords)
    except error as caught:
        return str(caught)
    raise AssertionError("not refused, expected %s" % error.__name__)


def check_refused(reason, error, call, *args, **keywords):
    """The call has to be refused, for this reason: text that the error's message contains."""
    text = refusal(error, call, *args, **keywords)
    assert reason in text, "refused because %r, expected %r" % (text, reason)
