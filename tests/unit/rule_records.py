"""Records, slots and answers as the rules' tests need them: valid, with what matters to a test as arguments."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from sched_plugins.core import claim, submission, worker
from sched_plugins.core.claim import Round, Start
from sched_plugins.core.job import LINUX_DOCUMENT, JobSpec, parse_spec
from sched_plugins.core.judge import Invocation
from sched_plugins.core.message import JobMessage
from sched_plugins.core.record import JobRecord
from sched_plugins.core.slot import Slot
from sched_plugins.core.submission import Submission

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
LATER = NOW + timedelta(minutes=5)
QUEUE = "demo-job-queue"
WORKER = "i-0123456789abcdef0"
COMMAND = "command-1"


def spec(job_id: str = "job", **fields: Any) -> JobSpec:
    """A valid spec."""
    plain = {"job_id": job_id, "retry": 2, "job_success_string": "", "ssm_document": LINUX_DOCUMENT,
             "commands": ["./run.sh"], "timeout_seconds": 60}  # fmt: skip
    return parse_spec(plain | fields)


def queued(run_id: str = "run-1", **changes: Any) -> JobRecord:
    """A job just submitted, its message not yet sent."""
    return submission.new_run(Submission(spec(), run_id, QUEUE), None, NOW).changed(**changes)


def free_slot(**changes: Any) -> Slot:
    """A worker's slot before its first job."""
    return worker.new_slot(WORKER, QUEUE, NOW)[0].changed(**changes)


def round_(number: int = 0, **changes: Any) -> Round:
    """An invocation of the worker's first execution."""
    fields: dict[str, Any] = {"slot_id": f"{WORKER}-0", "token": f"token-{number}", "execution": 1, "round": number}
    return Round(**(fields | changes))


def started(record: JobRecord | None = None, slot: Slot | None = None, number: int = 0) -> Start:
    """What a claim of a queued job's own message decides."""
    record = record or queued(pending="")
    decision = claim.decide(
        JobMessage(record.spec, record.run_id, record.attempt), "message-1", record, slot or free_slot(),
        round_(number), NOW,
    )  # fmt: skip
    assert isinstance(decision, Start), decision
    return decision


def running(**changes: Any) -> JobRecord:
    """A job whose command was accepted."""
    job = started().job
    return job.changed(**{"status": "RUNNING", "command_id": COMMAND} | changes)


def held_slot(**changes: Any) -> Slot:
    """The slot that holds it."""
    return started().slot.changed(**changes)


def answer(exit_code: int = 0, **changes: Any) -> Invocation:
    """Systems Manager's answer about a command that ended."""
    good = exit_code == 0
    fields: dict[str, Any] = {
        "command_id": COMMAND, "worker_id": WORKER, "comment": "", "status": "Success" if good else "Failed",
        "details": "Success" if good else "Failed", "exit_code": exit_code, "started_at": NOW,
        "finished_at": NOW + timedelta(seconds=30), "stdout_uri": "s3://out/stdout", "stderr_uri": "s3://out/stderr",
    }  # fmt: skip
    return Invocation(**(fields | changes))
