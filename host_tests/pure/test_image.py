"""trust.image: descriptors, the checks of a whole slot, and what is mounted of it."""

import slots
from flash_sim import FlashSim

from trust import image
from trust.image import Descriptor, ImageError
from trust.signature import SignatureError

_SLOT_LEN = slots.SLOT_BLOCKS * slots.BLOCK


def make_slot(name, key="release"):
    slot = FlashSim(slots.SLOT_BLOCKS, log=[])
    slot.load(slots.image_blocks(name, key))
    return slot


def verify(slot, model=slots.MODEL, floor=1, platform=slots.PLATFORM, keys=("release",), profile=1):
    digests = [slots.key_digest(key) for key in keys]
    record = {"release": digests, "model": model, "profile": profile}
    return image.verify(slot, record, floor, platform)


def refuse(reason, slot, error=ImageError, **keywords):
    """verify has to refuse, and must not have written to the slot."""
    before = dict(slot.content)
    slots.check_refused(reason, error, verify, slot, **keywords)
    assert slot.content == before
    assert all(operation == "read" for _, operation, _ in slot.log)


def test_descriptor_fields():
    found = Descriptor(slots.descriptor(b"1.1.0-rc.1", b"m" * 32, 7, 1 << 33, 0x011900, 3))
    assert (found.version, found.model) == ("1.1.0-rc.1", "m" * 32)
    assert (found.counter, found.build_time, found.platform) == (7, 1 << 33, 0x011900)
    assert (found.payload_len, found.image_len) == (3 * 4096, 5 * 4096)
    assert (found.profile, found.heap) == (1, 0)
    assert Descriptor(slots.descriptor(heap=32)).heap == 32
    assert found.digest is None


def test_malformed_descriptors():
    # name: (reason, descriptor)
    cases = {
        "erased": ("not a slot image: magic", {"magic": b"\xff" * 8}),
        "magic": ("expected b'SGNTSLOT'", {"magic": b"SGNTSLOX"}),
        "app image": ("not a slot image: magic", {"magic": b"\xe9\x03\x02\x20"}),
        "format 0": ("image format 0, expected 2", {"format_": 0}),
        "format 1": ("image format 1, expected 2", {"format_": 1}),
        "format 3": ("image format 3, expected 2", {"format_": 3}),
        "no profile": ("profile 3, expected 0 to 2", {"profile": 3}),
        "erased profile": ("profile 65535, expected 0 to 2", {"profile": 0xFFFF}),
        "no payload": ("payload length 0, expected n * 4096", {"payload_len": 0}),
        "odd payload": ("payload length 8193, expected n * 4096", {"payload_len": 8193}),
        "no version": ("version is empty", {"version": b""}),
        "no model": ("model is empty", {"model": b""}),
        "control character": ("expected printable ASCII", {"version": b"1.0\n"}),
        "space": ("expected printable ASCII", {"version": b"1 0"}),
        "text behind NUL": ("expected printable ASCII", {"version": b"1.0\0x"}),
        "not ASCII": ("expected printable ASCII", {"model": b"\xc3\xa9"}),
        "erased text": ("expected printable ASCII", {"model": b"\xff" * 32}),
    }
    slot = make_slot("1.0.0")
    for name in cases:
        reason, fields = cases[name]
        block = slots.whole(slots.descriptor(**fields))
        slots.check_refused(reason, ImageError, Descriptor, block)
        slot.load([block])
        refuse(reason, slot)
    for length in (0, 99):
        slots.check_refused(
            "descriptor: %d bytes, expected 100" % length, ImageError, Descriptor, block[:length]
        )


def test_genuine_images():
    for name in ("1.0.0", "1.1.0", "twin", "fills-slot"):
        slot = make_slot(name)
        found = verify(slot)
        assert found.version.encode() == slots.IMAGES[name].get("version", b"1.0.0")
        assert found.digest == slots.image_digest(name)
        # Each block once, and nothing behind the signature.
        count = slots.image_len(name) // 4096
        assert [block for _, _, block in slot.log] == list(range(count))


def test_images_that_this_board_may_not_run():
    refuse("image for model 'signet-other', this is a 'signet-test'", make_slot("other-model"))
    refuse("image for model 'signet-test', this is a 'x'", make_slot("1.0.0"), model="x")
    refuse("security counter 1 is below the floor 2", make_slot("1.0.0"), floor=2)
    refuse("security counter 0 is below the floor 1", make_slot("counter-0"))
    refuse("needs MicroPython 1.25.1, this is 1.25.0", make_slot("newer-platform"))
    refuse("needs MicroPython 1.20.0, this is 1.19.255", make_slot("1.0.0"), platform=(1, 19, 255))
    refuse("image of 28672 bytes, slot holds 24576", make_slot("longer-than-slot"))
    refuse("dev image, this is a production board", make_slot("dev"))
    refuse("dev image, this is a sealed board", make_slot("dev"), profile=2)
    refuse("production image, this is a sealed board", make_slot("1.1.0"), profile=2)
    for name, number in (("dev", 0), ("1.1.0", 0), ("sealed", 0), ("sealed", 1), ("sealed", 2)):
        assert verify(make_slot(name), profile=number)
    assert verify(make_slot("counter-0"), floor=0)
    assert verify(make_slot("1.1.0"), floor=2)
    assert verify(make_slot("newer-platform"), platform=(1, 25, 1))
    assert verify(make_slot("newer-platform"), platform=(2, 0, 0, "preview"))


def test_length_that_runs_past_the_slot():
    for payload_len in (_SLOT_LEN - 4096, _SLOT_LEN, 0xFFFFF000):
        slot = make_slot("1.0.0")
        slot.load([slots.descriptor(payload_len=payload_len)])
        refuse("image of %d bytes, slot holds %d" % (payload_len + 8192, _SLOT_LEN), slot)
        assert len(slot.log) == 1  # the descriptor; nothing was read on its word


def test_foreign_keys():
    refuse("signed by an unknown key", make_slot("1.1.0", "other"), SignatureError)
    refuse("signed by an unknown key", make_slot("1.1.0", "fleet"), SignatureError)
    refuse("signed by an unknown key", make_slot("1.1.0"), SignatureError, keys=("fleet",))
    assert verify(make_slot("1.1.0", "other"), keys=("release", "other"))


def test_altered_images():
    slot = make_slot("1.1.0")
    length = slots.image_len("1.1.0") - 4096
    # One bit in the descriptor's unused part, and in every block of the payload.
    for offset in (96, 4095, 4096, 8191, 8192 + 1000, length - 1):
        slot.alter(offset, 0x40)
        refuse("signature is over other data", slot, SignatureError)
        slot.alter(offset, 0x40)
    assert verify(slot)


def test_altered_descriptor_fields():
    slot = make_slot("1.1.0")
    for offset in (10, 17, 21, 24, 33, 68):  # profile, counter, platform, time, version, model
        slot.alter(offset)
        slots.check_refused("", (ImageError, SignatureError), verify, slot)
        slot.alter(offset)
    assert verify(slot)


def test_mixed_images():
    """Parts of genuine images, put together in another way."""
    cases = {
        "swapped file system": ("1.1.0", "twin", "twin", "twin", "1.1.0"),
        "one foreign block": ("1.1.0", "1.1.0", "twin", "1.1.0", "1.1.0"),
        "foreign signature": ("1.1.0", "1.1.0", "1.1.0", "1.1.0", "twin"),
    }
    for name in cases:
        slot = FlashSim(slots.SLOT_BLOCKS, log=[])
        for number, source in enumerate(cases[name]):
            slot.load([list(slots.image_blocks(source))[number]], number)
        refuse("signature is over other data", slot, SignatureError)
    for order in ((2, 1, 3), (1, 1, 3), (1, 3, 2)):
        slot = make_slot("1.1.0")
        for number in range(3):
            slot.load([slots.payload_unit("1.1.0", order[number] - 1)], number + 1)
        refuse("signature is over other data", slot, SignatureError)


def test_truncated_images():
    for count in range(5):
        slot = FlashSim(slots.SLOT_BLOCKS, log=[])
        for number, data in enumerate(slots.image_blocks("1.1.0")):
            if number < count:
                slot.load([data], number)
        if count:
            refuse("no signature: magic byte 0xff", slot, SignatureError)
        else:
            refuse("not a slot image: magic", slot)
    slot = make_slot("1.1.0")
    slot.load([slot.sector(4), b""], 3)  # a block of the payload left out
    refuse("no signature: magic byte", slot, SignatureError)


def test_data_behind_the_signature():
    slot = make_slot("1.1.0")
    slot.alter(4 * 4096 + 1216)  # in its sector: could be taken for a second block
    refuse("data after the signature block", slot, SignatureError)
    slot = make_slot("1.1.0")
    slot.load([slots.payload_unit("longer", 5)], block=5)
    assert verify(slot)


def test_verification_fails_when_flash_does():
    slot = make_slot("1.0.0")

    def fail(block, buf, offset=0):
        if block == 2:
            raise OSError(5)
        FlashSim.readblocks(slot, block, buf, offset)

    slot.readblocks = fail
    slots.check_refused("5", OSError, verify, slot)
