"""Tasks in two forms: ``foo`` for sync code, ``afoo`` for async code; ``foo`` called from async code is ``afoo``."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar, cast

from prefect import Task
from prefect._internal.compatibility.async_dispatch import is_in_async_context
from prefect.cache_policies import NO_CACHE

from sched_plugins.prefect.identity import PARENT, parent

P = ParamSpec("P")
R = TypeVar("R")


class DualTask(Task[P, R]):
    """A sync task that runs as its async twin where it is called from async code; ``_sync=True`` prevents that.

    ``submit`` and ``map`` always run the sync form, in the task runner's threads.
    """

    aio: Task[P, Any]
    """The async form."""

    def __call__(self, *args: Any, _sync: bool | None = None, **kwargs: Any) -> Any:  # type: ignore[override]
        """Run the task."""
        if _sync is False or (_sync is None and is_in_async_context()):
            return self.aio(*args, **kwargs)
        with _told_of_parent():
            return super().__call__(*args, **kwargs)

    def submit(self, *args: Any, **kwargs: Any) -> Any:
        """As of a task."""
        with _told_of_parent():
            return super().submit(*args, **kwargs)

    def map(self, *args: Any, **kwargs: Any) -> Any:
        """As of a task."""
        with _told_of_parent():
            return super().map(*args, **kwargs)

    def with_options(self, *args: Any, **options: Any) -> Any:
        """As of a task; the async form has the same options."""
        plain = super().with_options(*args, **options)
        return as_dual(plain, self.aio.with_options(*args, **options))


class AsyncTask(Task[P, R]):
    """The async form of a task."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the task."""
        return _with_parent(parent(), super().__call__(*args, **kwargs))

    def submit(self, *args: Any, **kwargs: Any) -> Any:
        """As of a task."""
        with _told_of_parent():
            return super().submit(*args, **kwargs)

    def map(self, *args: Any, **kwargs: Any) -> Any:
        """As of a task."""
        with _told_of_parent():
            return super().map(*args, **kwargs)

    def with_options(self, *args: Any, **options: Any) -> Any:
        """As of a task."""
        plain = super().with_options(*args, **options)
        plain.__class__ = AsyncTask
        return plain


@contextmanager
def _told_of_parent() -> Iterator[None]:
    """Tell the call which task run it is made in: see :mod:`sched_plugins.prefect.identity`."""
    token = PARENT.set(parent())
    try:
        yield
    finally:
        PARENT.reset(token)


async def _with_parent(around: tuple[str, int], running: Coroutine[Any, Any, Any]) -> Any:
    token = PARENT.set(around)
    try:
        return await running
    finally:
        PARENT.reset(token)


def as_dual(plain: Task[P, R], aio: Task[P, Any]) -> DualTask[P, R]:
    """The sync task, with its async form."""
    plain.__class__ = DualTask
    dual = cast("DualTask[P, R]", plain)
    dual.aio = aio
    return dual


def dual(aio: Task[P, Any], **options: Any) -> Callable[[Callable[P, R]], DualTask[P, R]]:
    """Decorate the sync form of a task.

    Never cached: which job serves a call is for the scheduler's records to say, and a cached result would outlive it.

    Args:
        aio: the async form.
        options: of the task.
    """

    def decorate(fn: Callable[P, R]) -> DualTask[P, R]:
        return as_dual(Task(fn, cache_policy=NO_CACHE, **options), aio)

    return decorate


def aio(**options: Any) -> Callable[[Callable[P, Any]], Task[P, Any]]:
    """Decorate the async form of a task."""

    def decorate(fn: Callable[P, Any]) -> Task[P, Any]:
        return AsyncTask(fn, cache_policy=NO_CACHE, **options)

    return decorate
