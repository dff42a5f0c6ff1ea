"""Submitting and cancelling: the real handlers on moto's tables, with Lambda's answers lost and delayed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError
from client_stack import NAME, ClientStack, client_stack, session

from sched_plugins.client import JobSpec, Outcome, SchedulerClient, Status
from sched_plugins.client.submission import job_entry
from sched_plugins.errors import (
    Busy,
    Conflict,
    EnvironmentNotFound,
    InvalidInput,
    InvalidJob,
    InvalidSettings,
    JobConflict,
    JobNotFound,
    NotFound,
    NotPermitted,
    SchedulerNotFound,
    Throttled,
    Unknown,
)

JOB = {"job_id": "a", "commands": ["echo hi"]}


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch) -> Iterator[ClientStack]:
    with client_stack(monkeypatch) as found:
        yield found


def refused(code: str, status: int = 400) -> ClientError:
    """What boto3 raises when AWS says no."""
    return ClientError(
        {"Error": {"Code": code, "Message": "no"}, "ResponseMetadata": {"HTTPStatusCode": status}},  # type: ignore[typeddict-item]
        "Invoke",
    )


def test_a_submitted_job_is_queued_with_the_run_id_that_was_answered(stack: ClientStack) -> None:
    answer = stack.client.submit(JOB)
    job = stack.client.get("a")
    assert (answer.outcome, answer.run_id, answer.status) == (Outcome.ACCEPTED, job.run_id, "QUEUED")
    assert (job.queue, job.spec.ssm_document, job.spec.retry) == (f"{NAME}-job-queue", "AWS-RunShellScript", 0)


def test_jobs_for_an_environment_go_through_its_own_function_which_starts_workers(stack: ClientStack) -> None:
    stack.functions.functions["env-submit"] = stack.functions.functions[f"{NAME}-submit"]
    [answer] = stack.client.submit_many([JOB], environment="env")
    assert answer.outcome is Outcome.ACCEPTED
    assert stack.client.get("a").queue == "env-job-queue"
    assert [name for name, _ in stack.functions.requests] == ["env-submit"]
    del stack.functions.functions["env-submit"]
    [answer] = stack.client.submit_many([{"job_id": "b", "commands": ["x"]}], environment="env")
    assert isinstance(answer.error, EnvironmentNotFound)
    assert "sched deploy environment env" in str(answer.error)


def test_a_mapping_without_an_id_gets_one_of_its_own(stack: ClientStack) -> None:
    first, second = stack.client.submit_many([{"commands": ["x"]}, {"commands": ["x"]}])
    assert first.job_id != second.job_id
    assert stack.client.get_many([first.job_id, second.job_id]).keys() == {first.job_id, second.job_id}


def test_a_spec_is_taken_as_it_is(stack: ClientStack) -> None:
    spec = JobSpec(job_id="s", retry=2, ssm_document="AWS-RunShellScript", commands=("x",), group_id="g")
    stack.client.submit(spec)
    assert stack.client.get("s").spec == spec


@pytest.mark.parametrize(
    ("job", "said"),
    [
        ({"commands": ["x"], "retries": 1}, "retries: is no field of a job"),
        ({"commands": ["x"], "retry": -1}, "retry:"),
        ({"commands": []}, "commands is empty"),
        ({"commands": ["x"], "timeout_seconds": 10**6}, "timeout_seconds:"),
        ({"commands": ["x"], "run_id": "r" * 200}, "run_id:"),
    ],
)
def test_a_bad_field_is_named_before_anything_is_sent(stack: ClientStack, job: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidJob, match=said):
        stack.client.submit_many([JOB, job])
    assert stack.functions.requests == []


def test_one_run_id_is_kept_over_the_tries_of_a_call(stack: ClientStack) -> None:
    stack.functions.first = [refused("TooManyRequestsException"), {"errorMessage": "out of memory"}, None]
    answer = stack.client.submit(JOB)
    sent = [request["jobs"][0]["run_id"] for _, request in stack.functions.requests]
    assert sent == [answer.run_id] * 3


def test_a_job_whose_acceptance_was_lost_is_submitted_once(stack: ClientStack) -> None:
    submit = stack.functions.functions[f"{NAME}-submit"]

    def lost(event: dict[str, Any]) -> Any:
        submit(event)
        stack.functions.functions[f"{NAME}-submit"] = submit
        return refused("InternalFailure", 500)

    stack.functions.functions[f"{NAME}-submit"] = lost
    answer = stack.client.submit(JOB)
    assert (answer.outcome, answer.run_id) == (Outcome.DUPLICATE, stack.client.get("a").run_id)


def test_the_same_spec_during_a_live_run_is_served_by_that_run(stack: ClientStack) -> None:
    first = stack.client.submit(JOB, run_id="one")
    second = stack.client.submit(JOB, run_id="two")
    assert (second.outcome, second.run_id) == (Outcome.EXISTING, first.run_id)
    stack.end("a")
    assert stack.client.wait(second).run_id == "one"


def test_another_spec_during_a_live_run_is_a_conflict(stack: ClientStack) -> None:
    stack.client.submit(JOB, run_id="first")
    with pytest.raises(
        JobConflict, match=r"'a' is QUEUED with another spec.*run 'first' in queue 'sim-job-queue' is QU"
    ):
        stack.client.submit({**JOB, "commands": ["other"]})


def test_conflicts_that_known_records_show_are_told_before_anything_is_sent(stack: ClientStack) -> None:
    stack.client.submit(JOB, run_id="first")
    known = stack.client.get_many(["a"])
    sent = len(stack.functions.requests)
    other = {"job_id": "b", "commands": ["x"]}
    with pytest.raises(JobConflict, match=r"'a' is QUEUED with another spec.*run 'first' in queue 'sim-job-queue'"):
        stack.client.submit_many([other, JOB | {"commands": ["other"]}], known=known)
    with pytest.raises(JobConflict, match="'a' belongs to queue 'sim-job-queue', not 'other'; choose another job id"):
        stack.client.submit_many([other, JOB], queue="other", known=known)
    assert len(stack.functions.requests) == sent
    served = stack.client.submit_many([other, JOB], known=known)
    assert [one.outcome for one in served] == [Outcome.ACCEPTED, Outcome.EXISTING]


def test_of_several_jobs_the_one_that_is_wrong_is_named(stack: ClientStack) -> None:
    with pytest.raises(InvalidJob, match=r"^job 'b': retry: "):
        stack.client.submit_many([JOB, {"job_id": "b", "commands": ["x"], "retry": -1}])
    with pytest.raises(InvalidJob, match=r"^jobs\[1\]: colour: "):
        stack.client.submit_many([JOB, {"commands": ["x"], "colour": "red"}])


def test_a_conflict_tells_whose_run_has_the_id(stack: ClientStack) -> None:
    stack.client.submit(JOB, run_id="theirs", queue="their-job-queue")
    stack.end("a", Status.FAILED)
    [answer] = stack.client.submit_many([JOB])
    assert (answer.outcome, answer.status) == (Outcome.CONFLICT, ""), "it is not the status of what was submitted"
    assert "belongs to queue 'their-job-queue', not 'sim-job-queue'" in str(answer.error)
    assert str(answer.error).endswith("(its run 'theirs' in queue 'their-job-queue' is FAILED)")


def test_busy_is_tried_again_until_the_end_of_the_earlier_run_is_published(stack: ClientStack) -> None:
    stack.client.submit(JOB, run_id="one")
    stack.change("a", status=Status.SUCCEEDED, pending="a:one:1:SUCCEEDED")
    stack.clock.then = [lambda: None, lambda: stack.change("a", pending="")]
    answer = stack.client.submit(JOB, run_id="two")
    assert (answer.outcome, answer.run_id) == (Outcome.ACCEPTED, "two")
    assert len(stack.functions.requests) == 4


def test_busy_for_a_minute_is_told(stack: ClientStack) -> None:
    stack.client.submit(JOB)
    stack.change("a", status=Status.SUCCEEDED, pending="a:one:1:SUCCEEDED")
    with pytest.raises(Busy, match="'a'"):
        stack.client.submit(JOB)
    assert 60 <= stack.clock.seconds < 70


def test_a_client_without_patience_sends_once(stack: ClientStack) -> None:
    hurried = stack.adopt(SchedulerClient(NAME, session=session(), patience=0.0))
    for function in ("submit", "cancel"):
        stack.functions.functions[f"{NAME}-{function}"] = lambda event: refused("TooManyRequestsException", 429)
    [submitted] = hurried.submit_many([JOB])
    [cancelled] = hurried.cancel_many(["a"])
    assert isinstance(submitted.error, Throttled)
    assert isinstance(cancelled.error, Throttled)
    assert [name for name, _ in stack.functions.requests] == [f"{NAME}-submit", f"{NAME}-cancel"]
    assert stack.clock.seconds == 0


def test_a_function_that_keeps_failing_is_told_after_a_few_tries(stack: ClientStack) -> None:
    stack.functions.functions[f"{NAME}-submit"] = lambda event: {"errorMessage": "no such module"}
    with pytest.raises(Unknown, match=f"{NAME}-submit failed: no such module"):
        stack.client.submit(JOB)
    assert len(stack.functions.requests) == 4


def test_an_answer_of_another_length_proves_nothing(stack: ClientStack) -> None:
    stack.functions.functions[f"{NAME}-submit"] = lambda event: {"results": []}
    with pytest.raises(Unknown, match="not 1 results"):
        stack.client.submit(JOB)


@pytest.mark.parametrize(
    ("error", "expected", "tries"),
    [
        (refused("ResourceNotFoundException", 404), SchedulerNotFound, 1),
        (refused("AccessDeniedException", 403), NotPermitted, 1),
        (refused("TooManyRequestsException", 429), Throttled, None),
    ],
)
def test_what_lambda_refuses_is_told_in_our_words(
    stack: ClientStack, error: ClientError, expected: type[Exception], tries: int | None
) -> None:
    stack.functions.functions[f"{NAME}-submit"] = lambda event: error
    with pytest.raises(expected):
        stack.client.submit(JOB)
    assert tries is None or len(stack.functions.requests) == tries


def test_many_jobs_go_in_batches_and_come_back_in_order(stack: ClientStack) -> None:
    batches: list[int] = []

    def counted(event: dict[str, Any]) -> dict[str, Any]:
        batches.append(len(event["jobs"]))
        return {
            "results": [
                {"error": {"type": "InvalidJob", "message": "no"}}
                if job["job_id"] == "j42"
                else {"outcome": "accepted", "job_id": job["job_id"], "run_id": job["run_id"], "status": "QUEUED"}
                for job in event["jobs"]
            ]
        }

    stack.functions.functions[f"{NAME}-submit"] = counted
    answers = stack.client.submit_many({"job_id": f"j{n}", "commands": ["x"]} for n in range(250))
    assert sorted(batches) == [50, 100, 100]
    assert [answer.job_id for answer in answers] == [f"j{n}" for n in range(250)]
    assert [answer.job_id for answer in answers if isinstance(answer.error, InvalidJob)] == ["j42"]


def test_a_batch_stays_below_the_size_of_a_request(stack: ClientStack) -> None:
    sizes: list[int] = []

    def counted(event: dict[str, Any]) -> dict[str, Any]:
        sizes.append(sum(len(job["commands"][0]) for job in event["jobs"]))
        return {"results": [{"outcome": "accepted", **job} for job in event["jobs"]]}

    stack.functions.functions[f"{NAME}-submit"] = counted
    stack.client.submit_many({"job_id": f"j{n}", "commands": ["x" * 63_000]} for n in range(100))
    assert max(sizes) < 5_000_000
    assert len(sizes) == 2


def test_run_ids_must_be_as_many_as_jobs(stack: ClientStack) -> None:
    with pytest.raises(InvalidInput, match="1 jobs need as many run ids, not 2"):
        stack.client.submit_many([JOB], run_ids=["1", "2"])


def test_a_queued_job_is_cancelled_at_once_and_an_ended_one_says_so(stack: ClientStack) -> None:
    stack.client.submit(JOB)
    assert stack.client.cancel("a").outcome == "cancelled"
    assert stack.client.cancel("a").outcome == "ended already"
    with pytest.raises(JobNotFound, match="'b'"):
        stack.client.cancel("b")


@pytest.mark.parametrize("value", ["\udcff", float("nan"), object()])
def test_what_json_cannot_hold_is_refused_before_it_is_sent(stack: ClientStack, value: Any) -> None:
    with pytest.raises(InvalidInput, match="cannot cancel jobs"):
        stack.client.cancel(value)
    assert stack.functions.requests == []


def test_cancelling_many_tells_of_each(stack: ClientStack) -> None:
    stack.client.submit(JOB)
    one, other = stack.client.cancel_many(["a", "b"])
    assert (one.outcome, one.error) == ("cancelled", None)
    assert isinstance(other.error, JobNotFound)


def test_attach_tells_of_the_slot_or_of_the_reason(stack: ClientStack) -> None:
    ec2 = stack.client.connection.client("ec2")
    image = "ami-12c6146b"
    worker = ec2.run_instances(ImageId=image, MinCount=1, MaxCount=1)["Instances"][0]["InstanceId"]

    def tag() -> list[str]:
        found = ec2.describe_tags(Filters=[{"Name": "resource-id", "Values": [worker]}])["Tags"]
        return [one["Value"] for one in found if one["Key"] == NAME]

    answers: list[dict[str, Any]] = [
        {"error": {"type": "NotFound", "message": "instance is gone"}},
        {"slot_id": f"{worker}-0"},
        {"error": {"type": "Conflict", "message": "another queue"}},
    ]
    stack.functions.functions[f"{NAME}-start"] = lambda event: answers.pop(0)
    with pytest.raises(NotFound, match="gone"):
        stack.client.attach(worker)
    assert tag() == [], "a refused instance would be attached by the sweep"
    assert stack.client.attach(worker) == f"{worker}-0"
    assert stack.functions.requests[-1][1] == {"worker_id": worker, "queue": f"{NAME}-job-queue"}
    assert tag() == [f"{NAME}-job-queue"], "the scheduler's permissions depend on its tag"
    with pytest.raises(Conflict, match="another queue"):
        stack.client.attach(worker, "other")
    assert tag() == [f"{NAME}-job-queue"]
    with pytest.raises(InvalidInput, match="'worker'"):
        stack.client.attach("worker")


def test_an_entry_names_its_own_queue_and_run() -> None:
    entry = job_entry({**JOB, "queue": "q", "run_id": "r"})
    assert (entry["queue"], entry["run_id"]) == ("q", "r")
    assert job_entry({**JOB, "queue": "q", "run_id": "r"}, queue="p", run_id="s")["queue"] == "p"


def test_a_name_that_no_stack_can_have_is_refused() -> None:
    with pytest.raises(InvalidSettings, match="'My Stack'"):
        SchedulerClient("My Stack", region="eu-west-1")
