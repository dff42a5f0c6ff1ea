"""Who the job of a call is."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from prefect import flow, runtime, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.flow_engine import run_flow
from prefect.states import Pending

from sched_plugins.core.state import Status
from sched_plugins.errors import InvalidInput, InvalidJob
from sched_plugins.prefect.identity import Caller, CallIdentity, _stable
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
def test_a_flow_that_a_flow_calls_finds_its_calls_again_when_the_outer_one_is_retried() -> None:
    runs: list[str] = []

    @flow
    def inner(case: str) -> None:
        runs.append(str(runtime.flow_run.id))
        call("solve")
        call("keyed", job_key="solve")
        raise RuntimeError(case)

    @flow
    def middle(case: str) -> None:
        inner(case)

    @task
    def within(case: str) -> None:
        inner(case, return_state=True)

    def once(*cases: str) -> list[list[str]]:
        told.clear()
        for case in cases:
            inner(case, return_state=True)
        middle("a", return_state=True)
        within("a")
        return [told[first : first + 2] for first in range(0, len(told), 2)]

    found: list[list[list[str]]] = []

    @flow(retries=1)
    def outer() -> None:
        found.append(once(*(("b", "c", "a") if found else ("a", "b", "b"))))
        if len(found) == 1:
            raise RuntimeError("once more")

    outer()
    (a, b, second_b, nested, in_task), (again_b, c, again_a, again_nested, again_in_task) = found
    assert len(set(runs)) == 10, "Prefect makes a flow run that failed anew"
    assert len({*a, *b, *second_b, *nested, *in_task, *c}) == 12, "other calls have other jobs"
    assert (again_a, again_b, again_nested, again_in_task) == (a, b, nested, in_task)


@pytest.mark.usefixtures("prefect_server")
def test_a_task_that_calls_a_flow_anew_finds_the_calls_of_that() -> None:
    @flow
    def inner() -> None:
        call("solve")
        if len(told) == 1:
            raise RuntimeError("once more")

    @task(retries=1)
    def within() -> None:
        inner()

    @flow
    def outer() -> None:
        within()
        inner()

    outer()
    first, again, another = told
    assert first == again != another


def test_a_flow_run_of_a_deployment_is_known_by_itself_whoever_started_it(prefect_server: str) -> None:
    @flow
    def child() -> None:
        told.append(Caller().identity({"what": 1}).job_id)
        told.append(Caller().root_id)

    @flow
    def outer() -> None:
        with get_client(sync_client=True) as client:
            state = Pending()
            parent = client.create_task_run(within, runtime.flow_run.id, dynamic_key="0", state=state)
            runs.extend(client.create_flow_run(child, parent_task_run_id=parent.id, state=state) for _ in range(2))

    @task
    def within() -> None: ...

    runs: list[FlowRun] = []
    outer()
    for one in runs:
        run_flow(child, flow_run=one)
    first, root, second, second_root = told
    assert [root, second_root] == [str(one.id) for one in runs]
    assert f"prefect/{runs[0].id}/" in first
    assert f"prefect/{runs[1].id}/" in second


def test_parameters_are_told_alike_in_every_process() -> None:
    assert _stable({"b", "a", "c"}) == sorted(_stable({"c", "b", "a"}))
    assert _stable({"x": {2, 1}, 1: [Path("a"), Status.FAILED, object()]}) == {
        "str x": ["1", "2"], "int 1": ["a", Status.FAILED.value, "builtins.object"],
    }  # fmt: skip


@pytest.mark.usefixtures("prefect_server")
def test_jobs_of_batches_are_known_whichever_batch_comes_first() -> None:
    found: list[list[str]] = []

    @task
    def batch(contents: list[str]) -> None:
        found.append([one.job_id for one in Caller().batch([{"what": one} for one in contents])])

    @flow(retries=1)
    def twice() -> None:
        order = [["x", "x"], ["y", "x"]] if not found else [["y"], ["x", "x"]]
        for contents in order:
            batch(contents)
        if len(found) == 2:
            raise RuntimeError("once more")

    twice()
    x, yx, again_y, again_x = found
    assert len({*x, *yx}) == 4
    assert again_y == yx[:1]
    assert again_x == x


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
