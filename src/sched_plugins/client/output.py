"""What a job wrote, as lines of the task log: no more than fits there, and where the whole is."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from sched_plugins.client import LogChunk

DEFAULT_MAXIMUM: Final = 1_000_000
"""Characters of a job's output in the task log, unless told otherwise."""
STDERR_MAXIMUM: Final = 20_000
"""Characters of a failed job's stderr in the task log."""


class LineWriter:
    """Writes text as whole lines, up to a number of characters.

    Args:
        write: takes a line.
        maximum: characters in all; what comes after them is not shown.
    """

    def __init__(self, write: Callable[[str], None], maximum: int) -> None:
        self._write = write
        self._left = maximum
        self._line = ""
        self._attempt = 0
        self.has_written = False
        self.is_full = maximum <= 0

    def add(self, chunk: LogChunk) -> None:
        """Take some text."""
        if self.is_full:
            return
        if self._attempt not in (0, chunk.attempt):
            self.close()
            self._write(f"--- attempt {chunk.attempt} ---")
        self._attempt = chunk.attempt
        self.has_written = True
        text = chunk.text[: self._left]
        self._left -= len(text)
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            self._write(line.removesuffix("\r"))
        if not self._left:
            self.close()
            self.is_full = True

    def close(self) -> None:
        """Write the last line, which may have no end."""
        if self._line:
            self._write(self._line)
        self._line = ""


def write_lines(chunks: Iterable[LogChunk], write: Callable[[str], None], maximum: int) -> bool:
    """Write a text's lines, up to a number of characters; whether that was all of it."""
    writer = LineWriter(write, maximum)
    for chunk in chunks:
        if writer.is_full:
            return False
        writer.add(chunk)
    writer.close()
    return True
