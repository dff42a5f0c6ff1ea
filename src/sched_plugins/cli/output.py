"""What a command shows: tables and lines for people, one JSON document for programs; messages on stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

_COLORS = {
    "SUCCEEDED": "green", "FAILED": "red", "REJECTED": "red", "CANCELLED": "yellow", "RUNNING": "cyan",
    "STARTING": "cyan", "FREE": "green", "HELD": "cyan", "RETIRING": "yellow",
}  # fmt: skip


class Output:
    """The two streams of one command.

    Args:
        as_json: print one JSON document on stdout, and nothing else there.
    """

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self._written = False
        self._live: Any = None
        """What is being redrawn on stderr; it makes room for every line that is written."""

    @cached_property
    def _out(self) -> Console:
        from rich.console import Console

        return Console(file=sys.stdout, highlight=False, emoji=False, markup=False)

    @cached_property
    def _err(self) -> Console:
        from rich.console import Console

        return Console(file=sys.stderr, highlight=False, soft_wrap=True, emoji=False, markup=False)

    @property
    def is_interactive(self) -> bool:
        """Whether somebody watches: stderr, where progress is shown, is a terminal."""
        return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"

    def document(self, value: Any) -> None:
        """The command's one JSON document; without ``--json`` nothing."""
        if self.as_json:
            self._written = True
            sys.stdout.write(json.dumps(value, indent=2, default=_plain, ensure_ascii=False) + "\n")
            sys.stdout.flush()

    def error(self, error: Exception) -> None:
        """Why the command ends: one line on stderr; with ``--json`` also as its document."""
        self.complain(str(error))
        if not self._written:
            self.document(told(error))

    def complain(self, message: str) -> None:
        """What went wrong, as one line on stderr."""
        self.say(f"error: {message}", "red")

    def line(self, text: str) -> None:
        """A line of the command's result, for people."""
        self.text(printable(text) + "\n")

    def text(self, text: str) -> None:
        """A piece of the command's result exactly as it is, for people and pipes."""
        if not self.as_json:
            with self._room():
                sys.stdout.write(text)
                sys.stdout.flush()

    def say(self, message: str, color: str = "") -> None:
        """A message to whoever watches."""
        text = " ".join(printable(message).split("\n"))
        with self._room():
            if not sys.stderr.isatty() or "NO_COLOR" in os.environ or not color:
                sys.stderr.write(text + "\n")
                sys.stderr.flush()
            else:
                self._err.print(text, style=color)

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[Any]], empty: str = "") -> None:
        """A table of the command's result, for people. Cells wrap where the terminal is narrow; none is cut."""
        if self.as_json:
            return
        listed = [[cell(value) for value in row] for row in rows]
        if not listed:
            self.say(empty or "nothing to show")
            return
        if not sys.stdout.isatty():
            # What reads a pipe gets whole lines, however wide.
            widths = [max(map(len, column)) for column in zip(columns, *listed, strict=True)]
            for line in ([*columns], *listed):
                padded = (text.replace("\n", " ").ljust(width) for text, width in zip(line, widths, strict=True))
                sys.stdout.write("  ".join(padded).rstrip() + "\n")
            sys.stdout.flush()
            return
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, header_style="" if "NO_COLOR" in os.environ else "bold")
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in listed:
            table.add_row(*(Text(text, style=_COLORS.get(text, "")) for text in row))
        with self._room():
            self._out.print(table)

    def facts(self, facts: Iterable[tuple[str, Any]]) -> None:
        """Names and values, one a line; those without a value are left out."""
        if self.as_json:
            return
        listed = [(name, cell(value)) for name, value in facts if value not in (None, "", (), [], {})]
        width = max((len(name) for name, _ in listed), default=0)
        for name, text in listed:
            first, *rest = text.split("\n")
            self.line(f"{name:<{width}}  {first}")
            for more in rest:
                self.line(f"{'':<{width}}  {more}")

    @contextmanager
    def working(self, message: str) -> Iterator[Status]:
        """A line on stderr that changes while something is awaited; in a pipe only its changes' lines."""
        if self.is_interactive:
            from rich.text import Text

            with self._redrawn(self._err.status(Text(printable(message)))) as spinner:
                yield Status(lambda text: spinner.update(Text(printable(text))))
        else:
            yield Status(self.say)

    @contextmanager
    def redrawing(self, draw: Callable[[], Any]) -> Iterator[Callable[[], None]]:
        """What ``draw`` gives, on stderr, drawn again at each call of what this gives; nothing where nobody watches."""
        if not self.is_interactive:
            yield lambda: None
            return
        from rich.live import Live

        with self._redrawn(Live(console=self._err, get_renderable=draw, transient=True)) as live:
            yield live.refresh

    @contextmanager
    def _redrawn(self, live: Any) -> Iterator[Any]:
        with live:
            self._live = live
            try:
                yield live
            finally:
                self._live = None

    @contextmanager
    def _room(self) -> Iterator[None]:
        """While a line is written, nothing is being redrawn where it goes."""
        live, self._live = self._live, None
        if live is not None:
            live.stop()
        try:
            yield
        finally:
            if live is not None:
                live.start()
                self._live = live

    @contextmanager
    def transfer(self, label: str) -> Iterator[Progress | None]:
        """A progress bar on stderr; None where nobody watches."""
        if not self.is_interactive:
            yield None
            return
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        with Progress(*columns, console=self._err, transient=True) as progress:
            progress.add_task(label, total=None)
            yield progress


def told(error: Exception) -> dict[str, Any]:
    """An error as JSON types."""
    return {"error": {"type": type(error).__name__, "message": str(error)}}


class Status:
    """The line that :meth:`Output.working` shows. What is shown again and again is written once into a pipe."""

    def __init__(self, update: Callable[[str], None]) -> None:
        self._update = update
        self._last = ""

    def update(self, text: str) -> None:
        """Change the line."""
        if text != self._last:
            self._last = text
            self._update(text)


def printable(text: str) -> str:
    """Text that cannot move the cursor or change a terminal: control characters but newline are shown as ``?``."""
    return "".join(char if char == "\n" or char == "\t" or char.isprintable() or char == " " else "?" for char in text)


def cell(value: Any) -> str:
    """A value as people read it; times in the local zone."""
    if value is None or value == "":
        return "–"
    if isinstance(value, datetime):
        return value.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    if isinstance(value, bool):
        return "yes" if value else "no"
    return printable(str(value))


def duration(begin: datetime | None, end: datetime | None) -> str:
    """How long something took, or has taken so far; empty if it has not begun."""
    if begin is None:
        return ""
    seconds = max(0.0, ((end or datetime.now(UTC)) - begin).total_seconds())
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def size(count: int) -> str:
    """A number of bytes as people read it."""
    amount = float(count)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if amount < 1024 or unit == "GiB":
            return f"{count} bytes" if unit == "bytes" else f"{amount:.1f} {unit}"
        amount /= 1024
    raise AssertionError


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        from sched_plugins.core.record import to_text

        return to_text(value)
    return str(value)
