"""Operators whose task is killed, cleared or retried in a bad moment: the real handlers, with Airflow's part played."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowSkipException, AirflowTaskTimeout, TaskDeferralTimeout, TaskDeferred
from botocore.exceptions import ClientError
from client_stack import NAME, QUEUES, ClientStack, client_stack, service

from sched_plugins.airflow import exceptions
from sched_plugins.airflow.hooks.scheduler import SchedulerHook
from sched_plugins.airflow.identity import TaskIdentity
from sched_plugins.airflow.operators import submitting
from sched_plugins.airflow.operators.run_stage import RunStageOperator
from sched_plugins.airflow.operators.submit_job import SubmitJobOperator
from sched_plugins.airflow.operators.submit_jobs import SubmitJobsOperator
from sched_plugins.airflow.sensors.finished_queue import FinishedQueueSensor
from sched_plugins.airflow.sensors.job import JobSensor
from sched_plugins.client import Status
from sched_plugins.client.fleet import Fleet
from sched_plugins.client.records import Records
from sched_plugins.core import write
from sched_plugins.core.slot import Slot
from sched_plugins.core.state import SlotState
from sched_plugins.errors import NotPermitted, SchedulerError, Throttled, Unknown

SUBMIT = f"{NAME}-submit"


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch) -> Iterator[ClientStack]:
    with client_stack(monkeypatch) as found:
        yield found


class TaskInstance:
    """What an operator asks of its task instance."""

    dag_id, run_id, map_index = "d", "r", -1

    def __init__(self, clears: int = 0) -> None:
        self.task_id, self.max_tries = "t", clears
        self.xcoms: dict[str, Any] = {}

    def xcom_push(self, key: str, value: Any) -> None:
        self.xcoms[key] = value


def one(stack: ClientStack, **given: Any) -> SubmitJobOperator:
    operator = SubmitJobOperator(task_id="t", **{"commands": ["x"], "deferrable": True, **given})
    operator.hook = SimpleNamespace(client=stack.client)  # type: ignore[assignment]
    return operator


def many(stack: ClientStack, number: int, **given: Any) -> SubmitJobsOperator:
    operator = SubmitJobsOperator(task_id="t", jobs=[{"commands": ["x"]}] * number, **{"deferrable": True, **given})
    operator.hook = SimpleNamespace(client=stack.client)  # type: ignore[assignment]
    return operator


def executed(operator: Any, clears: int = 0) -> Any:
    return operator.execute({"ti": TaskInstance(clears)})


def resumed(operator: Any, deferred: TaskDeferred, clears: int = 0) -> Any:
    """Go on as Airflow does when the trigger has fired."""
    ended = {"status": "ended"}
    return operator.execute_complete({"ti": TaskInstance(clears)}, event=ended, **(deferred.kwargs or {}))


def in_the_middle(stack: ClientStack, number: int, happens: Callable[[], None]) -> None:
    """Let something happen while the number-th request to submit is under way."""
    submit, requests = stack.functions.functions[SUBMIT], iter(range(1, 1_000_000))

    def function(event: dict[str, Any]) -> Any:
        if next(requests) == number:
            happens()
        return submit(event)

    stack.functions.functions[SUBMIT] = function


def statuses(stack: ClientStack) -> list[str]:
    return [str(job.status) for job in stack.client.list(limit=2000)]


def test_a_task_that_is_killed_while_it_submits_leaves_no_job(stack: ClientStack) -> None:
    operator = one(stack)
    in_the_middle(stack, 1, operator.on_kill)
    with pytest.raises(exceptions.JobCancelledException, match="killed while it submitted"):
        executed(operator)
    assert statuses(stack) == ["CANCELLED"]


def test_the_submission_of_many_jobs_ends_when_its_task_is_killed(
    stack: ClientStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("CONCURRENCY", 1), ("BATCH", 10)):
        monkeypatch.setattr(f"sched_plugins.client.submission.{name}", value)
    operator = many(stack, 50)
    in_the_middle(stack, 2, operator.on_kill)
    with pytest.raises(exceptions.JobCancelledException):
        executed(operator)
    assert statuses(stack) == ["CANCELLED"] * 20
    assert [name for name, _ in stack.functions.requests].count(SUBMIT) == 2


def test_a_killed_task_does_not_wait_for_a_throttled_submission(stack: ClientStack) -> None:
    operator = one(stack)
    stack.functions.functions[SUBMIT] = lambda event: Throttled("later")  # never accepted
    stack.clock.then = [operator.on_kill]
    with pytest.raises(exceptions.JobCancelledException):
        executed(operator)
    assert stack.clock.seconds < 1


def test_nothing_is_submitted_by_a_task_that_was_killed_before(stack: ClientStack) -> None:
    operator = one(stack)
    operator.on_kill()
    with pytest.raises(exceptions.JobCancelledException):
        executed(operator)
    assert statuses(stack) == []


def test_a_kill_before_a_retry_has_attached_cancels_the_job(stack: ClientStack) -> None:
    with pytest.raises(TaskDeferred) as deferred:
        executed(one(stack))
    retry = one(stack)
    retry.on_kill()
    with pytest.raises(exceptions.JobCancelledException):
        executed(retry)
    assert stack.client.get(deferred.value.trigger.job_id).status == "CANCELLED"


@pytest.mark.parametrize("same", [True, False])
def test_a_kill_does_not_cancel_the_job_of_another_task_that_has_the_same_id(stack: ClientStack, same: bool) -> None:
    """Whether that job has the same spec, so that the task would wait for it, or another one."""
    stack.client.submit({"job_id": "nightly", "commands": ["x" if same else "y"]}, run_id="of-another")
    operator = one(stack, job_id="nightly")
    in_the_middle(stack, 1, operator.on_kill)
    with pytest.raises(exceptions.JobCancelledException):
        executed(operator)
    assert stack.client.get("nightly").status == "QUEUED"
    if same:
        with pytest.raises(TaskDeferred) as deferred:
            executed(one(stack, job_id="nightly"))
        assert not deferred.value.trigger.cancel_on_kill


def test_a_deferred_task_that_shares_one_of_its_jobs_cancels_the_others_only(stack: ClientStack) -> None:
    group = {"group_id": "g"}
    stack.client.submit({"job_id": "mine/000000", "commands": ["x"], **group}, run_id="of-another")
    with pytest.raises(TaskDeferred) as deferred:
        executed(many(stack, 2, job_id="mine", common=group))
    trigger = deferred.value.trigger
    assert [run.job_id for run in trigger.runs()] == ["mine/000000", "mine/000001"]
    assert [run.job_id for run in trigger.own_runs()] == ["mine/000001"]


def test_a_kill_in_a_long_pause_of_a_submission_is_noticed_at_once(stack: ClientStack) -> None:
    operator = one(stack)
    stack.functions.functions[SUBMIT] = lambda event: Throttled("later")
    pauses = iter(range(1, 1_000))

    def killed_late() -> None:
        if next(pauses) == 40:
            operator.on_kill()
            at.append(stack.clock.seconds)

    at: list[float] = []
    stack.clock.then = [killed_late] * 1000
    with pytest.raises(exceptions.JobCancelledException):
        executed(operator)
    assert stack.clock.seconds - at[0] <= 0.5


def test_thousands_of_jobs_are_cancelled_without_waiting_for_answers(
    stack: ClientStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submitting, "_ONE_REQUEST", 2)
    operator = many(stack, 3)
    with pytest.raises(TaskDeferred):
        executed(operator)
    asked = []
    monkeypatch.setattr(type(stack.client), "request_cancel", lambda self, ids: asked.append(list(ids)))
    operator.on_kill()
    assert asked == [[f"airflow/d/r/t/00000{number}" for number in range(3)]]
    assert statuses(stack) == ["CANCELLED"] * 3


@pytest.mark.parametrize("given", [{"cancel_on_kill": False}, {"wait_for_completion": False}])
def test_who_does_not_own_the_jobs_goes_on_submitting(stack: ClientStack, given: dict[str, Any]) -> None:
    operator = one(stack, **given)
    in_the_middle(stack, 1, operator.on_kill)
    if given.get("wait_for_completion", True):
        with pytest.raises(TaskDeferred):
            executed(operator)
    else:
        executed(operator)
    assert statuses(stack) == ["QUEUED"]


def test_a_request_that_a_timeout_broke_off_is_cancelled_when_it_arrives(
    stack: ClientStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator, submit, late = one(stack), stack.functions.functions[SUBMIT], []

    def broken_off(event: dict[str, Any]) -> Any:
        late.append(event)
        raise AirflowTaskTimeout

    stack.functions.functions[SUBMIT] = broken_off
    with pytest.raises(AirflowTaskTimeout):
        executed(operator)
    monkeypatch.setattr(submitting.time, "sleep", lambda _: submit(late.pop()) if late else None)
    operator.on_kill()  # as Airflow does after the timeout
    assert statuses(stack) == ["CANCELLED"]


def test_a_retry_waits_for_the_end_of_a_run_that_is_being_cancelled_and_runs_anew(stack: ClientStack) -> None:
    operator = one(stack)
    with pytest.raises(TaskDeferred) as deferred:
        executed(operator)
    job_id = deferred.value.trigger.job_id
    stack.change(job_id, status=Status.RUNNING, cancel_requested="2026-01-01T00:00:00Z")
    stack.clock.then = [lambda: None, lambda: stack.end(job_id, Status.CANCELLED)]
    with pytest.raises(TaskDeferred) as again:
        executed(one(stack))
    assert again.value.trigger.run_id == deferred.value.trigger.run_id.replace("-1", "-2")
    assert stack.client.get(job_id).status == "QUEUED"


def test_a_retry_of_many_jobs_runs_those_anew_that_are_being_cancelled(stack: ClientStack) -> None:
    with pytest.raises(TaskDeferred):
        executed(many(stack, 3))
    first, second = "airflow/d/r/t/000000", "airflow/d/r/t/000001"
    stack.change(first, status=Status.RUNNING, cancel_requested="2026-01-01T00:00:00Z")
    stack.change(second, status=Status.RUNNING)
    stack.clock.then = [lambda: None, lambda: stack.end(first, Status.CANCELLED)]
    with pytest.raises(TaskDeferred) as again:
        executed(many(stack, 3))
    digest = TaskIdentity("d", "r", "t").digest
    assert again.value.trigger.numbers == {f"{digest}-1": "1-2", f"{digest}-2": "0"}


def test_a_run_that_will_not_end_is_told_and_nothing_is_submitted(stack: ClientStack) -> None:
    with pytest.raises(TaskDeferred) as deferred:
        executed(one(stack))
    job_id = deferred.value.trigger.job_id
    stack.change(job_id, status=Status.RUNNING, cancel_requested="2026-01-01T00:00:00Z")
    with pytest.raises(exceptions.WaitTimeoutException, match="had not ended"):
        executed(one(stack))
    assert stack.client.get(job_id).run_ids == (deferred.value.trigger.run_id,)


def test_clearing_many_jobs_of_a_given_name_ends_the_old_runs_before_the_new_ones(stack: ClientStack) -> None:
    with pytest.raises(TaskDeferred):
        executed(many(stack, 2, job_id="mine"))
    stack.change("mine/000001", status=Status.RUNNING)

    def published() -> None:
        stack.change("mine/000000", pending="")

    stack.clock.then = [lambda: None, lambda: stack.end("mine/000001", Status.CANCELLED), published]
    with pytest.raises(TaskDeferred) as again:
        executed(many(stack, 2, job_id="mine"), clears=1)
    new = TaskIdentity("d", "r", "t", generation=1)
    assert again.value.trigger.numbers == {new.run(1): "0-1"}
    assert {stack.client.get(f"mine/00000{number}").run_id for number in (0, 1)} == {new.run(1)}


@pytest.mark.parametrize("kind", [one, many])
def test_a_throttle_on_a_worker_does_not_end_the_wait(
    stack: ClientStack, kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator = kind(stack, **({"number": 1} if kind is many else {}), deferrable=False)
    get, get_many, failing = Records.get, Records.get_many, [0]

    def throttled(self: Any, *args: Any) -> Any:
        failing[0] += 1
        if 1 < failing[0] < 8:
            raise Throttled("slow")
        return (get if isinstance(args[0], str) else get_many)(self, *args)

    monkeypatch.setattr(Records, "get", throttled)
    monkeypatch.setattr(Records, "get_many", throttled)
    job_id = "airflow/d/r/t" + ("/000000" if kind is many else "")
    stack.clock.then = [lambda: None] * 2 + [lambda: stack.end(job_id)]
    assert executed(operator) in (job_id, {"jobs": 1, "succeeded": 1})
    assert failing[0] > 8


@pytest.mark.parametrize("error", [NotPermitted("no"), Throttled("slow"), Unknown("?")])
@pytest.mark.parametrize("deferrable", [True, False])
def test_a_job_whose_output_cannot_be_read_decides_about_its_task_all_the_same(
    stack: ClientStack, deferrable: bool, error: SchedulerError, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    operator = one(stack, deferrable=True)
    with pytest.raises(TaskDeferred) as deferred:
        executed(operator)
    trigger = deferred.value.trigger
    uris = stack.attempts(trigger.job_id, "s3://out/stdout")

    def unreadable(self: Any, uri: str) -> Iterator[str]:
        raise error
        yield

    monkeypatch.setattr("sched_plugins.client.logs.Logs._object", unreadable)
    event = {"status": "ended", "job_id": trigger.job_id, "run_id": trigger.run_id}
    if deferrable:
        stack.end(trigger.job_id, attempts=uris)
        assert operator.execute_complete({"ti": TaskInstance()}, event) == trigger.job_id  # type: ignore[typeddict-item]
    else:
        stack.clock.then = [lambda: stack.end(trigger.job_id, attempts=uris)]
        assert executed(one(stack, deferrable=False)) == trigger.job_id
    assert "cannot be shown here" in capsys.readouterr().out
    stack.client.submit({"job_id": "f", "commands": ["x"]}, run_id="f")
    stack.end("f", Status.FAILED, attempts=uris)
    with pytest.raises(exceptions.JobFailedException):
        operator.execute_complete({"ti": TaskInstance()}, {**event, "job_id": "f", "run_id": "f"})  # type: ignore[typeddict-item]


def test_the_timeout_of_a_deferral_is_told_whatever_becomes_of_the_cancelling(
    stack: ClientStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator = one(stack, execution_timeout=timedelta(seconds=5))
    with pytest.raises(TaskDeferred) as deferred:
        executed(operator)
    late = {"error": "Trigger timeout", "traceback": None}

    def resumed() -> None:
        with pytest.raises(TaskDeferralTimeout):
            one(stack).resume_execution("__fail__", late, {"ti": TaskInstance()})  # type: ignore[typeddict-item]

    cancel = stack.functions.functions[f"{NAME}-cancel"]
    stack.functions.functions[f"{NAME}-cancel"] = lambda event: NotPermitted("no")
    resumed()
    assert statuses(stack) == ["QUEUED"]
    stack.functions.functions[f"{NAME}-cancel"] = cancel
    resumed()
    assert stack.client.get(deferred.value.trigger.job_id).status == "CANCELLED"


def test_a_queue_without_workers_is_told_of_once(stack: ClientStack, capsys: pytest.CaptureFixture[str]) -> None:
    executed(one(stack, wait_for_completion=False))
    executed(many(stack, 2, wait_for_completion=False, job_queue=QUEUES[1]))
    told = capsys.readouterr().out
    assert [told.count(f"queue '{name}' has no workers") for name in QUEUES[:2]] == [1, 1]
    assert "sched attach" in told


def test_a_queue_with_a_worker_is_looked_at_by_one_call(
    stack: ClientStack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = datetime.now(UTC)
    worker = Slot("i-1", "i-1", QUEUES[0], SlotState.FREE, 1, now)
    stack.world.tables.write(write.slot("test", None, worker))
    monkeypatch.setattr(Fleet, "_instances", lambda self: pytest.fail("it asked EC2"))
    executed(one(stack, wait_for_completion=False))
    assert "has no workers" not in capsys.readouterr().out


def test_what_is_only_submitted_can_be_waited_for_by_the_ids_that_are_returned(stack: ClientStack) -> None:
    ids = executed(many(stack, 2, wait_for_completion=False))
    sensor = JobSensor(task_id="s", job_ids=ids, deferrable=True)
    sensor.hook = SimpleNamespace(client=stack.client)  # type: ignore[assignment]
    with pytest.raises(TaskDeferred) as deferred:
        sensor.execute({"ti": TaskInstance()})  # type: ignore[typeddict-item]
    assert deferred.value.trigger.job_ids == ids == ["airflow/d/r/t/000000", "airflow/d/r/t/000001"]


@pytest.mark.parametrize("wrong", [{"jobs": 2}, [], "", [1], None, ["a", ""], "['a', 'b']"])
def test_what_is_no_job_id_is_refused_instead_of_waited_for(stack: ClientStack, wrong: Any) -> None:
    sensor = JobSensor(task_id="s", job_ids=wrong, deferrable=True)
    sensor.hook = SimpleNamespace(client=stack.client)  # type: ignore[assignment]
    with pytest.raises(exceptions.InvalidRequestException, match=r"job_ids (.* names no job|is the text)"):
        sensor.execute({"ti": TaskInstance()})  # type: ignore[typeddict-item]


def test_the_allowed_failures_may_come_from_a_template(stack: ClientStack) -> None:
    operator = many(stack, 2, allowed_failures="1")
    with pytest.raises(TaskDeferred) as deferred:
        executed(operator)
    for number, status in enumerate((Status.SUCCEEDED, Status.FAILED)):
        stack.end(f"airflow/d/r/t/00000{number}", status)
    assert resumed(operator, deferred.value)["failed"] == 1
    for wrong in ("some", None):
        operator.allowed_failures = wrong  # type: ignore[assignment]
        with pytest.raises(exceptions.InvalidRequestException, match="not a number"):
            executed(operator)


def test_an_edit_of_the_retries_changes_nothing_for_a_task_that_is_deferred(stack: ClientStack) -> None:
    with pytest.raises(TaskDeferred) as deferred:
        many(stack, 2, retries=1).execute({"ti": TaskInstance(1)})  # type: ignore[typeddict-item]
    for number in range(2):
        stack.end(f"airflow/d/r/t/00000{number}")
    edited = many(stack, 2, retries=0)
    assert resumed(edited, deferred.value, clears=1) == {"jobs": 2, "succeeded": 2}


@pytest.mark.parametrize("given", [None, "", [], ["a", ""]])
def test_a_template_that_names_no_job_does_not_take_the_message_of_any(stack: ClientStack, given: Any) -> None:
    sensor = FinishedQueueSensor(task_id="s", job_ids="{{ something }}", deferrable=False)
    sensor.hook = SimpleNamespace(client=stack.client)  # type: ignore[assignment]
    sensor.job_ids = given  # as rendered
    queue = service("sqs").create_queue(QueueName=f"{NAME}-job-queue-finished")["QueueUrl"]
    service("sqs").send_message(QueueUrl=queue, MessageBody='{"job_id": "of another"}')
    with pytest.raises(exceptions.InvalidRequestException, match="job_ids"):
        sensor.execute({"ti": TaskInstance()})  # type: ignore[typeddict-item]
    counted = service("sqs").get_queue_attributes(QueueUrl=queue, AttributeNames=["All"])["Attributes"]
    assert counted["ApproximateNumberOfMessages"] == "1", "it was not even received"


def test_a_first_look_that_fails_is_borne_by_a_deferrable_sensor_as_by_another(stack: ClientStack) -> None:
    def sensor(**given: Any) -> JobSensor:
        made = JobSensor(task_id="s", job_ids=["none"], must_exist=True, deferrable=True, **given)
        made.hook = SimpleNamespace(client=stack.client)  # type: ignore[assignment]
        return made

    for given, kind in (
        ({}, exceptions.NotFoundException), ({"never_fail": True}, AirflowSkipException),
        ({"silent_fail": True}, TaskDeferred),
    ):  # fmt: skip
        with pytest.raises(kind):
            sensor(**given).execute({"ti": TaskInstance()})  # type: ignore[typeddict-item]


def test_a_message_that_cannot_be_deleted_fails_its_task_with_an_exception_of_airflows(stack: ClientStack) -> None:
    sensor = FinishedQueueSensor(task_id="s", finished_queue="none", deferrable=True)
    sensor.hook = SimpleNamespace(client=stack.client)  # type: ignore[assignment]
    event = {"status": "message", "message": {}, "receipt_handle": "x"}
    with pytest.raises(exceptions.NotFoundException, match="no queue 'none'"):
        sensor.execute_complete({"ti": TaskInstance()}, event)  # type: ignore[typeddict-item]


def test_links_lead_to_the_record_and_the_results_while_the_job_waits(stack: ClientStack) -> None:
    ti = TaskInstance()
    with pytest.raises(TaskDeferred):
        one(stack, results_uri="s3://bucket/case 1/").execute({"ti": ti})  # type: ignore[typeddict-item]
    links = ti.xcoms["sched_links"]
    assert links.keys() == {"item", "results"}
    assert "pk=airflow%2Fd%2Fr%2Ft&" in links["item"]
    assert links["results"].endswith("/s3/buckets/bucket?region=eu-west-1&prefix=case%201/")


@pytest.mark.parametrize("made", [one, lambda stack: many(stack, 3)])
def test_jobs_whose_submission_is_carried_out_without_an_answer_are_waited_for(
    stack: ClientStack, made: Callable[[ClientStack], Any]
) -> None:
    """A task that failed there would leave its jobs running, which nobody waits for."""
    submit = stack.functions.functions[SUBMIT]

    def silent(event: dict[str, Any]) -> Exception:
        submit(event)
        return ClientError({"Error": {"Code": "x"}, "ResponseMetadata": {"HTTPStatusCode": 502}}, "Invoke")

    stack.functions.functions[SUBMIT] = silent  # type: ignore[assignment]
    operator = made(stack)
    with pytest.raises(TaskDeferred) as deferred:
        executed(operator)
    assert [run.job_id for run in deferred.value.trigger.own_runs()] == sorted(stack_ids(stack))
    assert all(run.run_id for run in deferred.value.trigger.own_runs())


@pytest.mark.parametrize("made", [one, lambda stack: many(stack, 3)])
def test_jobs_whose_submission_has_no_answer_and_no_effect_fail_the_task(
    stack: ClientStack, made: Callable[[ClientStack], Any]
) -> None:
    stack.functions.functions[SUBMIT] = lambda event: ClientError(
        {"Error": {"Code": "x"}, "ResponseMetadata": {"HTTPStatusCode": 502}}, "Invoke"
    )
    with pytest.raises(exceptions.ServiceException, match="AWS answered x"):
        executed(made(stack))


def stack_ids(stack: ClientStack) -> list[str]:
    return [job.job_id for job in stack.client.list(limit=2000)]


def test_a_job_that_was_submitted_again_meanwhile_is_waited_for_anew_by_its_sensor(stack: ClientStack) -> None:
    """Its trigger has seen the ends of all; the sensor would succeed without any statuses, and below a failure."""
    stack.client.submit_many([{"job_id": "a", "commands": ["x"]}, {"job_id": "b", "commands": ["x"]}])
    sensor = JobSensor(task_id="t", job_ids=["a", "b"], deferrable=True)
    sensor.hook = SimpleNamespace(client=stack.client)  # type: ignore[assignment]
    with pytest.raises(TaskDeferred) as first:
        executed(sensor)
    stack.change("b", status=Status.SUCCEEDED)
    with pytest.raises(TaskDeferred) as second:
        resumed(sensor, first.value)
    assert second.value.trigger.serialize() == first.value.trigger.serialize()
    stack.change("a", status=Status.SUCCEEDED)
    assert resumed(sensor, second.value) == {"a": "SUCCEEDED", "b": "SUCCEEDED"}


@pytest.mark.parametrize("rendered", [None, "", ["s3://b/first/", None], [""]])
def test_a_stage_whose_inputs_turn_out_to_be_nothing_is_not_started_without_them(rendered: Any) -> None:
    """An earlier task that was skipped, say, returns None; what the assets tell of is not what was asked for."""
    operator = RunStageOperator(task_id="t", environment="env", executable="/bin/true", inputs="{{ … }}")
    operator.inputs = rendered
    operator.hook = SimpleNamespace(environment_client=None)  # type: ignore[assignment]
    context = {"triggering_asset_events": {}}
    with pytest.raises(exceptions.InvalidRequestException, match="inputs"):
        operator.submit(context, "job", "run")  # type: ignore[arg-type]
    operator.inputs = []
    assert operator._inputs(context) == []  # type: ignore[arg-type]


def test_a_queue_is_not_drained_while_its_job_goes_from_one_try_to_the_next(
    stack: ClientStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is read among those that wait before, and among those that run after, so that it is in neither."""
    stack.client.submit({"job_id": "a", "commands": ["x"]})
    stack.change("a", status=Status.RUNNING)
    query = Records._query

    def hurried(self: Records, kind: str, shard: int, since: str, **given: Any) -> Iterator[Any]:
        if kind == "live" and stack.client.get("a").status is Status.RUNNING:
            stack.change("a", status=Status.QUEUED)
        yield from query(self, kind, shard, since, **given)

    monkeypatch.setattr(Records, "_query", hurried)
    hook = SchedulerHook(scheduler=NAME, aws_conn_id=None)
    monkeypatch.setattr(SchedulerHook, "client", stack.client)
    assert not hook.is_drained()
    stack.change("a", status=Status.SUCCEEDED)
    assert hook.is_drained()


def test_a_deferrable_sensor_takes_no_message_beside_the_receiver_that_it_shares(stack: ClientStack) -> None:
    """An asset watcher of its triggerer would not see it. That there is no such queue is told at once all the same."""
    sqs = service("sqs")
    queue = sqs.create_queue(QueueName=f"{NAME}-job-queue-finished")["QueueUrl"]
    sqs.send_message(QueueUrl=queue, MessageBody='{"job_id": "a"}')
    sensor = FinishedQueueSensor(task_id="s", job_ids="a", deferrable=True)
    sensor.hook = SimpleNamespace(client=stack.client)  # type: ignore[assignment]
    with pytest.raises(TaskDeferred):
        executed(sensor)
    assert len(sqs.receive_message(QueueUrl=queue)["Messages"]) == 1
    sensor.finished_queue = "none"
    with pytest.raises(exceptions.NotFoundException, match="no queue 'none'"):
        executed(sensor)


def test_a_cleared_task_that_has_fewer_jobs_now_ends_all_that_it_had(stack: ClientStack) -> None:
    """Those of before are not cancelled by a trigger where no triggerer runs, or none has taken it yet."""
    with pytest.raises(TaskDeferred):
        executed(many(stack, 105))
    with pytest.raises(TaskDeferred):
        executed(many(stack, 2), clears=1)
    assert Counter(statuses(stack)) == {"CANCELLED": 105, "QUEUED": 2}
