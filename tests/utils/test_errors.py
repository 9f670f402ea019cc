"""Values that are checked, and errors of others as one line."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_ltc.utils.errors import InputError, as_input_error, one_line, require


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


def test_a_value_is_checked():
    require(True, "k", 3, "1 or more")
    with pytest.raises(InputError, match=r"^`k` is 0: it must be 1 or more$"):
        require(False, "k", 0, "1 or more")
    with pytest.raises(InputError, match=r"^`k` is a ndarray: it must be 1 or more$"):
        require(False, "k", np.zeros((3, 3)), "1 or more")


def test_an_error_of_a_library_is_explained():
    what, fix = "cannot open 'x'", "give another"
    line = pytest.raises(InputError, match=r"^cannot open 'x' \(no\): give another$")
    with line as caught, as_input_error(what, fix, (OSError, ValueError)):
        raise OSError("no")
    assert isinstance(caught.value.__cause__, OSError)
    # What is a line already stays as it is, though an InputError is a ValueError, and so does any other error.
    with pytest.raises(InputError, match=r"^a line already$"), as_input_error(what, fix, ValueError):
        raise InputError("a line already")
    with pytest.raises(KeyError), as_input_error(what, fix, OSError):
        raise KeyError("other")
