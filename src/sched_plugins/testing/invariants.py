"""What must be true of a simulation, whatever went wrong in it. Each check names what it found broken."""

from __future__ import annotations

import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

from sched_plugins.core import names
from sched_plugins.core.message import parse
from sched_plugins.core.state import LIVE, TERMINAL, SlotState, Status, permitted
from sched_plugins.core.submission import UPLOAD_RUN, Outcome
from sched_plugins.core.write import Table
from sched_plugins.errors import InvalidJob
from sched_plugins.testing.commands import Process, Run
from sched_plugins.testing.simulation import Simulation
from sched_plugins.testing.tables import Change, Item

Check = Callable[[Simulation], Iterator[str]]
_LAG = timedelta(seconds=5)
"""What the services' own lags may add before a sweep can see something."""
_SWEEPS = 2
_APART = timedelta(seconds=50)


def _job_changes(simulation: Simulation) -> Iterator[Change]:
    return (change for change in simulation.tables.history if change.write.table is Table.JOBS)


def _run(item: Item) -> tuple[str, str]:
    return str(item["job_id"]), str(item["run_id"])


def _ends(simulation: Simulation) -> dict[str, Item]:
    """The first terminal record of every run that ended, by event id."""
    ends: dict[str, Item] = {}
    for change in _job_changes(simulation):
        if change.after is not None and change.after["status"] in TERMINAL:
            ends.setdefault(_event_id(change.after), change.after)
    return ends


def _event_id(item: Item) -> str:
    return names.event_id(str(item["job_id"]), str(item["run_id"]), int(item["attempt"]), str(item["status"]))


def nothing_is_lost(simulation: Simulation) -> Iterator[str]:
    """Every accepted job is terminal, queued, held by a slot, or waiting in the outbox."""
    seen = {_run(change.after) for change in _job_changes(simulation) if change.after is not None}
    kept: dict[str, list[str]] = defaultdict(list)
    for job_id, run_id, outcome in simulation.accepted:
        if outcome is Outcome.ACCEPTED and (job_id, run_id) not in seen:
            yield f"run {run_id!r} of {job_id!r} was accepted, but no record ever had it"
        if outcome is Outcome.KEPT or (outcome is Outcome.DUPLICATE and run_id.startswith(UPLOAD_RUN)):
            # A duplicate is one that was kept, too, by a call whose reply was lost.
            kept[job_id].append(run_id)
    for job_id, run_ids in kept.items():
        item = simulation.tables.item(Table.JOBS, job_id) or {}
        newest = max(run_ids)
        if (job_id, newest) not in seen and item.get("next_run") != newest:
            yield f"upload {newest!r} of {job_id!r} was kept for later, and is gone"
    for item in simulation.tables.items(Table.JOBS).values():
        if item["status"] == Status.QUEUED and "pending" not in item and not _has_message(simulation, item):
            yield f"{item['job_id']!r} is QUEUED without a message or a pending effect"


def _has_message(simulation: Simulation, item: Item) -> bool:
    stored = (*simulation.queues.stored(item["queue"]), *simulation.queues.stored(simulation.world.dead_letters))
    for message in stored:
        try:
            understood = parse(message.body)
        except InvalidJob:
            continue
        if (understood.spec.job_id, understood.run_id, understood.attempt) == (
            item["job_id"], item["run_id"], item["attempt"],
        ):  # fmt: skip
            return True
    return False


def one_live_attempt(simulation: Simulation) -> Iterator[str]:
    """At most one attempt of a job runs at a time, on whatever worker."""
    by_job: dict[str, list[Process]] = defaultdict(list)
    for process in simulation.commands.processes:
        by_job[process.attempt.job_id].append(process)
    for job_id, processes in by_job.items():
        for earlier, later in itertools.pairwise(processes):
            same = (earlier.attempt.run_id, earlier.attempt.attempt) == (later.attempt.run_id, later.attempt.attempt)
            if (earlier.ended_at is None or earlier.ended_at > later.started_at) and not same:
                yield f"{job_id!r}: {later.attempt} started while {earlier.attempt} was running"


def attempts_only_grow(simulation: Simulation) -> Iterator[str]:
    """Within a run, attempt and losses only grow, one at a time, and retries stay within what was asked for."""
    for change in _job_changes(simulation):
        before, after = change.before, change.after
        if after is None:
            yield f"{change.write.name} deleted a job record"
            continue
        if before is not None and _run(before) == _run(after):
            step, lost = after["attempt"] - before["attempt"], after["losses"] - before["losses"]
            if step not in (0, 1) or lost not in (0, 1):
                yield f"{change.write.name} moved {_event_id(before)} to attempt {after['attempt']}"
            if step and after["status"] != Status.QUEUED:
                yield f"{change.write.name} began attempt {after['attempt']} without queueing it"
        if after["status"] != Status.REJECTED and after["attempt"] - 1 - after["losses"] > int(after["retry"]):
            yield f"{_event_id(after)} has more retries than the {after['retry']} asked for"


def fences_hold(simulation: Simulation) -> Iterator[str]:
    """A write that was decided on an old (run, attempt) changes nothing of a newer one."""
    for change in _job_changes(simulation):
        if change.before is None or change.after is None:
            continue
        for condition in change.write.conditions:
            if condition.field in ("run_id", "attempt") and not condition.holds(change.before):
                yield f"{change.write.name} of an older attempt changed {_event_id(change.before)}"


def moves_are_permitted(simulation: Simulation) -> Iterator[str]:
    """A job moves only as the table of states says, and a terminal state never changes within a run."""
    for change in _job_changes(simulation):
        before, after = change.before, change.after
        if after is None:
            continue
        source = Status(before["status"]) if before is not None else None
        target = Status(after["status"])
        new_run = before is None or _run(before) != _run(after)
        if (source is not target or new_run) and not permitted(source, target):
            yield f"{change.write.name} moved {after['job_id']!r} from {source} to {target}"
        if before is None:
            continue
        if source in TERMINAL and not new_run and _event_id(before) != _event_id(after):
            yield f"{change.write.name} changed the end {_event_id(before)} to {_event_id(after)}"
        if new_run and source not in TERMINAL:
            yield f"{change.write.name} replaced the live run {_event_id(before)}"
        if new_run and "pending" in before and change.write.name != "settle.next":
            yield f"{change.write.name} replaced {_event_id(before)} before its end was published"


def slots_and_jobs_agree(simulation: Simulation) -> Iterator[str]:
    """After every commit, a held slot and its job point at each other."""
    jobs: dict[str, Item] = {}
    slots: dict[str, Item] = {}
    history = simulation.tables.history
    for index, change in enumerate(history):
        items = jobs if change.write.table is Table.JOBS else slots
        if change.after is None:
            items.pop(change.write.key, None)
        else:
            items[change.write.key] = change.after
        if index + 1 < len(history) and history[index + 1].commit == change.commit:
            continue
        for touched in (one for one in history[max(0, index - 2) : index + 1] if one.commit == change.commit):
            yield from _disagreement(touched, jobs, slots)


def _disagreement(change: Change, jobs: dict[str, Item], slots: dict[str, Item]) -> Iterator[str]:
    item = change.after
    if item is None:
        if change.before is not None and change.before.get("state") == SlotState.HELD:
            yield f"{change.write.name} dropped a slot that held {change.before['job_id']!r}"
        return
    if change.write.table is Table.SLOTS:
        held = item["state"] == SlotState.HELD
        job = jobs.get(str(item.get("job_id")))
        if held != ("job_id" in item):
            yield f"{change.write.name} left slot {item['slot_id']} {item['state']} with job {item.get('job_id')!r}"
        if held and (job is None or not _points_at(job, item)):
            yield f"{change.write.name} left slot {item['slot_id']} holding {item['job_id']!r}, which is elsewhere"
    elif item["status"] in LIVE:
        slot = slots.get(names.slot_id(str(item.get("worker_id"))))
        if slot is None or not _points_at(item, slot):
            yield f"{change.write.name} left {_event_id(item)} live with no slot that holds it"


def _points_at(job: Item, slot: Item) -> bool:
    return (
        job["status"] in LIVE
        and slot["state"] == SlotState.HELD
        and job.get("worker_id") == slot["worker_id"]
        and all(job[field] == slot.get(field) for field in ("job_id", "run_id", "attempt"))
    )


def commands_start_once(simulation: Simulation) -> Iterator[str]:
    """The wrapped commands of one attempt start at most once; any command of an attempt is sent at most once."""
    runs = list(simulation.commands.runs.values())
    for comment, count in Counter(run.command.comment for run in runs).items():
        if count > 1:
            yield f"{count} commands were sent with the comment {comment!r}"
    wrapped = {run.attempt for run in runs if run.is_wrapped}
    for attempt, count in Counter(process.attempt for process in simulation.commands.processes).items():
        if count > 1 and attempt in wrapped:
            yield f"the commands of {attempt} started {count} times"
    for run in runs:
        if run.is_wrapped and any("{{" in text for values in run.command.parameters.values() for text in values):
            yield f"{run.command_id} carries text that Systems Manager would expand"


def success_is_proven(simulation: Simulation) -> Iterator[str]:
    """SUCCEEDED needs the service's Success, exit code 0 and the success string in the real output."""
    for event_id, item in _ends(simulation).items():
        if item["status"] != Status.SUCCEEDED:
            continue
        run = simulation.commands.runs.get(str(item.get("command_id")))
        if run is None or run.status != "Success" or run.exit_code != 0:
            yield f"{event_id} without a command that ended well"
        elif str(item["job_success_string"]).strip() and item["job_success_string"] not in run.stdout:
            yield f"{event_id} although {item['job_success_string']!r} is not in its output"
        elif run.attempt is None or (run.attempt.job_id, run.attempt.run_id, run.attempt.attempt) != (
            item["job_id"], item["run_id"], item["attempt"],
        ):  # fmt: skip
            yield f"{event_id} because of a command of {run.attempt}"


def _finished_messages(simulation: Simulation) -> Iterator[tuple[str, dict[str, Any]]]:
    for sent in simulation.queues.sent:
        if sent.queue.endswith(("-finished", "-failed")):
            yield sent.queue, json.loads(sent.body)


def ends_are_told(simulation: Simulation) -> Iterator[str]:
    """Every end has one event id, on the right queue; nothing else is told. A manifest follows success alone."""
    ends = _ends(simulation)
    for (job_id, run_id), count in Counter(_run(item) for item in ends.values()).items():
        if count > 1:
            yield f"run {run_id!r} of {job_id!r} ended in {count} ways"
    for queue, told in _finished_messages(simulation):
        item = ends.get(told["event_id"])
        if item is None:
            yield f"{queue} was told of {told['event_id']}, which never happened"
        elif queue.endswith("-finished") != (item["status"] == Status.SUCCEEDED):
            yield f"{told['event_id']} was told on {queue}"
    for detail in simulation.events.published:
        if detail["event_id"] not in ends:
            yield f"EventBridge was told of {detail['event_id']}, which never happened"
    good = {str(item["run_id"]) for item in ends.values() if item["status"] == Status.SUCCEEDED}
    for uri, body in simulation.objects.stored.items():
        if uri.endswith("_sched/SUCCEEDED.json") and body.metadata.get("sched-run-id") not in good:
            yield f"{uri} was written for a run that did not succeed"


def every_end_was_told(simulation: Simulation) -> Iterator[str]:
    """At rest, every end has been told on its queue and on EventBridge, and each good stage has its manifest."""
    told = {message["event_id"] for _, message in _finished_messages(simulation)}
    published = {detail["event_id"] for detail in simulation.events.published}
    for event_id, item in _ends(simulation).items():
        if event_id not in told:
            yield f"{event_id} is on no queue"
        if event_id not in published:
            yield f"{event_id} was not published"
        if item["status"] == Status.SUCCEEDED and "stage" in item:
            uri = f"{json.loads(item['stage'])['output']}_sched/SUCCEEDED.json"
            if uri not in simulation.objects.stored:
                yield f"{event_id} has no manifest"


def every_message_ends(simulation: Simulation) -> Iterator[str]:
    """At rest, every message was claimed, recognised as a duplicate, or is on the failed queue with its reason."""
    known: set[tuple[str, str]] = set()
    for change in _job_changes(simulation):
        if change.after is not None:
            known |= {(str(change.after["job_id"]), run_id) for run_id in change.after["run_ids"]}
    reasons = {told["run_id"]: told.get("status_reason") for _, told in _finished_messages(simulation)}
    for sent in simulation.queues.sent:
        if not sent.queue.endswith(names.JOB_QUEUE):
            continue
        try:
            understood = parse(sent.body)
        except InvalidJob:
            understood = None
        run_id = understood.run_id or sent.message_id if understood else sent.message_id
        claimed = understood is not None and (understood.spec.job_id, run_id) in known
        stray = understood is not None and (understood.spec.job_id, sent.message_id) in known
        if not claimed and not stray and not reasons.get(sent.message_id):
            yield f"message {sent.message_id} ({sent.body[:60]!r}) left no trace"


def attempts_move_on(simulation: Simulation) -> Iterator[str]:
    """Once an attempt is over, its job moves on within two sweeps."""
    began: dict[tuple[str, str, int], Change] = {}
    by_comment = {run.command.comment: run for run in simulation.commands.runs.values()}
    for change in _job_changes(simulation):
        item = change.after
        if item is None:
            continue
        key = (*_run(item), int(item["attempt"]))
        if item["status"] in LIVE:
            began.setdefault(key, change)
            continue
        old = change.before
        if old is not None and old["status"] in LIVE:
            since = _over_at(simulation, old, by_comment.get(names.comment(*_run(old), int(old["attempt"]))))
            if since is not None and _sweeps_between(simulation, since + _LAG, change.at) > _SWEEPS:
                yield f"{_event_id(old)} was over at {since}, but moved on only at {change.at}"


def _sweeps_between(simulation: Simulation, begin: datetime, end: datetime) -> int:
    """How many sweeps could have seen it: those that follow each other sooner than by the minute count once."""
    counted = [begin - _APART]
    for at in simulation.sweeps:
        if begin < at < end and at - counted[-1] >= _APART:
            counted.append(at)
    return len(counted) - 1


def _over_at(simulation: Simulation, item: Item, run: Run | None) -> datetime | None:
    """When an attempt was over: its command had ended, or its instance was terminated."""
    if run is not None and run.is_over and (run.behaviour.output_delay or (run.status, run.exit_code) == ("Failed", 0)):
        return None  # What it printed is awaited, or its answer proves nothing.
    instance = simulation.workers.instances.get(str(item.get("worker_id")))
    moments = [instance.terminated_at if instance is not None else None, run.finished_at if run is not None else None]
    return min((moment for moment in moments if moment is not None), default=None)


def workers_stay_within_bounds(simulation: Simulation) -> Iterator[str]:
    """No group ever has more workers than its maximum."""
    most = max(group.maximum for group in simulation.workers.groups.values())
    if simulation.workers.peak > most:
        yield f"a group had {simulation.workers.peak} workers; at most {most} are allowed"


def sizes_stay_within_limits(simulation: Simulation) -> Iterator[str]:
    """Nothing was refused for being larger, longer or stranger than a service takes."""
    for failure in simulation.invocations_failed:
        if ": Refused: " in failure:
            yield failure


def nothing_is_left(simulation: Simulation) -> Iterator[str]:
    """At rest: no slot, no wake, no pending effect, no protection, no worker, no execution, no message."""
    if not simulation.is_quiet():
        left = {
            "workers": [one.worker_id for one in simulation.workers.alive()],
            "executions": [(one.name, str(one.state)) for one in simulation.executions.active()],
            "slots": [dict(item) for item in simulation.tables.items(Table.SLOTS).values()],
            "messages": [
                message.body[:60]
                for queue in (*simulation.queues.job_queues(), simulation.world.dead_letters)
                for message in simulation.queues.stored(queue)
            ],
            "jobs": [(_event_id(item), item.get("pending")) for item in simulation.tables.items(Table.JOBS).values()],
        }
        yield f"not at rest at {simulation.clock.now()}: {left}"
    if any(instance.protected for instance in simulation.workers.alive()):
        yield "a worker is still protected from scale-in"


ALWAYS: tuple[Check, ...] = (
    nothing_is_lost, one_live_attempt, attempts_only_grow, fences_hold, moves_are_permitted, slots_and_jobs_agree,
    commands_start_once, success_is_proven, ends_are_told, workers_stay_within_bounds, sizes_stay_within_limits,
)  # fmt: skip
"""True at every moment."""
AT_REST: tuple[Check, ...] = (every_end_was_told, every_message_ends, attempts_move_on, nothing_is_left)
"""True as well once nothing is left to be done."""


def violations(simulation: Simulation, *, at_rest: bool = False) -> list[str]:
    """What is broken, each with the name of its invariant; empty if all is well."""
    checks = (*ALWAYS, *AT_REST) if at_rest else ALWAYS
    return [f"{check.__name__}: {found}" for check in checks for found in check(simulation)]
