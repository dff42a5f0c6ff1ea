"""Exceptions of tasks on their way back to the flow: a pickle leaves out where and from what they were raised."""

from __future__ import annotations

import socket
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import prefect
from prefect.client.schemas.objects import State
from prefect.results import ResultRecord  # type: ignore[attr-defined]

_NOT_THE_USERS: Final = (Path(prefect.__file__).parent, Path(__file__).parent)
_LONGEST: Final = 50
"""Exceptions of a chain that are carried."""


class NotCarriedBack(Exception):
    """What a task returned or raised could not be carried back to the flow; the message tells what it was."""


def raised(state: State[Any]) -> BaseException | None:
    """The exception that a state tells of."""
    data = state.data.result if isinstance(state.data, ResultRecord) else state.data
    return data if isinstance(data, BaseException) else None


def add_traceback(error: BaseException) -> None:
    """Write where it was raised into an exception's notes, since a pickle leaves its traceback out."""
    frames = error.__traceback__
    while frames is not None and _is_not_the_users(frames.tb_frame.f_code.co_filename) and frames.tb_next is not None:
        frames = frames.tb_next
    lines = traceback.format_exception(type(error), error, frames)
    error.add_note(f"\nOn {socket.gethostname()}:\n{''.join(lines).rstrip()}")


def _is_not_the_users(file: str) -> bool:
    return any(Path(file).is_relative_to(place) for place in _NOT_THE_USERS)


def chain_of(error: BaseException, carried: Callable[[BaseException], BaseException] = lambda one: one) -> Any:
    """What an exception was raised from and during, which a pickle leaves out as well.

    Args:
        error: the exception.
        carried: what is to be carried for one of the chain: itself, or something that stands for it.
    """
    return _chain(error, carried, {id(error)})


def _chain(error: BaseException, carried: Callable[[BaseException], BaseException], seen: set[int]) -> Any:
    links: list[Any] = []
    for one in (error.__cause__, error.__context__):
        if one is None or id(one) in seen or len(seen) > _LONGEST:
            links.append(None)
        else:
            seen.add(id(one))
            links.append((carried(one), _chain(one, carried, seen)))
    return (*links, error.__suppress_context__) if any(links) else None


def restore_chain(error: BaseException, chain: Any) -> None:
    """Give an exception back what it was raised from and during."""
    if chain is None:
        return
    cause, context, suppress = chain
    for name, link in (("__cause__", cause), ("__context__", context)):
        if link is not None:
            setattr(error, name, link[0])
            restore_chain(*link)
    error.__suppress_context__ = suppress  # Last: setting a cause sets it.
