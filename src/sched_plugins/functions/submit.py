"""Accept jobs from clients."""

from __future__ import annotations

import os
from typing import Any

from sched_plugins import scheduler
from sched_plugins.core.submission import Outcome, Submission
from sched_plugins.errors import SchedulerError
from sched_plugins.functions import settings
from sched_plugins.functions.answers import error_answer
from sched_plugins.functions.process import logger, world
from sched_plugins.functions.request import submission
from sched_plugins.functions.scale import ask_for_workers
from sched_plugins.scheduler.submit import Answer


@logger.inject_lambda_context
def handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Answer ``{"jobs": […]}`` with ``{"results": […]}``, in the same order.

    A result is ``{"outcome", "job_id", "run_id", "queue", "status", "reason"}`` or ``{"error": {"type", "message"}}``.
    Run, queue and status are those of the job's record, which in a conflict is another run's, perhaps in another
    queue. One bad job of a batch does not keep the others from being accepted. See :mod:`.request` for a job's form.
    """
    results: list[dict[str, Any]] = []
    accepted: list[tuple[int, Submission]] = []
    for index, entry in enumerate(event["jobs"]):
        results.append({})
        try:
            accepted.append((index, submission(entry, os.environ)))
        except SchedulerError as error:
            results[index] = error_answer(error)
    answers = scheduler.submit(world(), [one for _, one in accepted])
    for (index, one), answer in zip(accepted, answers, strict=True):
        results[index] = _result(one, answer)
    fresh = sum(result.get("outcome") == Outcome.ACCEPTED for result in results)
    logger.info("submit", extra={"jobs": len(results), "accepted": fresh})
    if fresh and settings.own_queue(os.environ):
        ask_for_workers(fresh)
    return {"results": results}


def _result(asked: Submission, answer: Answer) -> dict[str, Any]:
    if answer.error is not None or answer.decision is None:
        return error_answer(answer.error or SchedulerError("the submission was not decided; send it again"))
    decision = answer.decision
    record = decision.record
    return {
        "outcome": str(decision.outcome),
        "job_id": asked.spec.job_id,
        "run_id": record.run_id if record is not None else asked.run_id,
        "queue": record.queue if record is not None else "",
        "status": str(record.status) if record is not None else "",
        "reason": decision.reason,
    }
