"""How long triggers bear an AWS that refuses, and which refusals they tell at once."""

from __future__ import annotations

import pytest
from client_stack import VirtualTime

from sched_plugins.airflow.triggers.troubles import REFUSAL_PATIENCE, Troubles
from sched_plugins.client.retry import Clock
from sched_plugins.errors import InvalidSettings, NotPermitted, Refused, SchedulerError, SchedulerNotFound, Throttled

CERTAIN = (SchedulerNotFound("no scheduler"), InvalidSettings("no region"), Refused("no such field"))


class Time(VirtualTime, Clock):
    """Time that passes by sleeping alone."""


def told_after(troubles: Troubles, clock: Time, error: SchedulerError) -> float:
    """Seconds until an error that comes again and again is told."""
    begun = clock.now()
    for _ in range(1000):
        try:
            troubles.met(error)
        except type(error):
            return clock.now() - begun
        clock.sleep(troubles.delay)
    raise AssertionError("it is never told")


@pytest.mark.parametrize("worked", [False, True])
def test_credentials_that_are_refused_are_borne_for_a_minute_from_the_start(worked: bool) -> None:
    clock = Time()
    troubles = Troubles(clock)
    clock.sleep(3600)
    if worked:
        troubles.over()
        clock.sleep(3600)  # a sensor may look this rarely
    for _ in range(2):
        assert told_after(troubles, clock, NotPermitted("expired")) == pytest.approx(REFUSAL_PATIENCE, abs=1)
        troubles.over()  # and from anew once they were good again


@pytest.mark.parametrize("error", CERTAIN, ids=lambda error: type(error).__name__)
def test_what_is_certainly_wrong_is_told_at_once_unless_calls_have_worked(error: SchedulerError) -> None:
    clock = Time()
    troubles = Troubles(clock)
    troubles.met(NotPermitted("not yet"))
    assert told_after(troubles, clock, error) == 0
    troubles.over()
    assert told_after(troubles, clock, error) == pytest.approx(REFUSAL_PATIENCE, abs=1)


def test_a_throttle_is_borne_for_ever_and_takes_nothing_from_the_patience_with_refusals() -> None:
    clock = Time()
    troubles = Troubles(clock)
    for _ in range(100):
        troubles.met(Throttled("later"))
        clock.sleep(troubles.delay)
    assert clock.now() > 10 * REFUSAL_PATIENCE
    assert told_after(troubles, clock, NotPermitted("expired")) == pytest.approx(REFUSAL_PATIENCE, abs=1)
