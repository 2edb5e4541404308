"""labels: a sheet is rendered and its codes are read by programs that no one here wrote."""

import base64
import hashlib
import re

import pytest

from host_tests.provisioning.label_reader import read_labels, read_text
from signet.device.provisioning import labels
from signet.device.provisioning.labels import Label


def test_codes_are_random_and_long_enough():
    codes = {labels.new_code() for _ in range(1000)}
    assert len(codes) == 1000
    assert all(re.fullmatch("[A-Z2-7]{26}", code) for code in codes)


def test_a_hash_is_for_one_device_and_one_code():
    code = labels.new_code()
    known = labels.claim_hash("dev-1", code)
    assert known == labels.claim_hash("dev-1", code)
    assert known != labels.claim_hash("dev-2", code)
    assert known != labels.claim_hash("dev-1", labels.new_code())
    assert code not in known


def code_of(number: int) -> str:
    """A claim code, the same in every run: a picture that cannot be read can be made again."""
    return base64.b32encode(hashlib.sha256(b"%d" % number).digest()[:16]).decode().rstrip("=")


@pytest.mark.parametrize("count", [1, 24, 25])
def test_every_code_on_a_sheet_can_be_read(count):
    made = [Label(f"dev-{n:04}", "signet-demo", "A1", code_of(n)) for n in range(count)]
    pdf = labels.make_sheet(made, "01234567")
    assert read_labels(pdf) == [f"signet:1:{label.id}:{label.code}" for label in made]
    text = read_text(pdf)
    assert len(text) == (count + 23) // 24
    assert f"page 1 of {len(text)}" in text[0]
    for label in made:
        assert label.id in "".join(text)
        assert label.code in re.sub(r"\s", "", "".join(text))


def test_the_longest_names_stay_on_their_label():
    made = [Label("x" * 31, "m" * 31, "h" * 16, code_of(n)) for n in range(3)]
    assert read_labels(labels.make_sheet(made, "0")) == [label.text for label in made]
