"""Who the job of a call is."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from prefect import flow, runtime, task

from sched_plugins.errors import InvalidInput, InvalidJob
from sched_plugins.prefect.identity import Caller, CallIdentity
from sched_plugins.prefect.submission import labelled
from sched_plugins.prefect.tasks.dispatch import aio, dual

told: list[str] = []


@aio(name="call")
async def acall(what: str, job_key: str | None = None) -> str:
    told.append(Caller(job_key).identity({"what": what}).job_id)
    return told[-1]


@dual(acall, name="call")
def call(what: str, job_key: str | None = None) -> str:
    told.append(Caller(job_key).identity({"what": what}).job_id)
    return told[-1]


@pytest.fixture(autouse=True)
def nothing_told() -> None:
    told.clear()


def tries(function: Any) -> list[list[str]]:
    """What is told in each of two tries of a flow run."""
    seen: list[list[str]] = []

    @flow(retries=1)
    def twice() -> None:
        told.clear()
        function(len(seen))
        seen.append(list(told))
        if len(seen) == 1:
            raise RuntimeError("once more")

    twice()
    return seen


@pytest.mark.usefixtures("prefect_server")
def test_a_retry_finds_the_same_calls_though_their_order_differs_and_none_takes_anothers_place() -> None:
    def calls(number: int) -> None:
        for what in ("mesh", "solve", "solve") if number == 0 else ("solve", "solve"):
            call(what)

    first, second = tries(calls)
    assert len(set(first)) == 3
    assert second == first[1:], "what is left out is not taken for what comes next"


@pytest.mark.usefixtures("prefect_server")
def test_a_task_that_is_retried_finds_the_calls_that_it_made() -> None:
    failed: list[str] = []

    @task(retries=1)
    def outer(name: str) -> None:
        call("same")
        call("same")
        call("keyed", job_key=name)
        if name not in failed:
            failed.append(name)
            raise RuntimeError("once more")

    @flow
    def one() -> None:
        outer("a")
        outer("b")

    one()
    a, again_a, b, again_b = told[0:3], told[3:6], told[6:9], told[9:12]
    assert a == again_a
    assert b == again_b
    assert len({*a, *b}) == 6


@pytest.mark.usefixtures("prefect_server")
def test_two_calls_with_one_key_are_refused_and_a_retry_is_not() -> None:
    def calls(number: int) -> None:
        call("x", job_key="a")
        if number:
            with pytest.raises(InvalidInput, match="is used by two calls of this flow run"):
                call("y", job_key="a")

    first, second = tries(calls)
    assert first == second[:1]


@pytest.mark.usefixtures("prefect_server")
def test_jobs_of_a_batch_are_known_by_what_they_do() -> None:
    found: list[list[str]] = []

    @task
    def batch(contents: list[str]) -> None:
        each = Caller().batch([{"what": one} for one in contents])
        found.append([one.job_id for one in each])

    @flow(retries=1)
    def twice() -> None:
        batch(["x", "y", "z", "z"] if not found else ["z", "y"])
        if len(found) == 1:
            raise RuntimeError("once more")

    twice()
    first, second = found
    assert len(set(first)) == 4
    assert second == [first[2], first[1]]


@pytest.mark.usefixtures("prefect_server")
def test_jobs_of_a_flow_run_within_another_are_of_the_outer_ones_group() -> None:
    groups: list[str] = []

    @flow
    def inner() -> None:
        groups.append(Caller().identity({}).group_id)

    @flow
    def outer() -> None:
        groups.append(Caller().identity({}).group_id)
        inner()

    outer()
    assert len(set(groups)) == 1


@pytest.mark.usefixtures("prefect_server")
def test_a_flow_run_within_another_finds_its_calls_again_when_the_outer_one_is_retried() -> None:
    runs: list[str] = []

    @flow
    def inner(case: str) -> None:
        runs.append(str(runtime.flow_run.id))
        call("solve")
        call("keyed", job_key="solve")
        raise RuntimeError(case)

    @flow(retries=1)
    def outer() -> None:
        is_retry = bool(told)
        for case in ("a", "c", "b") if is_retry else ("a", "b", "b"):
            inner(case, return_state=True)
        if not is_retry:
            raise RuntimeError("once more")

    outer()
    assert len(set(runs)) == 6, "Prefect makes a flow run that failed anew"
    a, b, second_b, again_a, c, again_b = (told[first : first + 2] for first in range(0, 12, 2))
    assert len({*a, *b, *second_b, *c}) == 8, "other calls have other jobs, also where only parameters differ"
    assert again_a == a
    assert again_b == second_b


def test_a_key_names_nothing_outside_a_flow_run() -> None:
    with pytest.raises(InvalidInput, match="names a job within a flow run, and this is none"):
        Caller("k")
    with ThreadPoolExecutor(1) as pool:
        first, second = (pool.submit(lambda: Caller().identity({"what": 1})).result() for _ in range(2))
    assert first.job_id != second.job_id


def test_fields_that_are_not_the_users_are_refused() -> None:
    identity = CallIdentity("f", ("a",), group_id="prefect-f")
    for field, words in (("job_id", "job_key"), ("group_id", "use tags")):
        with pytest.raises(InvalidJob, match=words):
            labelled({"commands": ["x"], field: "mine"}, identity)
