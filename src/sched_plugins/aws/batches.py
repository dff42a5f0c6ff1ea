"""Batches that respect a service's limits on their number of entries and their bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def batches(sizes: Sequence[int], count: int, size: int) -> Iterator[list[int]]:
    """The indexes of entries with these sizes, in order, in batches of at most ``count`` entries and ``size`` bytes.

    An entry that is larger by itself is in no batch.
    """
    batch: list[int] = []
    total = 0
    for index, own in enumerate(sizes):
        if own > size:
            continue
        if batch and (len(batch) == count or total + own > size):
            yield batch
            batch, total = [], 0
        batch.append(index)
        total += own
    if batch:
        yield batch
