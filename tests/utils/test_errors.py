"""Errors of others as one line."""

from hypothesis import given, settings
from hypothesis import strategies as st

from hf_ltc.utils.errors import one_line


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=600))
def test_one_line(text):
    for error in (ValueError(text), KeyError(text)):
        line = one_line(error)
        assert line and len(line.splitlines()) == 1 and len(line) <= 300
    assert one_line(ValueError("x" * 300)) == "x" * 300
    assert one_line(ValueError("x" * 301)) == "x" * 297 + "..."
    assert one_line(KeyError("splits")) == "KeyError 'splits'"
    assert one_line(ValueError("a\n  b")) == "a b" and one_line(ValueError()) == "ValueError"
