"""Which run of a job serves a caller that may come again: a retry, a restart, a second process.

A caller that is executed several times has one job id and one digest for all of its executions. Its run ids are
``<digest>-<number>``. :func:`decide` looks at the job's record: a live run is waited for, the result of one that
succeeded is taken, and only after one that failed or was cancelled is the next number submitted. Two executions at once
come to the same number, so the scheduler recognises the second one as a repetition.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final
from urllib.parse import quote

from sched_plugins.client.run import Run, Standing, standing
from sched_plugins.core.record import JobRecord
from sched_plugins.core.state import Status

_SAFE: Final = "~!*'()=+:@,;&$ "  # readable, and not used by the id itself; '%' and '/' are always escaped
_DIGEST: Final = 24
"""Hex digits of an identity in its run ids: 96 bits."""


def digest(*parts: str) -> str:
    """96 bits of the parts, in hex; the parts cannot run into each other."""
    told = "".join(f"{len(part)}:{part}" for part in parts)
    return hashlib.sha256(told.encode(errors="surrogatepass")).hexdigest()[:_DIGEST]


def fitted(text: str, maximum: int) -> str:
    """The text; one that is too long is cut, and ends in its digest."""
    if len(text) <= maximum:
        return text
    mark = f"~{hashlib.sha256(text.encode()).hexdigest()[:40]}"
    return text[: maximum - len(mark)] + mark


def escaped(part: str) -> str:
    """A part of a job id, without ``/`` and never empty; different parts stay different."""
    # An empty part would leave "//"; a percent sign alone is no escape of anything.
    return quote(part.encode(errors="surrogatepass"), safe=_SAFE) or "%"


class Step(StrEnum):
    """What an execution has to do."""

    SUBMIT = "submit"
    """There is no run of this identity, or it failed or was cancelled."""
    ATTACH = "attach"
    """Its run goes on: wait for it."""
    TAKE = "take"
    """Its run has succeeded: take the result."""
    LOST = "lost"
    """Its run is over, and somebody else's later run has taken its place in the record."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do, and with which run id."""

    step: Step
    run_id: str
    """Of the run to submit, to wait for or to take; one to wait for may be another's, which serves this one too."""


def decide(job_id: str, run_digest: str, record: JobRecord | None) -> Decision:
    """What an execution has to do about its job, as the record tells.

    Args:
        job_id: the job.
        run_digest: what the run ids of this identity begin with.
        record: the job's record; None if there is none.
    """
    numbers = _numbers(run_digest, record)
    if record is None or not numbers:
        return Decision(Step.SUBMIT, f"{run_digest}-1")
    newest = f"{run_digest}-{max(numbers)}"
    found = standing(Run(job_id, newest), record)
    if found is Standing.SUPERSEDED:
        return Decision(Step.LOST, newest)
    if found is not Standing.ENDED:
        waits = record.next_run is not None and record.next_run.run_id == newest
        return Decision(Step.ATTACH, newest if waits else record.run_id)
    if record.status is Status.SUCCEEDED:
        return Decision(Step.TAKE, newest)
    return Decision(Step.SUBMIT, f"{run_digest}-{max(numbers) + 1}")


def is_ending(decision: Decision, record: JobRecord | None) -> bool:
    """Whether the run that was found live is being cancelled: it will not serve, so it is not worth waiting for."""
    if decision.step is not Step.ATTACH or record is None or not record.cancel_requested:
        return False
    return record.next_run is None or record.next_run.run_id != decision.run_id


def _numbers(run_digest: str, record: JobRecord | None) -> list[int]:
    if record is None:
        return []
    pattern = re.compile(rf"{re.escape(run_digest)}-(\d+)")
    known = [*record.run_ids, record.run_id, *([record.next_run.run_id] if record.next_run else [])]
    return [int(match[1]) for run_id in known if (match := pattern.fullmatch(run_id))]
