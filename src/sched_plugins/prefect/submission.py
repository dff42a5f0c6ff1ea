"""Submitting the jobs of a call, so that a call which Prefect repeats finds its jobs again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from sched_plugins.client import EnvironmentClient, Job, Run, SchedulerClient, Submitted
from sched_plugins.client.identity import Decision, Step, decide, is_ending
from sched_plugins.core import names
from sched_plugins.errors import Busy, Conflict, InvalidInput, InvalidJob, JobNotFound, Throttled, Unknown
from sched_plugins.prefect.identity import CONTENT_TAG, CallIdentity
from sched_plugins.prefect.records import JobHandle

JobClientLike = SchedulerClient | EnvironmentClient
JobLike = str | Sequence[str] | Mapping[str, Any]
"""A job: its command, its commands, or the fields of the job message (docs/contracts.md)."""
END_SECONDS: Final = 60.0
"""How long to wait for the end of an earlier run that is being cancelled."""
UNCERTAIN: Final = (Busy, Throttled, Unknown)
"""After these a job may have been submitted all the same: by a request whose answer was lost. Its record tells."""


def job_fields(job: Any, where: str = "job") -> dict[str, Any]:
    """The fields of a job, however it was given.

    Raises:
        InvalidJob: it is none of what a job can be.
    """
    if isinstance(job, str):
        return {"commands": [job]}
    if isinstance(job, Mapping):
        fields = dict(job)
        if isinstance(fields.get("commands"), str):
            fields["commands"] = [fields["commands"]]
        return fields
    if isinstance(job, Sequence) and job and all(isinstance(one, str) for one in job):
        return {"commands": list(job)}
    raise InvalidJob(
        f"{where} is {str(job)[:80]!r} ({type(job).__name__}); give a command, a list of commands, or a mapping of "
        "the job's fields, such as {'commands': ['./run.sh'], 'timeout_seconds': 3600}"
    )


def labelled(fields: Mapping[str, Any], identity: CallIdentity) -> dict[str, Any]:
    """A job's fields with its id, and with the flow run's group and labels."""
    check_free(fields, in_flow=bool(identity.group_id))
    group = {"group_id": identity.group_id} if identity.group_id else {}
    return {**fields, **group, "tags": {**(fields.get("tags") or {}), **identity.tags}, "job_id": identity.job_id}


def check_free(fields: Mapping[str, Any], *, in_flow: bool) -> None:
    """Refuse fields that are not the user's to set.

    Raises:
        InvalidJob: names the field and what to use instead.
    """
    if "job_id" in fields:
        raise InvalidJob("job_id: follows from the flow run; name the job with job_key instead")
    if in_flow and fields.get("group_id"):
        raise InvalidJob(
            "group_id: is that of the flow run, by which its jobs are found when it is cancelled; use tags"
        )


def submit_one(
    client: JobClientLike,
    identity: CallIdentity,
    submit: Callable[[str], Submitted],
    say: Callable[[str], None] = lambda _: None,
) -> JobHandle:
    """Submit a job unless a run of it is live or has succeeded; what to wait for.

    Args:
        client: reads the job.
        identity: who the job is.
        submit: submits it under a run id.
        say: told in words of what was found or done.

    Raises:
        Conflict: the run is over and a later one of somebody else's has taken its place.
        InvalidInput: the job key belongs to another job of this flow run.
        SchedulerError: the job was refused.
    """
    job_id = identity.job_id
    decision, record = _decided(client, identity)
    if decision.step in (Step.TAKE, Step.ATTACH):
        if record is not None and record.spec.tags.get(CONTENT_TAG, identity.content) != identity.content:
            raise InvalidInput(
                f"job_key {identity.parts[-1]!r} of this flow run has a job that is {record.status} and does something "
                "else; give the new job a key of its own"
            )
        say(f"{'has succeeded already' if decision.step is Step.TAKE else 'is live: waiting for it'} ({job_id})")
        return handle_of(client, job_id, decision.run_id)
    try:
        submitted = submit(decision.run_id)
    except UNCERTAIN:
        found = decide(job_id, identity.digest, _record(client, job_id))
        if found.step not in (Step.ATTACH, Step.TAKE):
            raise
        return handle_of(client, job_id, found.run_id)
    return handle_of(client, job_id, submitted.run_id)


def handle_of(client: JobClientLike, job_id: str, run_id: str = "") -> JobHandle:
    """A handle that knows its scheduler."""
    return JobHandle(job_id=job_id, run_id=run_id, scheduler=client.scheduler)


def submit_job_to(
    client: JobClientLike,
    identity: CallIdentity,
    fields: Mapping[str, Any],
    *,
    queue: str = "",
    say: Callable[[str], None] = lambda _: None,
) -> JobHandle:
    """Submit one job; as :func:`submit_one`."""
    told = labelled(fields, identity)
    return submit_one(client, identity, lambda run_id: client.submit(told, run_id=run_id, queue=queue), say)


def tell_unserved(client: JobClientLike, queue: str, warn: Callable[[str], None]) -> None:
    """Warn of a queue that nothing serves. One Scan where something does; nothing for an environment's own queue."""
    if isinstance(client, EnvironmentClient) and not queue:
        return
    if why := client.unserved(queue or names.job_queue(client.scheduler)):
        warn(why)


@dataclass(frozen=True, slots=True)
class BatchSubmission:
    """What became of the submission of many jobs."""

    handles: tuple[JobHandle, ...]
    """Of all jobs, in their order; a refused one's too."""
    refused: Mapping[str, str]
    """Why, by job id."""
    submitted: int
    """How many were sent now; the others were live or had succeeded."""


def batch_fields(jobs: Any, common: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """The fields of each job of a batch.

    Raises:
        InvalidJob: it is no list of jobs, or one of them cannot be.
    """
    if isinstance(jobs, (str, Mapping)) or not isinstance(jobs, Sequence):
        raise InvalidJob(f"jobs is {str(jobs)[:80]!r} ({type(jobs).__name__}); give a list of jobs")
    if not jobs:
        raise InvalidJob("jobs is empty; give at least one job")
    return [{**dict(common or {}), **job_fields(job, f"jobs[{number}]")} for number, job in enumerate(jobs)]


def submit_batch(
    client: JobClientLike,
    each: Sequence[CallIdentity],
    fields: Sequence[Mapping[str, Any]],
    *,
    queue: str = "",
    on_decided: Callable[[Sequence[JobHandle]], None] = lambda _: None,
) -> BatchSubmission:
    """Submit jobs, 100 a request: those that are neither live nor have succeeded.

    Args:
        client: whose functions submit.
        each: who they are.
        fields: of each.
        queue: instead of the client's own.
        on_decided: told of all runs before the first is sent, so that an interruption can cancel them.

    Raises:
        InvalidJob: one of them cannot be; nothing was sent.
        SchedulerError: all were refused: the first one's reason.
    """
    specs = [labelled(one, identity) for one, identity in zip(fields, each, strict=True)]
    known = _known(client, each)
    decisions = [decide(one.job_id, one.digest, known.get(one.job_id)) for one in each]
    handles = [handle_of(client, one.job_id, done.run_id) for one, done in zip(each, decisions, strict=True)]
    on_decided(handles)
    chosen = [number for number, decision in enumerate(decisions) if decision.step is Step.SUBMIT]
    answers = client.submit_many(
        [specs[number] for number in chosen],
        run_ids=[decisions[number].run_id for number in chosen],
        queue=queue,
        known=known,
    )
    answers = _found(client, {one.job_id: one for one in each}, answers)
    refused = {answer.job_id: str(answer.error) for answer in answers if answer.error is not None}
    if answers and len(refused) == len(specs) and answers[0].error is not None:
        raise answers[0].error
    for number, answer in zip(chosen, answers, strict=True):
        handles[number] = handle_of(client, answer.job_id, answer.run_id)
    return BatchSubmission(tuple(handles), refused, len(answers) - len(refused))


def _decided(client: JobClientLike, identity: CallIdentity) -> tuple[Decision, Job | None]:
    job_id = identity.job_id
    record = _record(client, job_id)
    decision = decide(job_id, identity.digest, record)
    if record is not None and is_ending(decision, record):
        client.wait(Run(job_id, record.run_id), timeout=END_SECONDS, patient=True)
        record = _record(client, job_id)
        decision = decide(job_id, identity.digest, record)
    if decision.step is Step.LOST and record is not None:
        raise Conflict(
            f"run {decision.run_id!r} of job {job_id!r} is over, and its record now tells of run {record.run_id!r} "
            f"({record.status}); name another job_key to run it anew"
        )
    return decision, record


def _known(client: JobClientLike, each: Sequence[CallIdentity]) -> dict[str, Job]:
    """The jobs' records; those that are being cancelled are waited for."""
    known = client.get_many([one.job_id for one in each])
    ending = [
        known[one.job_id]
        for one in each
        if one.job_id in known and is_ending(decide(one.job_id, one.digest, known[one.job_id]), known[one.job_id])
    ]
    if ending:
        for _ in client.watch([Run(job.job_id, job.run_id) for job in ending], timeout=END_SECONDS, patient=True):
            pass
        known |= client.get_many([job.job_id for job in ending])
    return known


def _found(client: JobClientLike, each: Mapping[str, CallIdentity], answers: Sequence[Submitted]) -> list[Submitted]:
    """The answers; a job that was submitted without one is as good as the others."""
    unsure = [answer.job_id for answer in answers if isinstance(answer.error, UNCERTAIN)]
    try:
        known = client.get_many(unsure) if unsure else {}
    except UNCERTAIN:
        return list(answers)  # The others are not to be left alone for these.
    decisions = {job_id: decide(job_id, each[job_id].digest, job) for job_id, job in known.items()}
    there = {one: told.run_id for one, told in decisions.items() if told.step in (Step.ATTACH, Step.TAKE)}
    return [
        replace(answer, run_id=there[answer.job_id], error=None) if answer.job_id in there else answer
        for answer in answers
    ]


def _record(client: JobClientLike, job_id: str) -> Job | None:
    try:
        return client.get(job_id)
    except JobNotFound:
        return None
