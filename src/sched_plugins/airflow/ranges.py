"""Many whole numbers in a few characters: ``"0-4999,5003"``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator


def compact(numbers: Iterable[int]) -> str:
    """The numbers as ranges, in order, each once."""
    ranges: list[list[int]] = []
    for number in sorted(set(numbers)):
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ",".join(f"{first}" if first == last else f"{first}-{last}" for first, last in ranges)


def expand(ranges: str) -> Iterator[int]:
    """The numbers that :func:`compact` wrote."""
    for part in filter(None, ranges.split(",")):
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)
