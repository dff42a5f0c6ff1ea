"""Who the job of a call is."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prefect import flow, task

from sched_plugins.core import limits
from sched_plugins.errors import InvalidInput
from sched_plugins.prefect.identity import CallIdentity, current_identity

TEXTS = st.text(max_size=250) | st.sampled_from(["a/b", "a%2Fb", "", "%", "/", "0"])
IDENTITIES = st.builds(CallIdentity, TEXTS, st.lists(TEXTS, min_size=1, max_size=3).map(tuple))


@given(IDENTITIES, IDENTITIES)
def test_different_calls_have_different_runs_and_the_same_ones_the_same(one: CallIdentity, other: CallIdentity) -> None:
    same = (one.flow_run_id, one.parts) == (other.flow_run_id, other.parts)
    assert (one.digest == other.digest) is same
    if one.flow_run_id != "no-flow" != other.flow_run_id:
        assert (one.job_id == other.job_id) is same


@given(IDENTITIES)
def test_a_job_id_is_within_its_limit_and_the_try_is_no_part_of_it(one: CallIdentity) -> None:
    assert len(one.job_id.encode()) <= limits.MAX_JOB_ID_BYTES
    later = replace(one, run_count=7)
    assert (later.job_id, later.digest) == (one.job_id, one.digest)


def test_the_jobs_of_a_batch_are_numbered() -> None:
    batch = CallIdentity("f", ("submit_jobs", "0"))
    assert [batch.numbered(number).job_id for number in (0, 12)] == [
        "prefect/f/submit_jobs/0/000000",
        "prefect/f/submit_jobs/0/000012",
    ]


@pytest.mark.usefixtures("prefect_server")
def test_calls_are_numbered_in_each_try_of_a_flow_run_and_for_all_tries_of_a_task_run() -> None:
    told: list[tuple[str, str]] = []

    @task(retries=1)
    def call() -> None:
        identity = current_identity(None)
        told.append(identity.parts)
        if len(told) == 1:
            raise RuntimeError("once more")

    @flow(retries=1)
    def twice() -> None:
        call()
        call()
        if len(told) == 3:
            raise RuntimeError("all of it")

    twice()
    assert told == [("call", "0"), ("call", "0"), ("call", "1"), ("call", "0"), ("call", "1")]


@pytest.mark.usefixtures("prefect_server")
def test_two_calls_with_one_key_are_refused_and_a_retry_is_not() -> None:
    @task
    def call(key: str) -> None:
        with current_identity(key).claimed():
            pass

    seen: list[int] = []

    @flow(retries=1)
    def tries() -> None:
        call("a")
        seen.append(1)
        if len(seen) == 1:
            raise RuntimeError("once more")
        call("a")

    with pytest.raises(InvalidInput, match="is used by two calls of this flow run"):
        tries()
    assert seen == [1, 1]
