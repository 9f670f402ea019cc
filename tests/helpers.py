"""What tests of several rooms share."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from hf_ltc.utils.errors import InputError


def refused(error: pytest.ExceptionInfo[InputError]) -> str:
    """The one line of an error that was caught."""
    message = str(error.value)
    assert "\n" not in message
    return message


def error_of(function, *args, **kwargs) -> str:
    """The one line that a call is refused with."""
    with pytest.raises(InputError) as caught:
        function(*args, **kwargs)
    return refused(caught)


def encoded(image: PIL.Image.Image | np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    """The file of an image, or of its pixels."""
    file = io.BytesIO()
    (PIL.Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(file, kind, **options)
    return file.getvalue()


def names(folder: Path) -> list[str]:
    """What is in a folder, hidden files included."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))
