"""Uploads become jobs, and jobs get workers."""

from __future__ import annotations

import json
import os
from typing import Any

from sched_plugins import scheduler
from sched_plugins.core.environment import Upload
from sched_plugins.core.submission import Outcome
from sched_plugins.functions import settings
from sched_plugins.functions.process import logger, world
from sched_plugins.functions.scale import LOOK_AGAIN, ask_for_workers

# A conflict is another queue's job with this object's address for its id: nothing may drop the upload unnoticed.
_UNDECIDED = (None, Outcome.BUSY, Outcome.CONFLICT)


@logger.inject_lambda_context
def handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Take a batch of SQS messages, each an "Object Created" event, and name those to be delivered again.

    One that stays undecided, or whose spec is refused, ends on the uploads' dead-letter queue.
    """
    environment = settings.environment(os.environ)
    records = [message for message in event["Records"] if message["body"] != LOOK_AGAIN]
    messages = [message["messageId"] for message in records]
    uploads = [_upload(message["body"]) for message in records]
    answers = scheduler.trigger(world(), environment, uploads)
    again: list[str] = []
    accepted = 0
    for message_id, upload, answer in zip(messages, uploads, answers, strict=True):
        if answer is None:
            continue
        outcome = answer.decision.outcome if answer.decision is not None and answer.error is None else None
        accepted += outcome is Outcome.ACCEPTED
        if outcome in _UNDECIDED:
            again.append(message_id)
            reason = answer.error or (answer.decision and answer.decision.reason)
            logger.warning("not submitted", extra={"uri": upload.uri, "reason": str(reason)})
        else:
            logger.info("upload", extra={"uri": upload.uri, "outcome": str(outcome)})
    if accepted or len(records) < len(event["Records"]):
        ask_for_workers(accepted)
    return {"batchItemFailures": [{"itemIdentifier": message_id} for message_id in again]}


def _upload(body: str) -> Upload:
    detail = json.loads(body)["detail"]
    found = detail["object"]
    return Upload(detail["bucket"]["name"], found["key"], found["etag"], found["sequencer"])
