"""The tasks against a real server and a real stack: jobs of flows, found again by retries."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from pathlib import Path
from typing import Any

import pytest
from deployed import SCHEDULER, DeployedStack
from fleet_client import eventually
from prefect import flow, runtime, task, unmapped
from prefect.exceptions import CancelledRun, FailedRun
from prefect_stack import ENVIRONMENT

from sched_plugins.client import SchedulerClient
from sched_plugins.errors import EnvironmentNotFound, InvalidInput, InvalidJob, JobNotFound, NotFound, SchedulerNotFound
from sched_plugins.prefect import (
    JobHandle,
    JobResult,
    JobRunCancelled,
    JobRunFailed,
    JobWaitTimeout,
    SchedulerJob,
    ServerlessScheduler,
    arun_job,
    await_for_jobs,
    cancel_job,
    cancel_jobs,
    job_logs,
    run_job,
    run_stage,
    submit_job,
    submit_jobs,
    wait_for_job,
    wait_for_jobs,
)
from sched_plugins.prefect.cancellation import cancel_live_jobs

pytestmark = pytest.mark.usefixtures("prefect_and_stack")
HERE = ServerlessScheduler(scheduler=SCHEDULER, environment=ENVIRONMENT)


def test_a_flow_runs_a_job_and_its_log_shows_what_it_wrote(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    @flow
    def one() -> JobResult:
        return run_job("echo from the job", scheduler=HERE)

    found = one()
    assert (found.status, found.exit_code, found.attempt) == ("SUCCEEDED", 0, 1)
    assert "from the job" in caplog.text
    assert f"SUCCEEDED on worker {found.worker_id}" in caplog.text
    job = SchedulerClient(SCHEDULER).get(found.job_id)
    assert job.spec.tags["prefect_flow_name"] == "one"
    assert job.spec.group_id == f"prefect-{job.spec.tags['prefect_flow_run_id']}"


def test_a_failed_job_raises_prefects_and_the_packages_error_with_its_stderr(caplog: pytest.LogCaptureFixture) -> None:
    @flow
    def one() -> JobResult:
        return run_job(["echo why >&2", "exit 3"], scheduler=HERE)

    with pytest.raises(JobRunFailed, match=r"ended FAILED after 1 attempt\(s\): exit code 3") as told:
        one()
    assert isinstance(told.value, FailedRun)
    assert "why" in caplog.text


def test_a_retry_of_the_flow_takes_what_succeeded_and_runs_what_failed_anew(tmp_path: Path) -> None:
    counts, may = tmp_path / "counts", tmp_path / "may"

    @flow(retries=1)
    def twice() -> list[JobResult]:
        first = run_job(f"echo first >> {counts}", scheduler=HERE)
        second = run_job([f"echo second >> {counts}", f"test -e {may}"], scheduler=HERE, check=False)
        if not second.succeeded:
            may.touch()
            raise RuntimeError("once more")
        return [first, second]

    first, second = twice()
    assert counts.read_text().split() == ["first", "second", "second"]
    assert first.run_id.endswith("-1")
    assert second.run_id.endswith("-2")


def test_a_retry_of_the_task_runs_a_failed_job_anew(tmp_path: Path) -> None:
    tries = tmp_path / "tries"

    @flow
    def one() -> JobResult:
        command = f"echo x >> {tries}; test $(wc -l < {tries}) -eq 2"
        return run_job.with_options(retries=1)(command, scheduler=HERE)

    assert one().run_id.endswith("-2")


def test_mapped_jobs_with_keys_keep_their_own_results() -> None:
    @flow
    def many() -> list[str]:
        numbers = ["1", "2", "3"]
        futures = run_job.map(
            [f"echo number {number}" for number in numbers],
            scheduler=unmapped(HERE),
            job_key=[f"case-{number}" for number in numbers],
        )
        return [job_logs(result, scheduler=HERE) for result in futures.result()]

    assert many() == ["number 1\n", "number 2\n", "number 3\n"]


def test_two_calls_with_one_job_key_are_refused() -> None:
    @flow
    def one() -> None:
        run_job("echo 1", scheduler=HERE, job_key="same")
        run_job("echo 2", scheduler=HERE, job_key="same")

    with pytest.raises(InvalidInput, match="is used by two calls of this flow run"):
        one()


def test_a_forgotten_unmapped_is_told_of() -> None:
    @flow
    def one() -> Any:
        return run_job.map(["echo 1"], scheduler=[HERE, HERE]).result()

    with pytest.raises(Exception, match=r"same length|unmapped"):
        one()


def test_the_async_form_and_the_sync_one_in_async_code_do_the_same() -> None:
    @flow
    async def one() -> list[JobResult]:
        both = await asyncio.gather(
            arun_job("echo a", scheduler=HERE, job_key="a"), run_job("echo b", scheduler=HERE, job_key="b")
        )
        return list(both)

    assert [result.status for result in asyncio.run(one())] == ["SUCCEEDED"] * 2


def test_a_batch_is_submitted_and_waited_for_together(caplog: pytest.LogCaptureFixture) -> None:
    @flow
    def batch() -> Any:
        jobs = submit_jobs(["true", {"commands": "false"}, ["true"]], common={"retry": 0}, scheduler=HERE)
        with pytest.raises(JobRunFailed, match="1 of 3 jobs did not succeed"):
            wait_for_jobs(jobs, scheduler=HERE)
        return wait_for_jobs(jobs, scheduler=HERE, allowed_failures=1)

    found = batch()
    assert [result.status for result in found.results] == ["SUCCEEDED", "FAILED", "SUCCEEDED"]
    assert found.counts == {"SUCCEEDED": 2, "FAILED": 1}
    assert len(found.failures) == 1


def test_an_async_batch() -> None:
    @flow
    async def batch() -> Any:
        jobs = await submit_jobs(["true", "true"], scheduler=HERE)
        return await await_for_jobs(jobs, scheduler=HERE)

    assert asyncio.run(batch()).counts == {"SUCCEEDED": 2}


def test_a_job_is_cancelled_and_its_wait_says_so() -> None:
    @flow
    def one() -> None:
        handle = submit_job("sleep 60", scheduler=HERE)
        assert isinstance(handle, JobHandle)
        cancel_job(handle, scheduler=HERE)
        wait_for_job(handle, scheduler=HERE)

    with pytest.raises(JobRunCancelled) as told:
        one()
    assert isinstance(told.value, CancelledRun)


def test_a_wait_that_is_over_leaves_the_job_alone(stack: DeployedStack) -> None:
    @flow
    def one() -> JobHandle:
        handle = submit_job("sleep 60", scheduler=HERE)
        with pytest.raises(JobWaitTimeout, match=r"after 0\.5 s .* had not ended") as told:
            wait_for_job(handle, scheduler=HERE, timeout=0.5, cancel_on_interrupt=False)
        assert isinstance(told.value, TimeoutError)
        return handle

    handle = one()
    client = SchedulerClient(SCHEDULER)
    assert not client.get(handle.job_id).is_terminal
    client.cancel(handle.job_id)


def test_an_interrupted_task_ends_its_job() -> None:
    handles: list[str] = []

    @task(timeout_seconds=3)
    def slow() -> None:
        handle = submit_job("sleep 300", scheduler=HERE)
        handles.append(handle.job_id)
        wait_for_job(handle, scheduler=HERE)

    @flow
    def one() -> None:
        slow()

    with pytest.raises(Exception, match=r"[Tt]ime"):
        one()
    client = SchedulerClient(SCHEDULER)
    assert eventually(lambda: client.get(handles[0]).is_terminal, 30)
    assert client.get(handles[0]).status == "CANCELLED"


def test_a_timeout_of_a_task_in_a_thread_ends_its_job() -> None:
    slow = run_job.with_options(timeout_seconds=3)

    @flow
    def one() -> None:
        slow.submit("sleep 300", scheduler=HERE, job_key="slow").result()

    with pytest.raises(Exception, match=r"[Tt]ime"):
        one()
    client = SchedulerClient(SCHEDULER)
    [job] = [job for job in client.list(limit=100) if job.job_id.endswith("/slow")]
    assert eventually(lambda: client.get(job.job_id).status == "CANCELLED", 30)


def test_an_async_task_that_is_interrupted_while_it_submits_leaves_no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    client = HERE.jobs()
    submit = type(client).submit

    def slowly(self: Any, *arguments: Any, **options: Any) -> Any:
        time.sleep(3)
        return submit(self, *arguments, **options)

    monkeypatch.setattr(type(client), "submit", slowly)

    @flow
    async def one() -> None:
        await arun_job.with_options(timeout_seconds=1)("sleep 300", scheduler=HERE, job_key="never")

    with pytest.raises(Exception, match=r"[Tt]ime"):
        asyncio.run(one())
    [job] = [job for job in SchedulerClient(SCHEDULER).list(limit=100) if job.job_id.endswith("/never")]
    assert eventually(lambda: SchedulerClient(SCHEDULER).get(job.job_id).status == "CANCELLED", 30)


def test_cancelling_a_flow_run_finds_the_jobs_of_the_flow_runs_within_it() -> None:
    ids: list[str] = []

    @flow
    def inner() -> None:
        ids.append(submit_job("sleep 300", scheduler=HERE).job_id)

    @flow
    def outer() -> None:
        inner()
        ids.append(str(runtime.flow_run.id))

    outer()
    client = SchedulerClient(SCHEDULER)
    assert cancel_live_jobs(client, ids[1]) == [ids[0]]
    assert eventually(lambda: client.get(ids[0]).status == "CANCELLED", 30)


def test_what_an_environment_was_given_is_waited_for_without_naming_a_scheduler(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("SCHED_SCHEDULER", raising=False)

    @flow
    def one() -> Any:
        jobs = submit_jobs(["echo one"], environment=ENVIRONMENT)
        twice = [*jobs.handles, *jobs.handles]
        [result] = wait_for_jobs(twice).results
        assert job_logs(result) == "one\n"
        return wait_for_job(submit_job("echo two", environment=ENVIRONMENT))

    assert one().status == "SUCCEEDED"


def test_the_hook_cancels_what_a_crashed_flow_run_has_submitted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SCHED_SCHEDULER", raising=False)
    handles: list[str] = []

    @flow(on_crashed=[functools.partial(cancel_jobs, scheduler=HERE)])
    def crashes() -> None:
        handles.append(submit_job("sleep 300", scheduler=HERE).job_id)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        crashes()
    client = SchedulerClient(SCHEDULER)
    assert eventually(lambda: client.get(handles[0]).is_terminal, 30)


def test_the_hook_of_a_flow_that_another_calls_cancels_its_jobs_alone() -> None:
    handles: dict[str, str] = {}

    @flow
    def innermost() -> None:
        handles["innermost"] = submit_job("sleep 300", scheduler=HERE).job_id

    @flow(on_failure=[functools.partial(cancel_jobs, scheduler=HERE)])
    def inner() -> None:
        handles["inner"] = submit_job("sleep 301", scheduler=HERE).job_id
        innermost()
        raise ValueError("wrong")

    @flow
    def outer() -> None:
        handles["outer"] = submit_job("sleep 302", scheduler=HERE).job_id
        inner(return_state=True)

    outer()
    client = SchedulerClient(SCHEDULER)
    try:
        assert eventually(lambda: all(client.get(handles[one]).is_terminal for one in ("inner", "innermost")), 30)
        assert not client.get(handles["outer"]).cancel_requested
    finally:
        client.cancel(handles["outer"])


def test_stages_hand_on_their_results(tmp_path: Path) -> None:
    (tmp_path / "inputs").mkdir()
    (tmp_path / "inputs" / "name.txt").write_text("flow")
    first, second = tmp_path / "first.sh", tmp_path / "second.sh"
    first.write_text("#!/bin/sh\nsed s/^/over/ name.txt > made.txt\n")
    second.write_text("#!/bin/sh\ncat made.txt\n")

    @flow
    def two() -> str:
        made = run_stage(first, environment=ENVIRONMENT, input_folder=tmp_path / "inputs")
        assert made.results_uri.startswith(f"s3://{ENVIRONMENT}-")
        shown = run_stage(second, environment=ENVIRONMENT, inputs=made)
        return job_logs(shown, scheduler=SCHEDULER)

    assert two() == "overflow"


def test_the_job_block_triggers_waits_and_fetches() -> None:
    block = SchedulerJob(scheduler=HERE, commands=["echo block"])
    run = block.trigger()
    with pytest.raises(InvalidInput, match="was not waited for"):
        run.fetch_result()
    run.wait_for_completion()
    assert run.fetch_result().status == "SUCCEEDED"


BAD: tuple[tuple[Any, type[Exception], str], ...] = (
    (lambda: run_job("x", scheduler=HERE, timeout="soon"), InvalidInput, "timeout is 'soon'; give a number of seconds"),
    (lambda: run_job("x", environment=17), InvalidInput, "environment is 17 .int.; give its stack name"),
    (lambda: run_job("x", scheduler="nowhere"), SchedulerNotFound, "there is no scheduler 'nowhere'"),
    (lambda: run_job("x", scheduler=SCHEDULER, environment="nobox"), EnvironmentNotFound, "nobox"),
    (lambda: run_job("x", scheduler=HERE, queue="no-such-queue"), NotFound, "no-such-queue"),
    (lambda: run_job({"commands": ["x"], "retrys": 1}, scheduler=HERE), InvalidJob, "retrys: is no field of a job"),
    (lambda: run_job(7, scheduler=HERE), InvalidJob, r"job is '7' \(int\); give a command"),
    (lambda: run_job("x"), InvalidInput, "no scheduler is named"),
    (lambda: run_job("x", scheduler=HERE, job_key=" "), InvalidInput, "job_key is ' '"),
    (lambda: submit_jobs([], scheduler=HERE), InvalidJob, "jobs is empty"),
    (lambda: submit_jobs("true", scheduler=HERE), InvalidJob, "give a list of jobs"),
    (lambda: wait_for_job("no-such-job", scheduler=HERE), JobNotFound, "no-such-job"),
    (lambda: run_stage("gone.sh", environment=ENVIRONMENT), NotFound, "there is no file 'gone.sh' here"),
    (lambda: run_stage("/bin/true", environment=ENVIRONMENT, inputs=f"s3://{ENVIRONMENT}-000000000000-drop-job-files/no/"),
     NotFound, "there is nothing in"),
)  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "words"), BAD)
def test_bad_input_is_refused_with_the_value_and_the_next_step(
    call: Any, kind: type[Exception], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SCHED_SCHEDULER", raising=False)
    before = {job.job_id for job in SchedulerClient(SCHEDULER).list(limit=1000)}

    @flow
    def one() -> Any:
        return call()

    with pytest.raises(kind, match=words):
        one()
    assert {job.job_id for job in SchedulerClient(SCHEDULER).list(limit=1000)} == before
