"""What every backend's queues, objects, executions and events must do."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from itertools import count

import pytest
from backends import NAME, Backend

from sched_plugins.core import limits, names, worker
from sched_plugins.core.slot import Slot, Wake
from sched_plugins.core.state import Verdict
from sched_plugins.errors import QueueNotFound, Refused

NEW = count(1)


def send(backend: Backend, *bodies: str) -> None:
    """Send, and expect that to succeed."""
    assert list(backend.world.queues.send(backend.queue, bodies)) == [None] * len(bodies)


def test_an_empty_queue_gives_nothing(backend: Backend) -> None:
    assert backend.world.queues.receive(backend.queue) == []
    assert backend.world.queues.waiting(backend.queue) == 0


def test_what_was_sent_is_received_and_then_hidden(backend: Backend) -> None:
    send(backend, "é {}")
    assert backend.world.queues.waiting(backend.queue) == 1
    [received] = backend.world.queues.receive(backend.queue)
    assert (received.body, received.source) == ("é {}", "")
    assert received.message_id
    assert backend.world.queues.receive(backend.queue) == []


def test_a_deleted_message_is_gone(backend: Backend) -> None:
    send(backend, "body")
    [received] = backend.world.queues.receive(backend.queue)
    backend.world.queues.delete(backend.queue, received.receipt)
    assert backend.world.queues.receive(backend.queue) == []


def test_a_released_message_comes_again_with_its_id(backend: Backend) -> None:
    send(backend, "body")
    [first] = backend.world.queues.receive(backend.queue)
    backend.world.queues.release(backend.queue, first.receipt)
    [second] = backend.world.queues.receive(backend.queue)
    assert second.message_id == first.message_id


def test_a_message_released_for_later_does_not_come_yet(backend: Backend) -> None:
    send(backend, "body")
    [first] = backend.world.queues.receive(backend.queue)
    backend.world.queues.release(backend.queue, first.receipt, 600)
    assert backend.world.queues.receive(backend.queue) == []


def test_many_are_sent_in_batches_and_received_as_asked(backend: Backend) -> None:
    send(backend, *(str(number) for number in range(25)))
    received = [one for _ in range(6) for one in backend.world.queues.receive(backend.queue, 0, 10)]
    assert {one.body for one in received} == {str(number) for number in range(25)}


def test_a_body_that_is_too_large_is_refused_alone(backend: Backend) -> None:
    first, second = backend.world.queues.send(backend.queue, ["x" * (limits.MAX_MESSAGE_BYTES + 1), "body"])
    assert isinstance(first, Refused)
    assert second is None


def test_a_queue_that_is_not_there_is_named(backend: Backend) -> None:
    with pytest.raises(QueueNotFound, match="nobody-job-queue"):
        backend.world.queues.waiting("nobody-job-queue")


def test_siblings_are_the_queues_own_or_the_schedulers(backend: Backend) -> None:
    own = names.job_queue(NAME)
    trio = names.finished_queue(own), names.failed_queue(own)
    assert tuple(map(names.queue_name, backend.world.queues.siblings(own))) == trio
    assert tuple(map(names.queue_name, backend.world.queues.siblings(backend.queue))) == trio


def uri(backend: Backend, key: str = "a b/é.txt") -> str:
    """An address of the test's own."""
    return f"s3://{backend.bucket}/{next(NEW)}/{key}"


def test_an_object_that_is_not_there_is_none(backend: Backend) -> None:
    nowhere = uri(backend)
    objects = backend.world.objects
    assert (objects.contains(nowhere, "x"), objects.tail(nowhere, 5), objects.metadata(nowhere)) == (None, None, None)


def test_an_object_is_searched_and_its_end_is_read(backend: Backend) -> None:
    somewhere = uri(backend)
    backend.world.objects.put(somewhere, ("." * 30_000 + "well é").encode(), {})
    assert backend.world.objects.contains(somewhere, "well é") is True
    assert backend.world.objects.contains(somewhere, "bad") is False
    assert backend.world.objects.tail(somewhere, 7) == "well é"
    assert len(backend.world.objects.tail(somewhere, 10**6) or "") == 30_006


def test_an_object_keeps_its_metadata(backend: Backend) -> None:
    somewhere = uri(backend)
    backend.world.objects.put(somewhere, b"one", {"sched-run-id": "run-1"})
    first = backend.world.objects.metadata(somewhere)
    assert first is not None
    assert first["sched-run-id"] == "run-1"
    backend.world.objects.put(somewhere, b"two", {})
    second = backend.world.objects.metadata(somewhere)
    assert second is not None
    assert "sched-run-id" not in second
    assert second["etag"] != first["etag"]


def test_a_folder_is_listed_by_relative_keys(backend: Backend) -> None:
    folder = uri(backend, "case x/")
    for key in ("b", "a/é", "c d"):
        backend.world.objects.put(folder + key, key.encode(), {})
    listed = backend.world.objects.listing(folder, 10)
    assert {(one.key, one.size) for one in listed} == {("b", 1), ("a/é", 4), ("c d", 3)}
    assert all(one.etag for one in listed)
    assert len(backend.world.objects.listing(folder, 2)) == 2
    assert backend.world.objects.listing(folder + "nothing/", 2) == []


def test_a_rejected_body_is_kept_whole(backend: Backend) -> None:
    body = "é" * 40_000
    address = backend.world.objects.store_rejected(f"message-{next(NEW)}", body)
    assert backend.world.objects.tail(address, 10**6) == body


def new_slot() -> Slot:
    """The slot of a new worker."""
    return worker.new_slot(f"i-{next(NEW):017x}", NAME, datetime(2026, 1, 5, tzinfo=UTC))[0]


def test_an_execution_starts_once_and_is_listed(backend: Backend) -> None:
    slot = new_slot()
    for _ in range(3):
        backend.world.executions.start(slot)
    backend.wait(10)
    assert names.execution(slot.slot_id, 1) in backend.world.executions.running()


def test_a_token_is_completed_once(backend: Backend) -> None:
    slot = new_slot()
    wake = Wake(backend.token(slot), Verdict.STOP)
    assert backend.world.executions.wake(wake) is True
    for _ in range(100):
        backend.wait(10)
        if names.execution(slot.slot_id, 1) not in backend.world.executions.running():
            break
    else:
        raise AssertionError("the execution went on")
    assert backend.world.executions.wake(wake) is False


def test_a_token_that_nobody_waits_for_is_dead(backend: Backend) -> None:
    assert backend.world.executions.wake(Wake("no-such-token", Verdict.NEXT)) is False


def test_events_are_published_in_batches(backend: Backend) -> None:
    details = [{"event_id": f"event-{number}", "text": "é\uffff"} for number in range(25)]
    assert list(backend.world.events.publish(details)) == [None] * 25


def test_an_event_that_is_too_large_is_refused_alone(backend: Backend) -> None:
    large = {"event_id": "large", "text": "x" * limits.MAX_EVENT_BYTES}
    first, second = backend.world.events.publish([large, {"event_id": "small"}])
    assert isinstance(first, Refused)
    assert second is None
    assert len(json.dumps(large)) > limits.MAX_EVENT_BYTES
