"""The use cases: each reads what it needs through ports, lets the rules decide, and carries the decision out.

Any of them may die between any two calls. What makes that harmless is said in each module; that it is
harmless is shown by the tests in ``tests/faults``, which stop every use case at every call in every way.
"""

from __future__ import annotations

from sched_plugins.scheduler.attempt import observe, reap
from sched_plugins.scheduler.cancellation import cancel
from sched_plugins.scheduler.dispatch import claim
from sched_plugins.scheduler.outbox import publish, wake, wake_overdue
from sched_plugins.scheduler.scaling import scale
from sched_plugins.scheduler.submit import submit
from sched_plugins.scheduler.sweep import sweep
from sched_plugins.scheduler.trigger import trigger
from sched_plugins.scheduler.workers import attach, ready, renew, retire, warn

__all__ = [
    "attach", "cancel", "claim", "observe", "publish", "ready", "reap", "renew", "retire", "scale",
    "submit", "sweep", "trigger", "wake", "wake_overdue", "warn",
]  # fmt: skip
