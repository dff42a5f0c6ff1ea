"""Bad input: each operator, sensor and the hook say what is wrong and what to do next, and submit nothing."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowException
from botocore.client import BaseClient
from botocore.exceptions import ClientError
from deployed import SCHEDULER, DeployedStack
from fleet_client import eventually
from test_operators import TaskInstance
from workers import ENVIRONMENT, QUEUES

from sched_plugins.airflow import exceptions
from sched_plugins.airflow.hooks.scheduler import SchedulerHook
from sched_plugins.airflow.operators.cancel_job import CancelJobOperator
from sched_plugins.airflow.operators.run_stage import RunStageOperator
from sched_plugins.airflow.operators.submit_job import SubmitJobOperator
from sched_plugins.airflow.operators.submit_jobs import SubmitJobsOperator
from sched_plugins.airflow.sensors.finished_queue import FinishedQueueSensor
from sched_plugins.airflow.sensors.job import JobSensor
from sched_plugins.airflow.sensors.queue_drained import QueueDrainedSensor
from sched_plugins.airflow.triggers import troubles
from sched_plugins.airflow.triggers.finished_job import FinishedJobTrigger
from sched_plugins.airflow.triggers.job import JobsTrigger, JobTrigger
from sched_plugins.airflow.triggers.queue_drained import QueueDrainedTrigger
from sched_plugins.client import SchedulerClient
from sched_plugins.client.jobs import JobClient
from sched_plugins.core import names

LIVE = "bad-input/live"
"""A job that runs all the while, with a spec of its own."""
MANY = "bad-input/many"
"""``<MANY>/000001`` runs all the while as well."""
BUCKET = names.bucket(ENVIRONMENT, "000000000000")

ENOUGH: Mapping[type, Mapping[str, Any]] = {
    SubmitJobOperator: {"commands": ["true"]},
    SubmitJobsOperator: {"jobs": [{"commands": ["true"]}] * 3},
    RunStageOperator: {"environment": ENVIRONMENT, "executable": "/bin/true"},
    CancelJobOperator: {"job_ids": LIVE},
    JobSensor: {"job_ids": LIVE},
    FinishedQueueSensor: {},
    QueueDrainedSensor: {},
}
"""What each operator and sensor needs at least; the cases add what is wrong."""
WAITS = [SubmitJobOperator, SubmitJobsOperator, RunStageOperator, JobSensor, FinishedQueueSensor, QueueDrainedSensor]
SUBMITS = [SubmitJobOperator, SubmitJobsOperator]
POLICY = "Ask for the submitter or reader policy"
NO_SCHEDULER = ("no scheduler 'none'", "sched deploy scheduler none")
NO_ENVIRONMENT = ("no environment 'none'", "sched deploy environment none --scheduler NAME")
NO_QUEUE = ("no queue 'none-job-queue'", "`sched queues")
NO_JOB_QUEUE = ("no queue 'none-job-queue'", f"`sched queues --scheduler {SCHEDULER}`")


@dataclass(frozen=True)
class Case:
    """One thing that is wrong."""

    kind: type[AirflowException]
    words: tuple[str, ...]
    """In the message: the value, and the next step."""
    given: Mapping[str, Any] = field(default_factory=dict)
    denied: str = ""
    """The AWS call that is refused for want of permission."""


Invalid, NotFound = exceptions.InvalidRequestException, exceptions.NotFoundException
Conflict, Denied = exceptions.ConflictException, exceptions.NotPermittedException

ANYWHERE = {
    "scheduler": Case(NotFound, NO_SCHEDULER, {"scheduler": "none", "environment": None}),
    "scheduler's name": Case(
        Invalid, ("'No Name' cannot be a stack name", "use 3 to 31"), {"scheduler": "No Name", "environment": None}
    ),
    "no scheduler": Case(
        Invalid, ("no scheduler is named", "give `scheduler`", "default_scheduler", "'no_scheduler'"),
        {"aws_conn_id": "no_scheduler", "environment": None},
    ),
    "environment": Case(NotFound, NO_ENVIRONMENT, {"environment": "none"}),
    "no environment": Case(
        NotFound, (f"stack '{SCHEDULER}'", "is no environment", "sched queues"), {"environment": SCHEDULER}
    ),
    "profile": Case(Invalid, ("none-such", "'bad_profile'", "profile_name"), {"aws_conn_id": "bad_profile"}),
    "role": Case(Denied, ("'bad_role'", "role/none", "AssumeRole"), {"aws_conn_id": "bad_role"}, "AssumeRole"),
    "environment denied": Case(
        Denied, (f"environment '{ENVIRONMENT}'", "DescribeStacks", POLICY), {"environment": ENVIRONMENT},
        "DescribeStacks",
    ),
}  # fmt: skip
"""Wrong for every one of them, since each reaches a scheduler in the same way."""

OWN: dict[type, dict[str, Case]] = {
    SubmitJobOperator: {
        "queue": Case(NotFound, NO_JOB_QUEUE, {"job_queue": "none-job-queue"}),
        "queue's ARN": Case(NotFound, NO_JOB_QUEUE, {"job_queue": "arn:aws:sqs:{region}:000000000000:none-job-queue"}),
        "another queue": Case(
            Denied, (f"'{ENVIRONMENT}-job-queue' alone", f"'{SCHEDULER}-job-queue'", "name the scheduler"),
            {"environment": ENVIRONMENT, "job_queue": f"{SCHEDULER}-job-queue"},
        ),
        "field": Case(Invalid, ("colour", "the fields are"), {"job": {"colour": "red"}}),
        "retries": Case(Invalid, ("retry", "-1", "greater than or equal to 0"), {"job_retries": -1}),
        "nothing to run": Case(Invalid, ("commands is empty", "give at least one command"), {"commands": ()}),
        "live": Case(Conflict, (f"'{LIVE}'", "another spec", "choose another job id"), {"job_id": LIVE}),
        "elsewhere": Case(
            Conflict, (f"'{LIVE}' belongs to queue '{SCHEDULER}-job-queue'", "choose another job id"),
            {"job_id": LIVE, "environment": ENVIRONMENT},
        ),
        "reading denied": Case(Denied, ("direct/r/bad", "GetItem", POLICY), {}, "GetItem"),
        "submitting denied": Case(Denied, ("submit jobs", "Invoke", POLICY), {}, "Invoke"),
    },
    SubmitJobsOperator: {
        "queue": Case(NotFound, NO_JOB_QUEUE, {"job_queue": "none-job-queue"}),
        "no jobs": Case(Invalid, ("jobs is empty", "give at least one job"), {"jobs": []}),
        "text": Case(
            Invalid, ("jobs", "'[{\"a\": 1}]'", "render_template_as_native_obj"), {"jobs": '[{"a": 1}]'}
        ),
        "no job": Case(Invalid, ("jobs[1]", "'x'", "fields"), {"jobs": [{"commands": ["true"]}, "x"]}),
        "field of one": Case(
            Invalid, ("bad/000001", "colour", "the fields are"),
            {"jobs": [{"commands": ["true"]}, {"commands": ["true"], "colour": "red"}]},
        ),
        "value of one": Case(
            Invalid, ("bad/000001", "retry", "-1"), {"jobs": [{"commands": ["true"]}, {"commands": ["x"], "retry": -1}]}
        ),
        "one live": Case(Conflict, (f"'{MANY}/000001'", "another spec", "choose another job id"), {"job_id": MANY}),
        "one elsewhere": Case(
            Conflict, (f"'{MANY}/000001' belongs to queue '{SCHEDULER}-job-queue'", "choose another job id"),
            {"job_id": MANY, "environment": ENVIRONMENT},
        ),
        "reading denied": Case(Denied, ("read jobs", "BatchGetItem", POLICY), {}, "BatchGetItem"),
        "submitting denied": Case(Denied, ("submit jobs", "Invoke", POLICY), {}, "Invoke"),
    },
    RunStageOperator: {
        "executable": Case(NotFound, ("no file 'none.sh'", "give an existing"), {"executable": "none.sh"}),
        "executable in S3": Case(
            NotFound, (f"s3://{BUCKET}/none.sh", "upload it"), {"executable": f"s3://{BUCKET}/none.sh"}
        ),
        "input folder": Case(NotFound, ("'none' is no folder", "give one that exists"), {"input_folder": "none"}),
        "empty folder": Case(Invalid, ("{empty}", "holds no files", "put"), {"input_folder": "{empty}"}),
        "inputs": Case(NotFound, (f"s3://{BUCKET}/none/", "upload"), {"inputs": f"s3://{BUCKET}/none/"}),
        "inputs' bucket": Case(NotFound, ("s3://no-such-bucket/x/", "upload"), {"inputs": ["s3://no-such-bucket/x/"]}),
        "no address": Case(Invalid, ("'results/x/'", "s3://bucket/key"), {"inputs": ["results/x/"]}),
        "results": Case(
            Denied, (f"environment '{ENVIRONMENT}' may not write to 's3://other-bucket/x/'", f"buckets are {BUCKET}"),
            {"results_uri": "s3://other-bucket/x/"},
        ),
        "settings": Case(Invalid, ("settings.colour", "there are"), {"settings": {"colour": "red"}}),
        "elsewhere": Case(
            Conflict, (f"'{LIVE}' belongs to queue '{SCHEDULER}-job-queue'", "choose another job id"), {"job_id": LIVE}
        ),
        "reading denied": Case(Denied, ("direct/r/bad", "GetItem", POLICY), {}, "GetItem"),
        "submitting denied": Case(Denied, ("submit jobs", "Invoke", POLICY), {}, "Invoke"),
        "storing denied": Case(
            Denied, (f"s3://{BUCKET}/_stage/", "/go.sh", "PutObject", POLICY), {"executable": "{script}"}, "PutObject"
        ),
    },
    CancelJobOperator: {
        "job": Case(NotFound, ("no job has the id 'none'", "`sched list`"), {"job_ids": ["none"]}),
        "no job": Case(Invalid, ("job_ids []", "give at least one"), {"job_ids": []}),
        "elsewhere": Case(
            Conflict, (f"'{LIVE}' belongs to queue '{SCHEDULER}-job-queue'", "name the scheduler"),
            {"environment": ENVIRONMENT},
        ),
        "denied": Case(Denied, ("cancel jobs", "Invoke", POLICY), {}, "Invoke"),
    },
    JobSensor: {
        "job": Case(NotFound, ("no job has the id 'none'", "`sched list`"), {"job_ids": "none", "must_exist": True}),
        "no job": Case(Invalid, ("job_ids ['']", "give at least one"), {"job_ids": [""]}),
        "status": Case(Invalid, ("'SUCCEDED'", "they are CANCELLED, FAILED,"), {"allowed_statuses": ["SUCCEDED"]}),
        "denied": Case(Denied, ("read jobs", "BatchGetItem", POLICY), {}, "BatchGetItem"),
    },
    FinishedQueueSensor: {
        "queue": Case(NotFound, NO_QUEUE, {"finished_queue": "none-job-queue"}),
        "denied": Case(Denied, (f"'{SCHEDULER}-job-queue-finished'", "GetQueueUrl", POLICY), {}, "GetQueueUrl"),
        "receiving denied": Case(Denied, ("receive from", "ReceiveMessage", POLICY), {}, "ReceiveMessage"),
    },
    QueueDrainedSensor: {
        "queue": Case(NotFound, NO_QUEUE, {"job_queue": "none-job-queue"}),
        "denied": Case(Denied, (f"'{SCHEDULER}-job-queue'", "GetQueueAttributes", POLICY), {}, "GetQueueAttributes"),
    },
}  # fmt: skip

TABLE = [
    pytest.param(operator, case, deferrable, id=f"{operator.__name__} {what}{' deferred' if deferrable else ''}")
    for operator in ENOUGH
    for what, case in {**ANYWHERE, **OWN[operator]}.items()
    if operator is not RunStageOperator or case.given.get("environment", ENVIRONMENT) is not None
    for deferrable in ([False, True] if operator in WAITS else [False])
]


@pytest.fixture(scope="module")
def busy(stack: DeployedStack) -> Iterator[DeployedStack]:
    """The stack with two jobs that run, and queues with nothing in them."""
    client = SchedulerClient(SCHEDULER)
    live = [LIVE, f"{MANY}/000001"]
    client.submit_many([{"job_id": job_id, "commands": ["sleep 600"]} for job_id in live])
    for job_id in live:
        stack.running(job_id)
    eventually(lambda: not any(waiting(stack)), 60)
    yield stack
    client.cancel_many(live)
    for job_id in live:
        stack.ended(job_id)


@pytest.fixture(autouse=True)
def connections(busy: DeployedStack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections that lack something."""
    reached = {"endpoint_url": busy.info.endpoint, "region_name": busy.info.region}
    extras: dict[str, dict[str, Any]] = {
        "no_scheduler": reached,
        "bad_profile": {**reached, "scheduler": SCHEDULER, "profile_name": "none-such"},
        "bad_role": {**reached, "scheduler": SCHEDULER, "role_arn": "arn:aws:iam::000000000000:role/none"},
    }
    for conn_id, extra in extras.items():
        keys = {} if "profile_name" in extra else {"login": "test", "password": "test"}
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps({"conn_type": "aws", **keys, "extra": extra}))


def waiting(stack: DeployedStack) -> list[int]:
    """How many messages each job queue holds."""
    counts = [f"ApproximateNumberOfMessages{kind}" for kind in ("", "NotVisible", "Delayed")]
    found = [stack.sqs.get_queue_attributes(QueueUrl=stack.queue_url(one), AttributeNames=counts) for one in QUEUES]
    return [sum(int(one["Attributes"][count]) for count in counts) for one in found]


def submitted(stack: DeployedStack) -> dict[str, Any]:
    """Every job, with all the run ids that it knows."""
    pages = stack.dynamodb.get_paginator("scan").paginate(TableName=names.job_table(SCHEDULER), ConsistentRead=True)
    return {item["job_id"]["S"]: item.get("run_ids") for page in pages for item in page["Items"]}


def deny(monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """Let AWS refuse one kind of call, but not to what launches the workers."""
    made = BaseClient._make_api_call

    def refused(client: Any, operation: str, parameters: Any) -> Any:
        if operation != call or threading.current_thread().name == "workers":
            return made(client, operation, parameters)
        code = "AccessDenied" if call in ("PutObject", "AssumeRole", "DescribeStacks") else "AccessDeniedException"
        message = f"User: arn:aws:iam::000000000000:user/dag is not authorized to perform: {operation}"
        raise ClientError({"Error": {"Code": code, "Message": message}}, operation)

    monkeypatch.setattr(BaseClient, "_make_api_call", refused)


def not_waiting(*_: Any, **__: Any) -> None:
    """Stand for the wait, which must not begin: both workers are busy all the while."""
    raise AssertionError("it waits for jobs")


def filled(value: Any, values: Mapping[str, str]) -> Any:
    """A text of the table with the folders and the region of this run."""
    for name, text in values.items():
        value = value.replace(f"{{{name}}}", text) if isinstance(value, str) else value
    return value


@pytest.mark.parametrize(("operator", "case", "deferrable"), TABLE)
def test_what_is_wrong_is_told_before_anything_is_submitted(
    busy: DeployedStack, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, operator: Any, case: Case, deferrable: bool
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "go.sh").write_text("true\n")
    values = {
        "empty": str(tmp_path / "empty"), "script": str(tmp_path / "go.sh"), "region": busy.info.region
    }  # fmt: skip
    given = {name: filled(value, values) for name, value in {**ENOUGH[operator], **case.given}.items()}
    waits = {"deferrable": deferrable} if operator in WAITS else {}
    before = submitted(busy)
    with monkeypatch.context() as patched:
        for name in ("watch", "logs"):
            patched.setattr(JobClient, name, not_waiting)
        if case.denied:
            deny(patched, case.denied)
        task = operator(task_id="bad", **given, **waits)
        with pytest.raises(exceptions.SchedulerException) as told:
            task.execute({"ti": TaskInstance("bad", 0)})
    print(f"{operator.__name__} | {type(told.value).__name__} | {told.value}")
    assert type(told.value) is case.kind
    for words in case.words:
        assert filled(words, values) in str(told.value)
    assert submitted(busy) == before
    assert not any(waiting(busy))


TRIGGERS: dict[type, Mapping[str, Any]] = {
    JobTrigger: {"job_id": LIVE},
    JobsTrigger: {"job_ids": [LIVE]},
    FinishedJobTrigger: {"claim": True},
    QueueDrainedTrigger: {},
}
MET_LATER = {
    "scheduler": Case(NotFound, ("'none", "`sched"), {"scheduler": "none"}),
    "profile": ANYWHERE["profile"],
    "role": ANYWHERE["role"],
    "environment": Case(NotFound, ("'none", "`sched"), {"environment": "none"}),
}
"""What the triggerer meets although the task did not: something was deleted meanwhile, or its machine differs."""


@pytest.mark.parametrize(
    ("trigger", "case"),
    [
        pytest.param(trigger, case, id=f"{trigger.__name__} {what}")
        for trigger in TRIGGERS
        for what, case in MET_LATER.items()
        # Triggers of jobs know the scheduler, and ask nothing of the environment.
        if what != "environment" or trigger not in (JobTrigger, JobsTrigger)
    ],
)
def test_a_trigger_that_meets_it_ends_the_wait_and_tells_the_task(
    busy: DeployedStack, monkeypatch: pytest.MonkeyPatch, trigger: Any, case: Case
) -> None:
    monkeypatch.setattr(troubles, "REFUSAL_PATIENCE", 1.0)
    if case.denied:
        deny(monkeypatch, case.denied)
    given = {"scheduler": SCHEDULER, **TRIGGERS[trigger], **case.given}

    async def told() -> Any:
        async with asyncio.timeout(60):
            return (await anext(aiter(trigger(**given).run()))).payload

    payload = asyncio.run(told())
    assert payload["status"] == "error"
    with pytest.raises(exceptions.SchedulerException) as raised:
        JobSensor(task_id="s", job_ids=LIVE).execute_complete({}, payload)
    assert type(raised.value) is case.kind
    assert all(words in str(raised.value) for words in case.words)


def test_a_connection_without_a_region_is_told(busy: DeployedStack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_NOWHERE", json.dumps({"conn_type": "aws", "extra": {"scheduler": SCHEDULER}}))
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(Invalid, match=r"no AWS region is set: give `region_name`, .* connection 'nowhere'"):
        SubmitJobOperator(task_id="bad", commands=["true"], aws_conn_id="nowhere").execute(
            {"ti": TaskInstance("bad", 0)}  # type: ignore[typeddict-item]
        )


@pytest.mark.parametrize("case", ANYWHERE.values(), ids=ANYWHERE)
def test_the_hook_says_what_is_wrong_with_its_settings(
    busy: DeployedStack, monkeypatch: pytest.MonkeyPatch, case: Case
) -> None:
    if case.denied:
        deny(monkeypatch, case.denied)
    with pytest.raises(case.kind) as told, exceptions.translated():
        SchedulerHook(**case.given).client.get(LIVE)
    assert all(words in str(told.value) for words in case.words)
