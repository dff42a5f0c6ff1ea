"""Names that several parts must derive in the same way, and the digests that identify attempts."""

from __future__ import annotations

import hashlib
import re

from sched_plugins.core import limits
from sched_plugins.errors import InvalidSettings

JOB_QUEUE = "-job-queue"
STACK_NAME = re.compile(r"[a-z][a-z0-9-]{1,29}[a-z0-9]")


def check_stack_name(name: str) -> str:
    """The name itself, if a scheduler or an environment may have it.

    Lower case, because the name becomes part of a bucket's; at most 31 characters, because with the account
    number and the fixed suffixes a bucket name must stay within 63 and a role name within 64.

    Raises:
        InvalidSettings: the name breaks the rule.
    """
    if not STACK_NAME.fullmatch(name) or "--" in name:
        raise InvalidSettings(
            f"{name!r} cannot be a stack name: use 3 to 31 lower-case letters, digits and single hyphens, "
            "beginning with a letter and ending with a letter or a digit"
        )
    return name


def job_queue(name: str) -> str:
    """The job queue of a scheduler or an environment."""
    return f"{name}{JOB_QUEUE}"


def queue_name(queue: str) -> str:
    """The name of a queue given by its name, ARN or URL."""
    return queue.rsplit("/", 1)[-1].rsplit(":", 1)[-1]


def address(queue: str) -> str:
    """The ARN or URL that a queue was given by; empty if it was given by its name, which is all of its address."""
    return "" if queue == queue_name(queue) else queue


def finished_queue(queue: str) -> str:
    """The sibling of a job queue that receives successes."""
    return f"{queue}-finished"


def failed_queue(queue: str) -> str:
    """The sibling of a job queue that receives final failures, cancellations and rejections."""
    return f"{queue}-failed"


def job_table(scheduler: str) -> str:
    """The table of job records."""
    return f"{scheduler}-job-monitoring"


def slot_table(scheduler: str) -> str:
    """The table of worker slots."""
    return f"{scheduler}-worker-slots"


def function(stack: str, name: str) -> str:
    """The Lambda function ``name`` of a scheduler or an environment."""
    return f"{stack}-{name}"


def bucket(environment: str, account: str) -> str:
    """The bucket of an environment."""
    return f"{environment}-{account}-drop-job-files"


def upload_queue(environment: str) -> str:
    """The queue in which an environment's uploads wait for its trigger function."""
    return f"{environment}-uploads"


def group(environment: str) -> str:
    """The Auto Scaling group of an environment."""
    return f"{environment}-autoscaling-group"


def slot_id(worker_id: str, slot: int = 0) -> str:
    """The key of a worker's slot."""
    return f"{worker_id}-{slot}"


def execution(slot: str, number: int) -> str:
    """The name of the ``number``-th execution of a slot; Step Functions refuses a second of the same name."""
    name = f"{slot}-{number}"
    if len(name) > limits.MAX_EXECUTION_NAME:
        raise InvalidSettings(f"execution name {name!r} is longer than {limits.MAX_EXECUTION_NAME} characters")
    return name


def ticket(execution_number: int, round_number: int, retry: int) -> str:
    """A string that sorts as (execution, round, retry) does; a later NextJob invocation has a greater one."""
    return f"{execution_number:06d}.{round_number:07d}.{retry:04d}"


def event_id(job_id: str, run_id: str, attempt: int, status: str) -> str:
    """The key by which consumers recognise a repeated message."""
    return f"{job_id}:{run_id}:{attempt}:{status}"


def comment(job_id: str, run_id: str, attempt: int) -> str:
    """The Run Command comment of an attempt: how the sweep finds a command whose reply was lost."""
    digest = hashlib.sha256("\0".join((job_id, run_id, str(attempt))).encode()).hexdigest()
    return f"sched {digest}"


def transaction_token(*parts: str) -> str:
    """A DynamoDB client request token (at most 36 characters) for one transaction."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:36]


def shard(job_id: str) -> int:
    """The index shard of a job, stable over processes."""
    return hashlib.sha256(job_id.encode()).digest()[0] % limits.INDEX_SHARDS


def clip(text: str, maximum: int) -> str:
    """The text cut to ``maximum`` UTF-8 bytes, at a character."""
    return text.encode(errors="replace")[:maximum].decode(errors="ignore")


def tail(text: str, maximum: int) -> str:
    """The last ``maximum`` UTF-8 bytes of the text, from a character on."""
    return text.encode(errors="replace")[-maximum:].decode(errors="ignore")
