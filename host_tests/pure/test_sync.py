"""Authenticated time: what of a server's `Date` and certificate is believed."""

import slots

from firmware.ondemand import sync
from trust import TrustError

_DATES = {
    b"Thu, 01 Jan 1970 00:00:00 GMT": 0,
    b"Sun, 06 Nov 1994 08:49:37 GMT": 784111777,  # RFC 9110's own
    b"Fri, 31 Dec 1999 23:59:59 GMT": 946684799,
    b"Tue, 29 Feb 2000 12:00:00 GMT": 951825600,
    b"Wed, 01 Mar 2000 00:00:00 GMT": 951868800,
    b"Thu, 09 Oct 2025 08:53:20 GMT": slots.NOW,
    b"Tue, 19 Jan 2038 03:14:08 GMT": 1 << 31,
    b"Thu, 31 Dec 2099 23:59:59 GMT": 4102444799,
}
_LENGTHS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)  # of months
_GOOD = b"Thu, 09 Oct 2025 08:53:20 GMT"
# Of slots.certificate().
_FIRST = 1735689600
_LAST = 1769904000


def read(date=_GOOD, floor=0, **dates):
    return sync.read(date, slots.certificate(**dates), floor)


def refuse(reason, *args, **keywords):
    slots.check_refused(reason, TrustError, read, *args, **keywords)


def date(unix_s):
    """An IMF-fixdate of 2025 or 2026, by counting days."""
    days, rest = divmod(unix_s - _FIRST, slots.DAY)
    weekday = b"WedThuFriSatSunMonTue"[days % 7 * 3 :][:3]
    year = 2025 + days // 365
    days %= 365
    month = 0
    while days >= _LENGTHS[month]:
        days -= _LENGTHS[month]
        month += 1
    name = b"JanFebMarAprMayJunJulAugSepOctNovDec"[3 * month :][:3]
    parts = days + 1, year, rest // 3600, rest // 60 % 60, rest % 60
    text = b"%02d @ %d %02d:%02d:%02d GMT" % parts
    return weekday + b", " + text.replace(b"@", name)


def test_dates():
    for text in _DATES:
        assert sync.decode(text) == _DATES[text], text
    for unix_s in (_FIRST, slots.NOW, slots.NOW + 86399, _LAST):
        assert sync.decode(date(unix_s)) == unix_s


def test_every_day_has_one_date():
    days = 10957  # 2000-01-01
    for year in range(2000, 2101):
        for month in range(12):
            is_leap = month == 1 and year % 4 == 0 and year != 2100
            length = _LENGTHS[month] + is_leap
            for day in (1, 2, length):
                text = b"%d%02d%02d235958" % (year, month + 1, day)
                assert sync.seconds(text) == (days + day) * 86400 - 2
            days += length
            assert sync.seconds(b"%d%02d%02d000000" % (year, month + 1, length + 1)) is None


def test_malformed_dates():
    cases = {
        "absent": b"",
        "RFC 850": b"Thursday, 09-Oct-25 08:53:20 GMT",
        "asctime": b"Thu Oct  9 08:53:20 2025",
        "another zone": b"Thu, 09 Oct 2025 08:53:20 UTC",
        "numeric zone": b"Thu, 09 Oct 2025 08:53:20 +00",
        "in small letters": b"thu, 09 oct 2025 08:53:20 gmt",
        "another month's name": b"Thu, 09 Okt 2025 08:53:20 GMT",
        "between two months": b"Thu, 09 anF 2025 08:53:20 GMT",
        "wrong weekday": b"Fri, 09 Oct 2025 08:53:20 GMT",
        "no weekday": b"Xxx, 09 Oct 2025 08:53:20 GMT",
        "one digit": b"Thu,  9 Oct 2025 08:53:20 GMT",
        "sign": b"Thu, +9 Oct 2025 08:53:20 GMT",
        "sign in the year": b"Thu, 09 Oct -025 08:53:20 GMT",
        "day 0": b"Tue, 00 Oct 2025 08:53:20 GMT",
        "day 32": b"Sat, 32 Oct 2025 08:53:20 GMT",
        "February 29 of a common year": b"Sat, 29 Feb 2025 08:53:20 GMT",
        "hour 24": b"Thu, 09 Oct 2025 24:53:20 GMT",
        "minute 60": b"Thu, 09 Oct 2025 08:60:20 GMT",
        "leap second": b"Thu, 09 Oct 2025 08:53:60 GMT",
        "separators": b"Thu; 09 Oct 2025 08:53:20 GMT",
        "no colons": b"Thu, 09 Oct 2025 08.53.20 GMT",
        "hyphens": b"Thu, 09-Oct-2025 08:53:20 GMT",
        "space behind": _GOOD + b" ",
        "two": _GOOD + b", " + _GOOD,
        "cut": _GOOD[:-1],
        "zeros": bytes(29),
        "not ASCII": b"Thu, 09 Oct 202\xb2 08:53:20 GMT",
        "endless": _GOOD * 40,
    }
    for name in cases:
        text = slots.refusal(TrustError, sync.decode, cases[name])
        assert text.startswith("server sent date b"), name
        assert len(text) < 200, name


def test_a_time_within_the_certificates_dates():
    assert read() == slots.NOW
    assert (read(date(_FIRST)), read(date(_LAST))) == (_FIRST, _LAST)
    for unix_s in (_FIRST - 1, _LAST + 1):
        reason = "server's time %d is not within its certificate's" % unix_s
        refuse(reason, date(unix_s) if unix_s > _LAST else b"Tue, 31 Dec 2024 23:59:59 GMT")
    # Whatever the certificate says, the clock has an end.
    ever = {"first": b"19700101000000Z", "last": b"99991231235959Z"}
    assert read(b"Thu, 31 Dec 2099 23:59:59 GMT", **ever) == 4102444799
    refuse("is not within", b"Fri, 01 Jan 2100 00:00:00 GMT", **ever)


def test_a_time_below_the_floor():
    for below_s in (0, 1, 300):
        assert read(floor=slots.NOW + below_s) == slots.NOW + below_s
    assert read(floor=slots.NOW - 1) == slots.NOW
    for below_s in (301, 50 * slots.DAY):
        refuse("is below the floor %d" % (slots.NOW + below_s), floor=slots.NOW + below_s)


def test_validity():
    find = sync.find_validity
    assert find(slots.certificate()) == (_FIRST, _LAST)
    assert find(slots.certificate(version=b"")) == (_FIRST, _LAST)
    # RFC 5280 section 4.1.2.5.1: 50 to 99 are of the last century.
    assert find(slots.certificate(b"500101000000Z", b"491231235959Z")) == (-631152000, 2524607999)
    assert find(slots.certificate(last=b"20500101000000Z"))[1] == 2524608000
    assert find(slots.certificate(last=b"99991231235959Z"))[1] == 253402300799


def test_malformed_certificates():
    for text in (
        b"250101000000", b"2501010000Z", b"250101000000+0100", b"251301000000Z", b"x50101000000Z",
        b"250101000000z", b"2025010100000Z", b"20250101000000.5Z",
    ):  # fmt: skip
        slots.check_refused(
            "server's certificate", TrustError, sync.find_validity, slots.certificate(text)
        )
    good = slots.certificate()
    for length in range(len(good)):
        slots.check_refused("malformed", TrustError, sync.find_validity, good[:length])
    endless = good[:1] + b"\x80" + good[4:] + bytes(2)
    slots.check_refused("malformed", TrustError, sync.find_validity, endless)
    for at in (0, 4, 13, 31, 44):  # all, what is signed, serial number, algorithm, issuer
        assert good[at] in (0x30, 0x02)
        other = good[:at] + b"\x04" + good[at + 1 :]
        slots.check_refused("malformed", TrustError, sync.find_validity, other)
    third = slots.element(0x17, b"250101000000Z")
    times = slots.element(0x30, third, third, third)
    one = slots.element(0x30, third)
    for validity in (times, one, slots.element(0x30)):
        wrong = slots.element(0x30, slots.element(0x30, b"\2\1\0\x30\0\x30\0" + validity))
        slots.check_refused("malformed", TrustError, sync.find_validity, wrong)
    # What has no end is not empty.
    two = slots.element(0x30, third, third)
    for algorithm in (b"\x30\0", b"\x30\x80"):
        made = slots.element(0x30, slots.element(0x30, b"\2\1\0" + algorithm + b"\x30\0" + two))
        if algorithm[1]:
            slots.check_refused("malformed", TrustError, sync.find_validity, made)
        else:
            assert sync.find_validity(made) == (_FIRST, _FIRST)


def test_whatever_is_changed_in_a_certificate_is_read_or_refused():
    good = slots.certificate()
    for at in range(60):
        for value in (0, 1, 0x17, 0x18, 0x30, 0x7F, 0x80, 0x81, 0x84, 0xFF):
            try:
                sync.find_validity(good[:at] + bytes([value]) + good[at + 1 :])
            except TrustError:
                pass
