"""Calls of one event loop that come together are made together, in a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar

A = TypeVar("A")
R = TypeVar("R")

MOMENT: Final = 0.05
"""Seconds for which the first of some calls waits for others."""


class Gathered(Generic[A, R]):
    """Gives what is asked for within a moment to one function, in a thread.

    Args:
        send: told of all that was asked; its answers, or exceptions in their place, in the same order.
        moment: seconds.
        most: so many go to one call at most.
    """

    def __init__(
        self, send: Callable[[Sequence[A]], Sequence[R | Exception]], moment: float = MOMENT, most: int = 200
    ) -> None:
        self._send = send
        self._moment = moment
        self._most = most
        self._asked: list[tuple[A, asyncio.Future[R]]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def ask(self, one: A) -> R:
        """The answer to one."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[R] = loop.create_future()
        self._asked.append((one, answer))
        if len(self._asked) == 1:
            # The call goes on when who began it is cancelled: others wait for it too.
            task = loop.create_task(self._call())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await answer

    async def close(self) -> None:
        """Wait for what is under way."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _call(self) -> None:
        await asyncio.sleep(self._moment)
        asked, self._asked = self._asked, []
        groups = [asked[first : first + self._most] for first in range(0, len(asked), self._most)]
        for group in groups:
            try:
                answers = await asyncio.to_thread(self._send, [one for one, _ in group])
            except Exception as error:  # noqa: BLE001 - whatever went wrong, those who wait are told
                answers = [error] * len(group)
            for (_, waiting), answer in zip(group, answers, strict=True):
                if waiting.done():
                    continue
                if isinstance(answer, Exception):
                    waiting.set_exception(answer)
                else:
                    waiting.set_result(answer)
