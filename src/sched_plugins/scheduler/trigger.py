"""Turn uploads into submissions. Repeating an event repeats the same submission, which changes nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sched_plugins.core import limits
from sched_plugins.core.environment import (
    EVENT_METADATA,
    MANIFEST,
    OVERRIDES,
    Environment,
    Upload,
    needed_manifests,
    triggers,
    uploaded_job,
)
from sched_plugins.core.submission import Submission
from sched_plugins.errors import InvalidJob, SchedulerError
from sched_plugins.ports import World
from sched_plugins.scheduler.submit import Answer, submit

_LARGEST_MANIFEST = 16 * limits.MIB


def trigger(world: World, environment: Environment, uploads: Sequence[Upload]) -> Sequence[Answer | None]:
    """Submit the jobs that these uploads start.

    Returns:
        For each upload what became of its submission, with an error where it must be tried again; None where it
        starts nothing.
    """
    answers: list[Answer | None] = [None] * len(uploads)
    submissions: list[tuple[int, Submission]] = []
    for index, upload in enumerate(uploads):
        try:
            submission = _submission(world, environment, upload)
        except SchedulerError as error:
            answers[index] = Answer(None, error)
            continue
        if submission is not None:
            submissions.append((index, submission))
    for (index, _), answer in zip(submissions, submit(world, [one for _, one in submissions]), strict=True):
        answers[index] = answer
    return answers


def _submission(world: World, environment: Environment, upload: Upload) -> Submission | None:
    if not triggers(environment, upload, {}):
        return None
    metadata = world.objects.metadata(upload.uri)
    if metadata is None or not triggers(environment, upload, metadata):
        return None  # Deleted meanwhile, or written by this environment's own jobs.
    etags: dict[str, str] = {}
    for name, uri in needed_manifests(environment, upload).items():
        found = world.objects.metadata(uri)
        if found is None:
            return None  # Its own event comes when it is written.
        etags[name] = found.get(EVENT_METADATA) or found["etag"]
    overrides = _overrides(world, environment, upload)
    event = metadata.get(EVENT_METADATA, "")
    return uploaded_job(environment, upload, event=event, manifest_etags=etags, overrides=overrides)


def _overrides(world: World, environment: Environment, upload: Upload) -> Mapping[str, Mapping[str, Any]]:
    """Parameters that this run of a pipeline was started with: in a file beside the first upload, then carried
    from manifest to manifest."""
    if not environment.stage:
        return {}
    uri = upload.uri if upload.key.endswith(MANIFEST) else f"s3://{upload.bucket}/{upload.folder}{OVERRIDES}"
    text = world.objects.tail(uri, _LARGEST_MANIFEST)
    if text is None:
        return {}
    try:
        found = json.loads(text)
        overrides = found.get("overrides", {}) if uri == upload.uri else found
        return {str(stage): dict(values) for stage, values in overrides.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise InvalidJob(f"{uri!r} does not hold parameters by stage as JSON: {error}") from None
