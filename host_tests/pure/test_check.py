"""What comes from outside is held against a schema: configuration, arguments of a command."""

from firmware.ondemand import check

SCHEMA = {
    "interval_s": (10, 1, 3600),
    "gain": (0.5, -1, 2.5),
    "name": ("kitchen", 8),
    "mode": ("auto", ("auto", "on", "off")),
    "step": (2, [1, 2, 4]),
    "loud": True,
    "quiet": (False,),
}
DEFAULTS = {
    "interval_s": 10,
    "gain": 0.5,
    "name": "kitchen",
    "mode": "auto",
    "step": 2,
    "loud": True,
    "quiet": False,
}
INFINITE = float("inf")
NESTED = [1]
for _ in range(50):
    NESTED = [NESTED]


def reason(function, *args):
    """What a ValueError says; None if there was none."""
    try:
        function(*args)
    except ValueError as error:
        return str(error)
    return None


def changed(**values):
    found = dict(DEFAULTS)
    found.update(values)
    return found


def test_what_fits_is_taken_and_the_rest_has_its_default():
    check.verify(SCHEMA, True)
    assert check.fill(SCHEMA, {}) == DEFAULTS
    for key, values in {
        "interval_s": (1, 3600),
        "gain": (-1.0, 2.5, 0.25),
        "name": ("", "12345678"),
        "mode": ("on", "off"),
        "step": (1, 4),
        "loud": (False, True),
    }.items():
        for value in values:
            found = check.fill(SCHEMA, {key: value})
            assert found == changed(**{key: value})
            assert type(found[key]) is type(DEFAULTS[key])


def test_a_whole_number_becomes_a_float_where_one_is_expected():
    found = check.fill(SCHEMA, {"gain": 2})["gain"]
    assert (found, type(found)) == (2.0, float)


def test_what_does_not_fit_is_refused_with_what_was_expected_and_found():
    whole = "interval_s: expected a whole number from 1 to 3600, found "
    number = "gain: expected a number from -1 to 2.5, found "
    text = "name: expected text of up to 8 characters, found "
    mode = "mode: expected one of these: 'auto', 'on', 'off', found "
    cases = (
        ("interval_s", 0, whole + "0"),
        ("interval_s", 3601, whole + "3601"),
        ("interval_s", 5.0, whole + "5.0"),
        ("interval_s", True, whole + "true"),
        ("interval_s", None, whole + "null"),
        ("interval_s", "5", whole + "'5'"),
        ("interval_s", [5], whole + "something in brackets"),
        ("interval_s", {}, whole + "something in brackets"),
        ("interval_s", NESTED, whole + "something in brackets"),
        ("interval_s", 10**900, whole + "a number out of all reason"),
        ("gain", INFINITE, number + "a number out of all reason"),
        ("gain", -INFINITE, number + "a number out of all reason"),
        ("gain", INFINITE - INFINITE, number + "a number out of all reason"),
        ("gain", 10**900, number + "a number out of all reason"),
        ("gain", 3, number + "3"),
        ("gain", False, number + "false"),
        ("gain", "", number + "''"),
        ("name", "123456789", text + "'123456789'"),
        ("name", "x" * 500, text + "'%s'" % ("x" * 32)),
        ("name", 5, text + "5"),
        ("mode", "On", mode + "'On'"),
        ("mode", 1, mode + "1"),
        ("step", True, "step: expected one of these: 1, 2, 4, found true"),
        ("step", 2.0, "step: expected one of these: 1, 2, 4, found 2.0"),
        ("step", 3, "step: expected one of these: 1, 2, 4, found 3"),
        ("loud", 1, "loud: expected true or false, found 1"),
        ("loud", "true", "loud: expected true or false, found 'true'"),
        ("quiet", 0, "quiet: expected true or false, found 0"),
    )
    for key, value, expected in cases:
        assert reason(check.fill, SCHEMA, {key: value}) == expected, (key, expected)


def test_keys_that_nobody_knows_are_refused():
    assert reason(check.fill, {"a": True, "b": True}, {"c": 1}) == (
        "unknown: 'c'; expected of: a, b"
    )
    assert reason(check.fill, {}, {"x" * 500: 1}) == "unknown: '%s'; expected of: " % ("x" * 32)
    for value in ([], None, "a", 5):
        assert reason(check.fill, {}, value).startswith("expected an object, found ")


def test_a_type_in_the_place_of_the_default_means_that_it_has_to_be_there():
    schema = {"times": (int, 1, 10), "on": bool, "to": (str, ("a", "b"))}
    check.verify(schema)
    values = {"times": 3, "on": False, "to": "a"}
    assert check.fill(schema, values) == values
    for key, expected in (
        ("times", "a whole number from 1 to 10"),
        ("on", "true or false"),
        ("to", "one of these: 'a', 'b'"),
    ):
        rest = {other: value for other, value in values.items() if other != key}
        assert reason(check.fill, schema, rest) == "%s is missing: expected %s" % (key, expected)
    assert reason(check.verify, schema) is None
    for key, form in schema.items():
        assert reason(check.verify, {key: form}, True).startswith(key + ": expected a default")


def test_of_what_another_schema_has_checked_stays_what_fits():
    values = {"interval_s": 5, "gain": "high", "old": 1}
    found, wrong = check.mend(SCHEMA, values)
    assert found == changed(interval_s=5)
    assert sorted(wrong)[0] == "gain: expected a number from -1 to 2.5, found 'high'"
    assert sorted(wrong)[1].startswith("unknown: 'old'; expected of: gain, ")
    assert check.mend(SCHEMA, {}) == (DEFAULTS, [])


def test_a_schema_that_is_none_is_refused():
    for schema in (None, [], "x", 5):
        assert reason(check.verify, schema).startswith("expected a dict of what values may be")
    for form in (
        (), None, 5, "x", 0.5, [], {}, (10, 1), (10, 1, 2, 3), (10, 5, 1), (0, 1, 5), (True, 0, 1),
        (10, 1.0, 20), (10, 1, INFINITE), (0.5, 0, INFINITE), (0.5, -INFINITE, 1), ("x", 0),
        ("x", -1), ("xx", 1), ("x", "y"), ("x", ()), ("x", (1, "x")), ("x", ("y",)), (0.5, (0.5,)),
        (True, (True, False)), (int,), (str,), (list, 1), (None, 1, 2), (int, 1, INFINITE),
    ):  # fmt: skip
        assert reason(check.verify, {"a": form}) is not None, form
    assert reason(check.verify, {5: True}) is not None
    for form in (True, False, (True,), (0.5, 0, 1), (1.0, 0.5, 1), (int, 0, 0), (str, 1), bool):
        assert reason(check.verify, {"a": form}) is None, form
