"""Publish what the tables say is due: queue messages, events, manifests; and wake waiting executions.

Everything here may be done twice. An effect is named by its record's ``pending``, which is removed only after
every send was confirmed; whoever dies in between leaves it to the stream's retry and to the sweep.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Sequence

from sched_plugins.core import message, submission, worker
from sched_plugins.core.environment import ENVIRONMENT_METADATA, EVENT_METADATA, RUN_METADATA
from sched_plugins.core.record import JobRecord, to_text
from sched_plugins.core.slot import Slot
from sched_plugins.core.state import Status
from sched_plugins.errors import SchedulerError, ServiceError, Throttled
from sched_plugins.ports import ConditionFailed, Unreadable, World

MAX_MANIFEST_KEYS = 10_000
"""A manifest names at most so many files; a larger folder says ``"complete": false``."""

MANIFESTS_BEGIN_WITHIN = 20.0
"""Seconds (own) in which one call begins to write manifests: to list 10,001 files takes eleven calls of S3, a few
seconds, and the outbox's function has 120. What is begun is finished."""


def publish(world: World, records: Sequence[JobRecord]) -> dict[str, Exception]:
    """Send every record's pending effect, then settle it.

    Returns:
        By job id, what could not be sent or settled; all else is done.
    """
    seen = {record.job_id: record.pending for record in records if record.pending == record.event_id}
    try:
        # A stream shows a record again after its effect was sent: with each retry of its batch, and when the sweep
        # was faster. To send it again then could overwrite the manifest of a later run.
        read = world.tables.jobs(list(seen)) if seen else {}
    except SchedulerError as error:
        return dict.fromkeys(seen, error)
    failed: dict[str, Exception] = {key: found for key, found in read.items() if isinstance(found, Unreadable)}
    latest = {
        key: record
        for key, record in read.items()
        if isinstance(record, JobRecord) and record.pending == record.event_id == seen[key]
    }
    staged = [record for record in latest.values() if _has_manifest(record)]
    ended = [record for record in latest.values() if record.is_terminal and not _has_manifest(record)]
    queued = [record for record in latest.values() if record.status is Status.QUEUED]
    # Workers and people wait for messages; no folder that takes long to list may keep them waiting.
    for group in (queued, ended):
        failed |= _tell(world, group)
    return failed | _tell_after_manifests(world, staged)


def _tell(world: World, records: Sequence[JobRecord]) -> dict[str, Exception]:
    """Send the messages and events of records, and settle those that were sent."""
    failed = _send_all(world, records)
    for record in records:
        if record.job_id in failed:
            continue
        try:
            _settle(world, record)
        except SchedulerError as error:
            failed[record.job_id] = error
    return failed


def _tell_after_manifests(world: World, records: Sequence[JobRecord]) -> dict[str, Exception]:
    """Write each record's manifests, then tell of it and settle it, before the next one's are begun.

    What is not begun in time fails as throttled: the stream delivers it again at once, at most five times, and then
    the sweep publishes it. Each call finishes at least one, so that ends. Each takes them in another order, so
    that one which always takes long does not always come before the same others.
    """
    failed: dict[str, Exception] = {}
    began = world.clock.now()
    for record in sorted(records, key=lambda one: hashlib.sha256(f"{began} {one.event_id}".encode()).digest()):
        if (world.clock.now() - began).total_seconds() > MANIFESTS_BEGIN_WITHIN:
            reason = "other manifests took all the time of this call; it is published by one of the next"
            failed[record.job_id] = Throttled(f"the manifest of job {record.job_id!r} was not begun: {reason}")
            continue
        try:
            current = world.tables.job(record.job_id)
            if current is None or current.pending != record.pending:
                continue  # Somebody else has published it, while those before it were listed.
            _write_manifests(world, record)
        except SchedulerError as error:
            failed[record.job_id] = error
            continue
        failed |= _tell(world, [record])
    return failed


def _send_all(world: World, records: Sequence[JobRecord]) -> dict[str, Exception]:
    failed: dict[str, Exception] = {}
    ended = [record for record in records if record.is_terminal]
    outgoing: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for record in records:
        if record.status is Status.QUEUED:
            outgoing[record.address].append((record.job_id, message.compose(record)))
    for record in ended:
        try:
            finished, failures = world.queues.siblings(record.address)
        except SchedulerError as error:
            failed[record.job_id] = error
            continue
        target = finished if record.status is Status.SUCCEEDED else failures
        outgoing[target].append((record.job_id, message.dump(message.finished(record, world.scheduler))))
    for queue, entries in outgoing.items():
        failed |= _send(world, queue, entries)
    told = [record for record in ended if record.job_id not in failed]
    if told:
        outcomes = world.events.publish([message.finished(record, world.scheduler) for record in told])
        failed |= {record.job_id: error for record, error in zip(told, outcomes, strict=True) if error is not None}
    return failed


def _send(world: World, queue: str, entries: Sequence[tuple[str, str]]) -> dict[str, Exception]:
    try:
        outcomes = world.queues.send(queue, [body for _, body in entries])
    except SchedulerError as error:
        return {job_id: error for job_id, _ in entries}
    return {job_id: error for (job_id, _), error in zip(entries, outcomes, strict=True) if error is not None}


def _settle(world: World, record: JobRecord) -> None:
    current: JobRecord | None = record
    while current is not None and current.pending == record.pending:
        _, write = submission.settle(current, world.clock.now())
        try:
            world.tables.write(write)
        except ConditionFailed:
            # A newer upload was kept meanwhile, or somebody else has settled it.
            current = world.tables.job(record.job_id)
        else:
            return


def _has_manifest(record: JobRecord) -> bool:
    # A raw message may name any folder as its output; only what a submit function has checked starts a next stage.
    return record.spec.stage is not None and not record.raw and record.status is Status.SUCCEEDED


def _write_manifests(world: World, record: JobRecord) -> None:
    stage = record.spec.stage
    if stage is None:
        return
    metadata = {
        RUN_METADATA: record.run_id,
        ENVIRONMENT_METADATA: stage.writer,
        EVENT_METADATA: hashlib.sha256(record.event_id.encode()).hexdigest(),
    }
    for folder in (stage.output, *stage.outputs_too):
        found = world.objects.listing(folder, MAX_MANIFEST_KEYS + 1)
        files = [one for one in found if not one.key.startswith("_sched/")]
        manifest = {
            "job_id": record.job_id,
            "run_id": record.run_id,
            "attempt": record.attempt,
            "finished_at": to_text(record.finished_at or record.updated_at),
            "folder": folder,
            "files": [{"key": one.key, "size": one.size, "etag": one.etag} for one in files[:MAX_MANIFEST_KEYS]],
            "complete": len(found) <= MAX_MANIFEST_KEYS,
            "parameters": stage.stage_parameters,
            "overrides": stage.overrides,
        }
        world.objects.put(f"{folder}_sched/SUCCEEDED.json", json.dumps(manifest, ensure_ascii=False).encode(), metadata)


def wake(world: World, slot: Slot) -> None:
    """Complete the token that the slot carries, if it carries one; what fails is left to the sweep.

    An accepted wake stays on the slot: the invocation that it leads to proves that it came, and clears it in a
    write that it makes anyway. A dead token is cleared here.
    """
    if slot.wake is None:
        return
    try:
        if not world.executions.wake(slot.wake):
            world.tables.write(worker.woken(slot, slot.wake))
    except (ServiceError, ConditionFailed):
        # Not certainly woken: the wake stays on the slot. Or already cleared by another.
        return


def wake_overdue(world: World, seen: Sequence[Slot]) -> None:
    """Wake the executions of slots that were seen with a wake some seconds ago and still carry it.

    Whoever writes a wake completes it at once, and the next claim clears it; so of a hundred that a stream shows,
    hardly one is still there, and only that one's caller has died.
    """
    for before in seen:
        slot = world.tables.slot(before.slot_id)
        if slot is not None and slot.wake == before.wake:
            wake(world, slot)
