"""The client against the shipped templates: jobs, uploads, stages, output and results, really run."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from deployed import PATIENCE, SCHEDULER, DeployedStack, deployed
from fleet_client import eventually

from sched_plugins.client import EnvironmentClient, Outcome, Run, SchedulerClient, Standing, Status
from sched_plugins.core import names
from sched_plugins.errors import Conflict, EnvironmentNotFound, JobConflict, JobNotFound, NotFound, WaitTimeout

ENVIRONMENT = "box"
AWKWARD = "a b+c ü 'q' \"d\" $(touch x); {{ssm:x}} &%41.txt"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeployedStack]:
    environments = {ENVIRONMENT: {"MaxWorkers": 1, "Retry": 1, "SuccessString": "copied"}}
    with deployed(tmp_path_factory.mktemp("client"), environments) as found:
        yield found


@pytest.fixture
def client(stack: DeployedStack) -> SchedulerClient:
    return SchedulerClient(SCHEDULER)


@pytest.fixture
def environment(stack: DeployedStack) -> EnvironmentClient:
    return EnvironmentClient(ENVIRONMENT)


def test_a_job_is_submitted_followed_and_read(stack: DeployedStack, client: SchedulerClient) -> None:
    spec = {"job_id": "hello", "commands": ["echo Hello World"], "job_success_string": "World"}
    submitted = client.submit(spec)
    assert client.submit(spec).outcome is Outcome.EXISTING
    with pytest.raises(JobConflict):
        client.submit({"job_id": "hello", "commands": ["other"]})
    stack.worker()
    states: list[str] = []
    job = client.wait(submitted, timeout=PATIENCE, on_change=lambda one: states.append(str(one.status)))
    assert (job.status, job.exit_code, job.run_id) == (Status.SUCCEEDED, 0, submitted.run_id)
    assert (states[0], states[-1]) == ("QUEUED", "SUCCEEDED")
    assert "".join(chunk.text for chunk in client.logs("hello")) == "Hello World\n"
    assert "hello" in [job.job_id for job in client.list(statuses={Status.SUCCEEDED})]


def test_output_is_followed_through_retries(stack: DeployedStack, client: SchedulerClient) -> None:
    line = "echo line; echo warning >&2; sleep 1; exit 3"
    submitted = client.submit({"job_id": "retried", "retry": 1, "commands": [line]})
    stack.worker()
    seen: list[tuple[int, str]] = []
    before_the_end = 0
    for chunk in client.logs("retried", follow=True, run_id=submitted.run_id, timeout=PATIENCE):
        seen.append((chunk.attempt, chunk.text))
        before_the_end += not client.get("retried").is_terminal
    told = {attempt: "".join(text for number, text in seen if number == attempt) for attempt, _ in seen}
    assert told == {1: "line\n", 2: "line\n"}
    assert before_the_end >= 1, "the first try's output is shown while the second one is still to come"
    job = client.wait(submitted)
    assert (job.status, job.retries, job.status_reason) == (Status.FAILED, 1, "exit code 3")
    assert "".join(chunk.text for chunk in client.logs("retried", stream="stderr", attempt=1)) == "warning\n"


def test_long_output_is_complete(stack: DeployedStack, client: SchedulerClient) -> None:
    submitted = client.submit({"job_id": "long", "commands": ["seq 20000"]})
    stack.worker()
    assert client.wait(submitted, timeout=PATIENCE).status is Status.SUCCEEDED
    whole = "".join(f"{number}\n" for number in range(1, 20001))
    assert "".join(chunk.text for chunk in client.logs("long")) == whole


def test_many_jobs_are_waited_for_together(stack: DeployedStack, client: SchedulerClient) -> None:
    answers = client.submit_many(
        {"job_id": f"many-{n}", "group_id": "many", "commands": [f"exit {n % 2}"]} for n in range(14)
    )
    assert {answer.outcome for answer in answers} == {Outcome.ACCEPTED}
    stack.worker()
    stack.worker()
    assert {worker.queue for worker in client.workers()} <= {f"{SCHEDULER}-job-queue", f"{ENVIRONMENT}-job-queue"}

    async def some() -> list[str]:
        jobs = await client.await_many(answers[:4], timeout=PATIENCE)
        return [str(job.status) for job in jobs]

    assert asyncio.run(some()) == ["SUCCEEDED", "FAILED"] * 2
    jobs = client.wait_all(answers, timeout=PATIENCE)
    assert [str(job.status) for job in jobs] == ["SUCCEEDED", "FAILED"] * 7
    assert len(client.list(group="many", limit=100)) == 14


def test_a_running_job_is_cancelled(stack: DeployedStack, client: SchedulerClient) -> None:
    submitted = client.submit({"job_id": "slow", "commands": ["echo begun; sleep 600"]})
    stack.worker()
    stack.running("slow")
    with pytest.raises(WaitTimeout, match="'slow'"):
        client.wait(submitted, timeout=0)
    assert client.cancel("slow").outcome == "requested"
    assert client.wait(submitted, timeout=PATIENCE).status is Status.CANCELLED
    assert client.cancel("slow").outcome == "ended already"
    with pytest.raises(JobNotFound):
        client.cancel("none")


def test_a_later_run_is_told_from_an_earlier_one(client: SchedulerClient) -> None:
    first = client.submit({"job_id": "again", "commands": ["sleep 600"]})
    client.cancel("again")
    client.wait(first, timeout=PATIENCE)  # a worker of an earlier test may have taken it
    second = client.submit({"job_id": "again", "commands": ["sleep 600"]})
    assert second.outcome is Outcome.ACCEPTED
    with pytest.raises(Conflict, match=f"now tells of run '{second.run_id}'"):
        client.wait(first, timeout=5)
    client.cancel("again")
    ends = {one.run: one.standing for one in client.watch([first, second], timeout=PATIENCE)}
    assert ends == {first.run: Standing.SUPERSEDED, second.run: Standing.ENDED}


def test_a_folder_is_uploaded_run_and_fetched(environment: EnvironmentClient, tmp_path: Path) -> None:
    folder = tmp_path / "case ü"
    (folder / "deep er").mkdir(parents=True)
    (folder / "deep er" / AWKWARD).write_text("input")
    (folder / "run.sh").write_text(
        f"#!/bin/sh\ncat deep*/* > out.txt\necho {'{'}{'}'} > 'new {AWKWARD[:5]}'\necho copied\n"
    )
    uploaded = environment.upload(folder, "run.sh")
    job = environment.wait(uploaded.run, timeout=PATIENCE)
    assert (job.status, job.job_id) == (Status.SUCCEEDED, f"s3://{environment.bucket}/case ü/run.sh")
    fetched = environment.results(job, tmp_path / "got")
    assert {str(path) for path in fetched.files} == {
        "run.sh", f"deep er/{AWKWARD}", "out.txt", f"new {AWKWARD[:5]}",
    }  # fmt: skip
    assert (tmp_path / "got" / "out.txt").read_text() == "input"
    again = environment.upload(folder, "run.sh")
    later = environment.wait(again.run, timeout=PATIENCE)
    assert (again.after, later.status) == (job.run_id, Status.SUCCEEDED)
    assert later.run_id != job.run_id
    listed = environment.list(statuses={Status.SUCCEEDED})
    assert job.job_id in {one.job_id for one in listed}
    assert {one.queue for one in listed} == {environment.queue}


def test_jobs_for_an_environment_bring_its_workers_at_once(stack: DeployedStack, client: SchedulerClient) -> None:
    spec = {"job_id": "brings a worker", "commands": ["echo copied"]}
    client.submit_many([spec], environment=ENVIRONMENT)
    groups = stack.autoscaling.describe_auto_scaling_groups(AutoScalingGroupNames=[names.group(ENVIRONMENT)])
    assert groups["AutoScalingGroups"][0]["DesiredCapacity"] == 1
    assert client.wait(spec["job_id"], timeout=PATIENCE).status is Status.SUCCEEDED


def test_a_stage_is_started(environment: EnvironmentClient, tmp_path: Path) -> None:
    script = tmp_path / "stage.sh"
    script.write_text('#!/bin/sh\nprintf "%s" "$SCHED_PARAMETERS" > told.json\necho copied\n')
    uri = f"s3://{environment.bucket}/executables/stage.sh"
    environment.store(uri, script, metadata={"sched-environment": ENVIRONMENT})
    output = f"s3://{environment.bucket}/staged/"
    started = environment.start_stage(
        executable=uri, outputs=[output], job_id="stage-1", parameters={"re": 20}, settings={"retry": 0}
    )
    job = environment.wait(started, timeout=PATIENCE, check=True)
    assert (job.queue, job.spec.results_uri) == (environment.queue, output)
    environment.results(job, tmp_path / "got")
    assert (tmp_path / "got" / "told.json").read_text() == '{"re":20}' or "20" in (
        tmp_path / "got" / "told.json"
    ).read_text()
    with pytest.raises(JobNotFound):
        environment.get(uri)


def test_an_untagged_instance_is_attached(stack: DeployedStack, client: SchedulerClient) -> None:
    submitted = client.submit({"job_id": "attached", "commands": ["true"]})
    instance = stack.launch()
    slot = client.attach(instance)
    assert client.attach(instance) == slot, "repeating it changes nothing"
    job = client.wait(submitted, timeout=PATIENCE)
    assert (job.status, job.worker_id) == (Status.SUCCEEDED, instance)
    stack.gone(instance)
    with pytest.raises(NotFound, match=instance):
        client.attach(instance)


def test_workers_and_queues_are_shown(stack: DeployedStack, client: SchedulerClient) -> None:
    client.submit({"job_id": "held", "commands": ["sleep 600"]})
    worker = stack.worker()
    stack.running("held")
    [one] = [one for one in client.workers() if one.worker_id == worker]
    assert (one.state, one.job_id, one.queue, one.instance_state) == (
        "HELD",
        "held",
        f"{SCHEDULER}-job-queue",
        "running",
    )
    queues = {queue.name: queue for queue in client.queues()}
    assert {f"{SCHEDULER}-job-queue", f"{ENVIRONMENT}-job-queue"} <= queues.keys()
    assert queues[f"{SCHEDULER}-job-queue"].workers_busy == 1
    client.cancel("held")
    client.wait("held", timeout=PATIENCE)
    eventually(lambda: client.queues()[0].failed > 0, PATIENCE)


def test_what_is_not_deployed_is_named(stack: DeployedStack) -> None:
    with pytest.raises(NotFound, match="sched deploy scheduler elsewhere"):
        SchedulerClient("elsewhere").submit({"commands": ["x"]})
    with pytest.raises(NotFound, match="sched deploy scheduler elsewhere"):
        SchedulerClient("elsewhere").wait(Run("x"), timeout=1)
    for name in ("elsewhere", SCHEDULER):
        with pytest.raises(EnvironmentNotFound, match=name):
            EnvironmentClient(name)
