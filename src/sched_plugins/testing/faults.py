"""Make any call through a port fail, in every way in which AWS can make it fail."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from sched_plugins.errors import Throttled, Unknown
from sched_plugins.ports import TransactionFailed


class Crash(BaseException):
    """The caller dies here, as a function does that runs out of time or memory. No ``except Exception`` stops it."""


class Way(StrEnum):
    """How a call goes wrong."""

    FAILS = "fails before it takes effect"
    LOSES_REPLY = "takes effect but the reply is lost"
    CALLER_DIES = "takes effect and the caller dies"
    COMES_LATE = "takes effect only long after the caller was told that nobody knows"


LATE = 45.0
"""Seconds by which an effect that comes late does so."""

Hook = Callable[[str, Sequence[Any], Callable[[], Any]], Any]
"""Called with ``port.method``, the positional arguments, and what carries the call out."""


@dataclass
class Faults:
    """Counts the calls through all ports, and makes the chosen ones go wrong.

    Attributes:
        plan: by number of the call, from 0, how it goes wrong.
        calls: ``port.method`` of every call so far.
        before: if set, called with the number of every call before it is carried out: a place for other actors
            to act in between.
        later: schedules the effect of a call that comes late; set by the simulation.
    """

    plan: Mapping[int, Way] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    before: Callable[[int, str], None] | None = None
    later: Callable[[float, Callable[[], None]], None] | None = None

    def __call__(self, name: str, arguments: Sequence[Any], effect: Callable[[], Any]) -> Any:
        number = len(self.calls)
        self.calls.append(name)
        if self.before is not None:
            self.before(number, name)
        way = self.plan.get(number)
        if way is None:
            return effect()
        if way is Way.FAILS:
            return _fail(name, arguments)
        if way is Way.COMES_LATE:
            self._postpone(effect)
            raise Unknown(f"{name}: no answer")
        effect()
        if way is Way.CALLER_DIES:
            raise Crash(name)
        raise Unknown(f"{name}: the reply was lost")

    def _postpone(self, effect: Callable[[], Any]) -> None:
        def carry_out() -> None:
            try:
                effect()
            except Exception:  # noqa: BLE001, S110 - its caller is gone, and nobody hears of its failure
                pass

        if self.later is not None:
            self.later(LATE, carry_out)


_BATCHED = frozenset({"queues.send", "tables.write_each", "events.publish"})


def _fail(name: str, arguments: Sequence[Any]) -> Any:
    """How a call of this kind says that it was definitely not carried out."""
    if name in _BATCHED:
        entries = arguments[-1]
        return [Throttled(f"{name}: entry throttled") for _ in entries]
    if name == "tables.transact":
        raise TransactionFailed((), "TransactionConflict")
    raise Throttled(f"{name}: throttled")


class Watched:
    """A port whose every method passes a hook first."""

    def __init__(self, port: str, behind: object, hook: Hook) -> None:
        self._port, self._behind, self._hook = port, behind, hook

    def __getattr__(self, method: str) -> Any:
        name, carry_out = f"{self._port}.{method}", getattr(self._behind, method)

        def call(*arguments: Any, **named: Any) -> Any:
            def effect() -> Any:
                answer = carry_out(*arguments, **named)
                # A listing is read while it is asked for, so that its failure belongs to this call.
                return iter(list(answer)) if isinstance(answer, Iterator) else answer

            return self._hook(name, arguments, effect)

        self.__dict__[method] = call
        return call
