"""An account with a scheduler, as its users reach it: plain boto3, the AWS CLI and ``sched``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import boto3
import psutil
from boto3.dynamodb.types import TypeDeserializer

from sched_plugins.local import lifecycle
from sched_plugins.local.state import StackInfo

PATIENCE = 180.0
"""Seconds; only what is broken, or a machine with much else to do, comes near it."""
SCHEDULER = "acceptance"
ENDED = frozenset({"SUCCEEDED", "FAILED", "CANCELLED", "REJECTED"})
Found = TypeVar("Found")
_ALIVE = ["pending", "running", "shutting-down", "stopping", "stopped"]


def eventually(look: Callable[[], Found], seconds: float = PATIENCE, every: float = 0.05) -> Found:
    """The first true value that ``look`` returns; fails with the last one when none comes.

    What takes long is looked at less often: the stack needs the processor.
    """
    began = time.monotonic()
    while not (value := look()):
        waited = time.monotonic() - began
        assert waited < seconds, f"waited {seconds:g} s in vain; last seen: {value!r}"
        time.sleep(max(every, min(waited / 8, 0.5)))
    return value


@dataclass(frozen=True)
class Trio:
    """A job queue and its siblings."""

    name: str
    url: str
    finished: str
    failed: str


class Account:
    """One laptop stack. Every call names its endpoint, so that nothing leaks into other tests of the process."""

    def __init__(self, info: StackInfo) -> None:
        self.info = info
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "SCHED_"))}
        programs = os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", os.defpath)])
        told = {"PATH": programs, "SCHED_LOCAL_STATE": info.state_dir, "NO_COLOR": "1", "AWS_PAGER": ""}
        self.variables = kept | lifecycle.environment(info) | told
        self.client = cache(self._client)
        self._told: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self._trios: dict[str, Trio] = {}

    def _client(self, service: str) -> Any:
        found: Any = boto3.client(
            service,  # type: ignore[call-overload]
            endpoint_url=self.info.endpoint,
            region_name=self.info.region,
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )
        return found

    def run(self, *words: str, code: int = 0) -> str:
        """Run a program in a shell that was told of the stack; returns what it printed."""
        done = subprocess.run(words, env=self.variables, capture_output=True, text=True, timeout=PATIENCE, check=False)
        assert done.returncode == code, f"{' '.join(words)} exited {done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout

    def aws(self, *words: str) -> Any:
        """The AWS CLI; returns its JSON."""
        text = self.run("aws", *words)
        return json.loads(text) if text.strip().startswith(("{", "[")) else text

    def sched(self, *words: str, code: int = 0) -> Any:
        """The ``sched`` command; returns its JSON."""
        return json.loads(self.run("sched", "--json", *words, code=code) or "null")

    # ------------------------------------------------------------------------------------------ queues

    def trio(self, name: str) -> Trio:
        """The queue trio ``<name>-job-queue``, made as a user would outside of any stack if it does not exist."""
        if name not in self._trios:
            letters = f"arn:aws:sqs:{self.info.region}:{self.info.account}:{SCHEDULER}-dead-letters"
            redrive = json.dumps({"deadLetterTargetArn": letters, "maxReceiveCount": 10})
            urls = [
                self._queue(f"{name}-job-queue", {"RedrivePolicy": redrive, "VisibilityTimeout": "60"}),
                self._queue(f"{name}-job-queue-finished", {}),
                self._queue(f"{name}-job-queue-failed", {}),
            ]
            self._trios[name] = Trio(f"{name}-job-queue", *urls)
        return self._trios[name]

    def _queue(self, name: str, attributes: dict[str, str]) -> str:
        sqs = self.client("sqs")
        try:
            found = sqs.get_queue_url(QueueName=name)
        except sqs.exceptions.QueueDoesNotExist:
            found = sqs.create_queue(QueueName=name, Attributes=attributes)
        return str(found["QueueUrl"])

    @property
    def trios(self) -> Sequence[Trio]:
        """Every trio that was used."""
        return list(self._trios.values())

    def send(self, queue: Trio, **fields: Any) -> str:
        """Send a job message of the original five fields, those given and defaults, with plain SQS; its job id."""
        message = {
            "retry": "0",
            "job_success_string": " ",
            "ssm_document": "AWS-RunShellScript",
            "commands": ["true"],
        } | fields
        self.client("sqs").send_message(QueueUrl=queue.url, MessageBody=json.dumps(message))
        return str(message["job_id"])

    def waiting(self, url: str) -> int:
        """Messages of a queue, those in flight included."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        found = self.client("sqs").get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
        return sum(int(found[name]) for name in names)

    def told(self, url: str) -> list[dict[str, Any]]:
        """All messages that a finished or failed queue has had so far, as JSON."""
        sqs = self.client("sqs")
        while found := sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", []):
            self._told[url] += [json.loads(message["Body"]) for message in found]
            entries = [{"Id": str(i), "ReceiptHandle": one["ReceiptHandle"]} for i, one in enumerate(found)]
            sqs.delete_message_batch(QueueUrl=url, Entries=entries)
        return self._told[url]

    def told_of(self, url: str, job_id: str) -> dict[str, Any]:
        """The first message about a job on a finished or failed queue, once there is one."""
        return eventually(lambda: next((one for one in self.told(url) if one["job_id"] == job_id), {}))

    # ------------------------------------------------------------------------------------------ jobs

    def records(self, job_ids: Iterable[str] | None = None) -> dict[str, dict[str, Any]]:
        """Job records by id: those of ``job_ids`` that exist, or all."""
        table, found = f"{SCHEDULER}-job-monitoring", []
        if job_ids is None:
            for page in self.client("dynamodb").get_paginator("scan").paginate(TableName=table, ConsistentRead=True):
                found += page["Items"]
        else:
            wanted = list(job_ids)
            for start in range(0, len(wanted), 100):
                keys = [{"job_id": {"S": job_id}} for job_id in wanted[start : start + 100]]
                asked = {table: {"Keys": keys, "ConsistentRead": True}}
                found += self.client("dynamodb").batch_get_item(RequestItems=asked)["Responses"][table]
        read = TypeDeserializer().deserialize
        items = [{name: read(value) for name, value in item.items()} for item in found]
        return {item["job_id"]: item for item in items}

    def record(self, job_id: str) -> dict[str, Any]:
        """One job's record; empty while there is none."""
        return self.records([job_id]).get(job_id, {})

    def ended(self, *job_ids: str, seconds: float = PATIENCE) -> dict[str, dict[str, Any]]:
        """The records once all jobs have ended."""

        def look() -> dict[str, dict[str, Any]]:
            found = self.records(job_ids)
            over = sum(one["status"] in ENDED for one in found.values())
            return found if over == len(set(job_ids)) else {}

        try:
            return eventually(look, seconds, every=0.2)
        except AssertionError:
            found = self.records(job_ids)
            counts = Counter(found[job_id]["status"] if job_id in found else "(none)" for job_id in job_ids)
            open_ = [one for one in found.values() if one["status"] not in ENDED][:5]
            raise AssertionError(f"not all jobs ended: {counts}; {open_}") from None

    # ------------------------------------------------------------------------------------------ workers

    def launch(self, queue: Trio | None, count: int = 1) -> list[str]:
        """Start instances with the scheduler's tag, or untagged."""
        tags = [{"Key": SCHEDULER, "Value": queue.name}] if queue else [{"Key": "Name", "Value": "spare"}]
        started = self.client("ec2").run_instances(
            ImageId="ami-0abcdef1234567890",
            MinCount=count,
            MaxCount=count,
            TagSpecifications=[{"ResourceType": "instance", "Tags": tags}],
        )
        return [one["InstanceId"] for one in started["Instances"]]

    def alive(self, queue: Trio | None = None) -> list[str]:
        """Instances that are not terminated: workers of a queue, or all."""
        filters = [{"Name": "instance-state-name", "Values": _ALIVE}]
        if queue:
            filters.append({"Name": f"tag:{SCHEDULER}", "Values": [queue.name]})
        pages = self.client("ec2").get_paginator("describe_instances").paginate(Filters=filters)
        return [one["InstanceId"] for page in pages for held in page["Reservations"] for one in held["Instances"]]

    def state(self, instance_id: str) -> str:
        """State of an instance."""
        found = self.client("ec2").describe_instances(InstanceIds=[instance_id])
        return str(found["Reservations"][0]["Instances"][0]["State"]["Name"])

    def slots(self) -> list[dict[str, Any]]:
        """All worker slots."""
        read = TypeDeserializer().deserialize
        found = self.client("dynamodb").scan(TableName=f"{SCHEDULER}-worker-slots", ConsistentRead=True)["Items"]
        return [{name: read(value) for name, value in item.items()} for item in found]

    def finished_history(self, worker_id: str) -> list[str]:
        """The types of all events of a worker's first execution, once it has ended by itself."""
        states, arn = self.client("stepfunctions"), self._first_execution(worker_id)
        eventually(lambda: states.describe_execution(executionArn=arn)["status"] == "SUCCEEDED")
        return [event["type"] for event in self._events(worker_id)]

    def errors(self, worker_id: str) -> list[str]:
        """The errors that tasks of a worker's first execution have had so far."""
        events = self._events(worker_id)
        return [event["taskFailedEventDetails"]["error"] for event in events if event["type"] == "TaskFailed"]

    def entered(self, worker_id: str) -> list[str]:
        """The states that a worker's first execution has entered so far."""
        return [
            event["stateEnteredEventDetails"]["name"]
            for event in self._events(worker_id)
            if "stateEnteredEventDetails" in event
        ]

    def _events(self, worker_id: str) -> list[dict[str, Any]]:
        states = self.client("stepfunctions")
        found = states.get_paginator("get_execution_history").paginate(executionArn=self._first_execution(worker_id))
        try:
            return [event for page in found for event in page["events"]]
        except states.exceptions.ExecutionDoesNotExist:
            return []

    def _first_execution(self, worker_id: str) -> str:
        return f"{self._machine_arn.replace(':stateMachine:', ':execution:')}:{worker_id}-0-1"

    def executions(self) -> list[str]:
        """Executions that run."""
        pages = (
            self.client("stepfunctions")
            .get_paginator("list_executions")
            .paginate(stateMachineArn=self._machine_arn, statusFilter="RUNNING")
        )
        return [one["name"] for page in pages for one in page["executions"]]

    @property
    def _machine_arn(self) -> str:
        return f"arn:aws:states:{self.info.region}:{self.info.account}:stateMachine:{SCHEDULER}-worker"

    def invoke(self, name: str, event: Any = None) -> Any:
        """Invoke one of the scheduler's functions; returns its answer."""
        payload = json.dumps(event or {}).encode()
        reply = self.client("lambda").invoke(FunctionName=f"{SCHEDULER}-{name}", Payload=payload)
        return json.loads(reply["Payload"].read())

    def function_processes(self) -> list[tuple[str, psutil.Process]]:
        """The processes in which the stack runs the scheduler's functions, by the function's name, oldest first."""
        found = []
        for child in psutil.Process(self.info.pid).children(recursive=True):
            try:
                if "preload.py" in " ".join(child.cmdline()) and child.ppid() != self.info.pid:
                    found.append((child.name().rpartition("-")[2], child))
            except psutil.NoSuchProcess:
                continue  # A zombie, too.
        return sorted(found, key=lambda one: one[1].pid)

    def sweep(self) -> Any:
        """What the schedule does once a minute, now."""
        return self.invoke("sweep")
