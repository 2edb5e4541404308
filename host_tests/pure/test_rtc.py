"""What outlasts a deep sleep in RTC memory: what is packed comes back, and nothing else does."""

import binascii

from firmware.ondemand import rtc

NOW = 1_790_000_000
DAY = 86_400


def record(**fields):
    made = rtc.Record()
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def fields(found):
    return found.timed, found.due, found.misses, found.data


def test_what_is_packed_comes_back():
    for data in (b"", b"x", bytes(range(256)) * 3):
        made = record(timed=NOW, due=NOW + 60, misses=3, data=data)
        text = made.pack()
        assert text[0] == "," and " " not in text and ":" not in text
        assert fields(rtc.Record(text[1:])) == fields(made)
        assert fields(rtc.Record(text[1:].encode())) == fields(made)


def test_the_largest_leaves_room_for_a_reason():
    """Stage 1 puts up to 200 characters of it behind, of up to 4 bytes each, into 2,048 bytes."""
    text = record(timed=NOW, data=bytes(rtc.LIMIT)).pack()
    assert len("99" + text + ":" + "\u20ac" * 16 + ":99 ") + 200 * 4 < 2048


def test_what_was_not_packed_is_nothing():
    text = record(timed=NOW, due=NOW, misses=1, data=b"data").pack()[1:]
    raw = binascii.a2b_base64(text)
    changed = [bytes(raw[:n]) + bytes([raw[n] ^ 1]) + bytes(raw[n + 1 :]) for n in range(len(raw))]
    cut = [raw[:n] for n in range(len(raw))]
    for each in changed + cut + [raw + b"x"]:
        assert fields(rtc.Record(binascii.b2a_base64(each).strip())) == (0, 0, 0, b"")
    for junk in (b"", b"a", b"=", b"\xff\x00", b"abc:", text[:-1].encode()):
        assert fields(rtc.Record(junk)) == (0, 0, 0, b"")


def test_a_time_holds_for_a_day():
    for age, holds in ((-1, False), (0, True), (DAY, True), (DAY + 1, False)):
        assert bool(record(timed=NOW).is_fresh(NOW + age)) == holds
    assert not record().is_fresh(0)  # it was never authenticated


def attempts(sleep_s, wakes):
    """At which wakes, `sleep_s` apart, a connection is tried that always fails."""
    made = rtc.Record()
    tried = []
    for number in range(wakes):
        now = NOW + number * sleep_s
        if made.is_due(now):
            tried.append(number)
            made.miss(now, sleep_s)
    return tried


def test_attempts_become_rare_but_an_hour_is_the_most():
    assert attempts(60, 200) == [0, 1, 3, 7, 15, 31, 63, 124, 185]
    assert attempts(600, 30) == [0, 1, 3, 7, 14, 21, 28]
    assert attempts(3600, 6) == [0, 1, 3, 5]
    assert attempts(DAY, 6) == [0, 1, 2, 3, 4, 5]
    assert attempts(1, 100) == [0, 1, 2, 5, 12, 27, 58]


def test_a_clock_that_is_a_little_off_costs_no_attempt():
    made = rtc.Record()
    made.miss(NOW, 600)
    made.miss(NOW, 600)
    for now, is_due in ((NOW + 600, False), (NOW + 1140, True), (NOW + 1200, True)):
        assert made.is_due(now) == is_due


def test_a_session_ends_the_waiting():
    made = record(timed=NOW, data=b"data")
    for _ in range(40):
        made.miss(NOW, 600)
    assert (made.misses, made.is_due(NOW)) == (16, False)
    made.hit()
    assert fields(made) == (NOW, 0, 0, b"data")
