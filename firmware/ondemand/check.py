"""Values from outside, held against what the application says that they may be.

A schema is a dict, key -> form.  A form begins with the default:

    (10, 1, 3600)                    a whole number, from 1 to 3600
    (0.5, 0.0, 2.5)                  a number; a whole one becomes a float
    ("kitchen", 32)                  text of up to 32 characters
    ("auto", ("auto", "on", "off"))  one of these, texts or whole numbers
    True                             true or false

With a type in the place of the default, `(int, 1, 10)`, the key has to be there.
"""

import json

from micropython import const

_SHOWN = const(32)  # characters of what was sent, in a reason
_HUGE = const((1 << 53) - 1)


def verify(schema, defaults=False):
    """ValueError if it is no schema, or if `defaults` are wanted and one is missing."""
    if not isinstance(schema, dict):
        raise ValueError("expected a dict of what values may be, found %r" % (schema,))
    for key, form in schema.items():
        form = _tuple(form)
        if not isinstance(key, str) or not _is_form(form):
            raise ValueError("%r: this does not say what a value may be: %r" % (key, form))
        if not isinstance(form[0], type):
            _take(key, form, form[0])
        elif defaults:
            raise ValueError("%s: expected a default, found %r" % (key, form))


def fill(schema, values):
    """A dict with a value for each key of the schema; ValueError says what does not fit."""
    if not isinstance(values, dict):
        raise ValueError("expected an object, found %s" % _show(values))
    for key in values:
        if key not in schema:
            raise ValueError(_unknown(schema, key))
    return {key: _find(key, form, values) for key, form in schema.items()}


def mend(schema, values):
    """The same of values that were checked by another schema: (dict, [what does not fit])."""
    wrong = [_unknown(schema, key) for key in values if key not in schema]
    found = {}
    for key, form in schema.items():
        try:
            found[key] = _find(key, form, values)
        except ValueError as error:
            wrong.append(str(error))
            found[key] = _tuple(form)[0]
    return found, wrong


def _unknown(schema, key):
    return "unknown: %s; expected of: %s" % (_show(key), ", ".join(sorted(schema)))


def _find(key, form, values):
    form = _tuple(form)
    if key in values:
        return _take(key, form, values[key])
    if isinstance(form[0], type):
        raise ValueError("%s is missing: expected %s" % (key, _expected(form)))
    return form[0]


def _tuple(form):
    return form if isinstance(form, tuple) else (form,)


def _kind(form):
    return form[0] if isinstance(form[0], type) else type(form[0])


def _choices(form):
    return form[1] if len(form) == 2 and isinstance(form[1], (tuple, list)) else None


def _is_form(form):
    if not form:
        return False
    kind = _kind(form)
    choices = _choices(form)
    if choices is not None:
        return kind in (int, str) and choices and all(type(each) is kind for each in choices)
    if kind is bool:
        return len(form) == 1
    if kind is str:
        return len(form) == 2 and type(form[1]) is int and form[1] > 0
    if kind not in (int, float) or len(form) != 3:
        return False
    least, most = form[1:]
    if type(least) not in (int, kind) or type(most) not in (int, kind):
        return False
    return least <= most and most - most == least - least == 0  # none is infinite


def _take(key, form, value):
    """The value, if it fits the form."""
    kind = _kind(form)
    choices = _choices(form)
    # The very type: to isinstance, true is a whole number.
    fits = type(value) is kind or (kind is float and type(value) is int)
    if fits and choices is not None:
        fits = value in choices
    elif fits and kind is str:
        fits = len(value) <= form[1]
    elif fits and kind is not bool:
        fits = form[1] <= value <= form[2]  # as no comparison is true of what is not a number
    if not fits:
        raise ValueError("%s: expected %s, found %s" % (key, _expected(form), _show(value)))
    return float(value) if kind is float else value


# Texts of up to ten characters would be names, which stay in memory.


def _expected(form):
    kind = _kind(form)
    choices = _choices(form)
    if choices is not None:
        return "one of these: " + ", ".join([repr(each) for each in choices])
    if kind is bool:
        return "true or false"
    if kind is str:
        return "text of up to %d characters" % form[1]
    text = "a whole number from %s to %s" if kind is int else "a number from %s to %s"
    return text % form[1:]


def _show(value):
    """What is found in a message, short."""
    if isinstance(value, str):
        return repr(value[:_SHOWN])
    if isinstance(value, (dict, list)):
        return "something in brackets"
    if value in (None, True, False) or -_HUGE <= value <= _HUGE:
        return json.dumps(value)
    return "a number out of all reason"
