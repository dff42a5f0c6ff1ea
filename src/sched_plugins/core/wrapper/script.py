"""The parts of a wrapper as text: programs kept beside this file, packed so that nothing in them is read on the way."""

from __future__ import annotations

import base64
import functools
import gzip
import re
from importlib import resources


@functools.cache
def program(*names: str, package: str = __package__) -> str:
    """The named files, one after the other, without indentation, empty lines and lines that are comments."""
    text = "\n".join(resources.files(package).joinpath(name).read_text(encoding="utf-8") for name in names)
    return re.sub(r"^[ ]*(#.*)?\n|^[ ]+", "", text, flags=re.MULTILINE)


def pack(text: str) -> str:
    """The text as gzip in base64; equal for equal text."""
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()
