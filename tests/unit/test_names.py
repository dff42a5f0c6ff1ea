"""Names that several parts derive in the same way."""

from __future__ import annotations

import pytest

from sched_plugins.core import limits, names
from sched_plugins.errors import InvalidSettings


@pytest.mark.parametrize("name", ["sim", "my-sched-1", "a" * 31])
def test_good_stack_names_are_taken_as_they_are(name: str) -> None:
    assert names.check_stack_name(name) == name


@pytest.mark.parametrize("name", ["", "ab", "a" * 32, "Sim", "1sim", "sim-", "si--m", "si_m", "sim\n", "ümlaut"])
def test_other_stack_names_are_refused_with_their_value(name: str) -> None:
    with pytest.raises(InvalidSettings, match="cannot be a stack name"):
        names.check_stack_name(name)


def test_the_longest_stack_name_fits_into_a_bucket_name() -> None:
    assert len(names.bucket("a" * 31, "123456789012")) <= 63


@pytest.mark.parametrize(
    "queue",
    ["demo-job-queue", "arn:aws:sqs:eu-west-1:123456789012:demo-job-queue", "https://sqs.eu-west-1/1/demo-job-queue"],
)
def test_a_queue_has_the_same_name_however_it_is_given(queue: str) -> None:
    assert names.queue_name(queue) == "demo-job-queue"


def test_a_trio_shares_its_beginning() -> None:
    queue = names.job_queue("demo")
    assert (queue, names.finished_queue(queue), names.failed_queue(queue)) == (
        "demo-job-queue", "demo-job-queue-finished", "demo-job-queue-failed",
    )  # fmt: skip


def test_tickets_grow_by_execution_then_round_then_retry() -> None:
    moments = [(1, 0, 0), (1, 0, 1), (1, 2, 0), (1, 10, 0), (2, 0, 0), (10, 0, 0)]
    tickets = [names.ticket(*moment) for moment in moments]
    assert tickets == sorted(set(tickets))


def test_an_execution_name_within_the_limit_is_refused_beyond_it() -> None:
    assert names.execution("i-0123456789abcdef0-0", 7) == "i-0123456789abcdef0-0-7"
    with pytest.raises(InvalidSettings, match="longer than 80"):
        names.execution("i" * limits.MAX_EXECUTION_NAME, 1)


def test_a_comment_tells_attempts_apart_and_fits() -> None:
    told = {
        names.comment("a", "b", 1),
        names.comment("a", "b", 2),
        names.comment("a", "c", 1),
        names.comment("b", "b", 1),
    }
    assert len(told) == 4
    assert max(map(len, told)) <= limits.MAX_COMMENT_CHARACTERS


def test_a_comment_does_not_confuse_neighbouring_fields() -> None:
    assert names.comment("a", "bc", 1) != names.comment("ab", "c", 1)


@pytest.mark.parametrize(
    ("text", "maximum", "clipped"), [("abc", 5, "abc"), ("abc", 2, "ab"), ("aé", 2, "a"), ("", 0, "")]
)
def test_clip_cuts_bytes_at_a_character(text: str, maximum: int, clipped: str) -> None:
    assert names.clip(text, maximum) == clipped


@pytest.mark.parametrize(("text", "maximum", "end"), [("abc", 5, "abc"), ("abc", 2, "bc"), ("éa", 2, "a")])
def test_tail_keeps_whole_characters(text: str, maximum: int, end: str) -> None:
    assert names.tail(text, maximum) == end


def test_shards_are_stable_and_all_used() -> None:
    assert names.shard("job") == names.shard("job")
    assert {names.shard(f"job-{number}") for number in range(200)} == set(range(limits.INDEX_SHARDS))
