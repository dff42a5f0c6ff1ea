"""The courier: what it makes of answers, of silence and of time, and how many calls it takes."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

import pytest
from executor_fakes import FakeScheduler
from test_executor_rules import conf

from sched_plugins.airflow.executors.courier import Courier, News, Task
from sched_plugins.airflow.executors.outcome import Outcome
from sched_plugins.airflow.executors.settings import read_settings
from sched_plugins.airflow.executors.task_options import left_over, parameter_name
from sched_plugins.client import Status
from sched_plugins.errors import Busy, InvalidJob, NotPermitted, Refused, SchedulerError, Throttled, Unknown

WAITING = None


@pytest.fixture
def scheduler() -> FakeScheduler:
    return FakeScheduler()


@pytest.fixture
def courier(scheduler: FakeScheduler) -> Courier:
    return scheduler.courier(read_settings(conf()))


def task(job_id: str, environment: str = "grid") -> Task:
    """A task; each of its workloads has a token of its own."""
    tokens = (f"{job_id} token {number}" for number in itertools.count())
    return Task(job_id, parameter_name(environment, job_id), {"job_id": job_id}, lambda: next(tokens))


def rounds(courier: Courier, scheduler: FakeScheduler, seconds: float = 1.0, number: int = 1) -> list[News]:
    news = []
    for _ in range(number):
        scheduler.now += seconds
        courier.round()
        news += courier.news()
    return news


def name(job_id: str) -> str:
    return parameter_name("grid", job_id)


def test_a_task_is_stored_submitted_and_told_of_when_it_ends(courier: Courier, scheduler: FakeScheduler) -> None:
    courier.hand_over([task("a"), task("b")])
    assert rounds(courier, scheduler) == []
    assert scheduler.workloads == {name("a"): "a token 0", name("b"): "b token 0"}
    assert scheduler.jobs["a"].run_id == "a"
    scheduler.end("a")
    scheduler.end("b", Status.FAILED, status_reason="why")
    assert {one.job_id: one.outcome.succeeded for one in rounds(courier, scheduler) if one.outcome} == {
        "a": True,
        "b": False,
    }
    assert scheduler.workloads == {}, "what an ended job left is deleted"
    assert rounds(courier, scheduler, number=3) == []


def test_calls_do_not_grow_with_the_tasks_that_run(courier: Courier, scheduler: FakeScheduler) -> None:
    courier.hand_over([task(str(number)) for number in range(200)])
    rounds(courier, scheduler)
    assert scheduler.calls["put"] == 200
    assert scheduler.calls["submit"] == 1
    scheduler.calls.clear()
    rounds(courier, scheduler, number=10)
    assert scheduler.calls == {"look": 10}


def test_looks_are_no_closer_than_configured(courier: Courier, scheduler: FakeScheduler) -> None:
    courier.hand_over([task("a")])
    rounds(courier, scheduler)
    scheduler.calls.clear()
    rounds(courier, scheduler, seconds=0.1, number=40)
    assert 3 <= scheduler.calls["look"] <= 4


@pytest.mark.parametrize("error", [Throttled("slow"), Unknown("no answer")])
def test_a_submission_without_an_answer_is_made_again(
    courier: Courier, scheduler: FakeScheduler, error: Exception
) -> None:
    courier.hand_over([task("a")])
    scheduler.refused["a"] = error  # type: ignore[assignment]
    scheduler.lost_replies = 1
    assert rounds(courier, scheduler, number=5) == []
    assert 2 <= scheduler.calls["submit"] < 5, "with pauses that grow"
    del scheduler.refused["a"]
    rounds(courier, scheduler, seconds=60)
    scheduler.end("a")
    assert [one.outcome for one in rounds(courier, scheduler)] == [Outcome(True)]


@pytest.mark.parametrize("error", [InvalidJob("bad"), Refused("no")])
def test_a_refused_submission_fails_the_task(courier: Courier, scheduler: FakeScheduler, error: Exception) -> None:
    courier.hand_over([task("a"), task("b")])
    scheduler.refused["a"] = error  # type: ignore[assignment]
    [news] = rounds(courier, scheduler)
    assert news.job_id == "a"
    assert news.outcome is not None
    assert str(error) in news.outcome.reason
    assert list(scheduler.workloads) == [name("b")]


@pytest.mark.parametrize("what", ["a", name("a")])
def test_credentials_that_are_refused_for_a_moment_fail_no_task(
    courier: Courier, scheduler: FakeScheduler, what: str
) -> None:
    courier.hand_over([task("a")])
    scheduler.refused[what] = NotPermitted("expired")
    assert rounds(courier, scheduler, number=30) == []
    del scheduler.refused[what]
    assert rounds(courier, scheduler, seconds=60) == []
    assert list(scheduler.jobs) == ["a"]


def test_a_permission_that_is_missing_fails_the_tasks_after_a_minute(
    courier: Courier, scheduler: FakeScheduler
) -> None:
    courier.hand_over([task(str(number)) for number in range(50)])
    scheduler.broken["submit"] = NotPermitted("ask for the policy")
    news = rounds(courier, scheduler, number=100)
    assert len([one for one in news if one.outcome and "policy" in one.outcome.reason]) == 50
    assert scheduler.calls["submit"] < 10, "for all of an environment at once"


def test_a_job_that_is_refused_after_a_lost_answer_is_cancelled(courier: Courier, scheduler: FakeScheduler) -> None:
    """It may be there: it would run beside Airflow's next try, and nobody would follow it."""
    courier.hand_over([task("a"), task("b")])
    scheduler.lost_replies = 1
    scheduler.refused["a"] = Unknown("no answer")
    rounds(courier, scheduler)
    assert "a" in scheduler.jobs
    scheduler.refused |= {"a": Refused("no")}
    [news] = rounds(courier, scheduler, seconds=10, number=2)
    assert news.outcome is not None
    assert (news.job_id, news.outcome.succeeded, scheduler.cancelled) == ("a", False, ["a"])


def test_a_missing_environment_fails_its_task_and_no_other(courier: Courier, scheduler: FakeScheduler) -> None:
    scheduler.missing_environments = {"typo"}
    courier.hand_over([task("a"), task("wrong", "typo"), task("b")])
    [news] = rounds(courier, scheduler)
    assert news.outcome is not None
    assert (news.job_id, news.outcome.succeeded) == ("wrong", False)
    assert "typo" in news.outcome.reason
    assert set(scheduler.jobs) == {"a", "b"}


def test_a_missing_environment_costs_one_call_however_many_tasks(courier: Courier, scheduler: FakeScheduler) -> None:
    scheduler.missing_environments = {"typo"}
    wrong = [task(f"wrong{number}", "typo") for number in range(20)]
    courier.hand_over([*wrong, *(task(f"good{number}") for number in range(180))])
    assert {one.job_id for one in rounds(courier, scheduler)} == {one.job_id for one in wrong}
    assert len(scheduler.jobs) == 180
    assert scheduler.calls["submit"] == 2, "one for each environment"


def test_a_bad_job_is_found_among_many_by_few_calls(courier: Courier, scheduler: FakeScheduler) -> None:
    scheduler.bad = {"77": InvalidJob("job '77': tags"), "78": InvalidJob("job '78': group_id")}
    courier.hand_over([task(str(number)) for number in range(200)])
    news = {one.job_id: one.outcome for one in rounds(courier, scheduler)}
    assert news.keys() == {"77", "78"}
    assert all(outcome is not None and f"job '{job_id}'" in outcome.reason for job_id, outcome in news.items())
    assert len(scheduler.jobs) == 198
    assert scheduler.calls["submit"] < 30


@pytest.mark.parametrize("error", [Throttled("slow"), Unknown("no answer"), Busy("being published")])
def test_after_a_call_without_an_answer_the_rest_of_its_environment_waits_for_a_later_round(
    courier: Courier, scheduler: FakeScheduler, error: SchedulerError
) -> None:
    scheduler.bad = {"99": InvalidJob("job '99': tags")}
    scheduler.missing_environments = {"typo"}
    scheduler.refused = {str(number): error for number in range(100)}
    courier.hand_over([*(task(str(number)) for number in range(100)), task("wrong", "typo"), task("other", "mine")])
    [news] = rounds(courier, scheduler)
    assert (news.job_id, list(scheduler.jobs)) == ("wrong", ["other"]), "other environments are not affected"
    assert scheduler.calls["submit"] == 4, "all of the environment, its first half, and the two other environments"
    scheduler.refused = {}
    [news] = rounds(courier, scheduler, seconds=2)
    assert news.job_id == "99"
    assert len(scheduler.jobs) == 100, "each of those that waited, and the other environment's"


def test_one_job_without_an_answer_holds_up_no_other(courier: Courier, scheduler: FakeScheduler) -> None:
    scheduler.bad = {"9": InvalidJob("job '9': tags")}
    scheduler.refused = {"0": Unknown("its record cannot be read")}
    courier.hand_over([task(str(number)) for number in range(10)])
    rounds(courier, scheduler)
    assert sorted(scheduler.jobs) == [str(number) for number in range(1, 9)]


def test_what_cannot_be_stored_is_not_submitted(courier: Courier, scheduler: FakeScheduler) -> None:
    courier.hand_over([task("a"), task("b"), task("c")])
    scheduler.refused |= {name("a"): Refused("no key"), name("b"): Throttled("slow")}
    [news] = rounds(courier, scheduler)
    assert (news.job_id, list(scheduler.jobs)) == ("a", ["c"])
    del scheduler.refused[name("b")]
    rounds(courier, scheduler, seconds=5)
    assert sorted(scheduler.jobs) == ["b", "c"]


def test_a_lost_job_is_a_failure(courier: Courier, scheduler: FakeScheduler) -> None:
    courier.hand_over([task("a")])
    rounds(courier, scheduler)
    del scheduler.jobs["a"]
    [news] = rounds(courier, scheduler)
    assert news.outcome is not None
    assert not news.outcome.succeeded


def test_a_look_without_an_answer_says_nothing(courier: Courier, scheduler: FakeScheduler) -> None:
    courier.hand_over([task("a")])
    rounds(courier, scheduler)
    scheduler.end("a")
    scheduler.broken["look"] = Unknown("no answer")
    assert rounds(courier, scheduler, number=3) == []
    del scheduler.broken["look"]
    assert [one.outcome for one in rounds(courier, scheduler)] == [Outcome(True)]


def test_a_task_that_waits_is_told_of_and_its_token_renewed(courier: Courier, scheduler: FakeScheduler) -> None:
    courier.hand_over([task("a"), task("b")])
    rounds(courier, scheduler)
    scheduler.end("b", Status.RUNNING)
    # Airflow is patient for 600 s, and so long does a token live.
    assert rounds(courier, scheduler, seconds=290) == []
    assert rounds(courier, scheduler, seconds=20) == [News("a", WAITING)]
    assert scheduler.workloads == {name("a"): "a token 1", name("b"): "b token 0"}
    scheduler.calls.clear()
    assert rounds(courier, scheduler, seconds=300, number=3) == [News("a", WAITING)] * 3
    assert scheduler.calls == {"look": 3, "get": 3, "put": 3}


def test_a_long_lived_token_is_renewed_more_rarely(scheduler: FakeScheduler) -> None:
    courier = scheduler.courier(read_settings(conf(token_lifetime="3600")))
    courier.hand_over([task("a")])
    rounds(courier, scheduler)
    assert rounds(courier, scheduler, seconds=310, number=5) == [News("a", WAITING)] * 5
    assert scheduler.calls["put"] == 1
    rounds(courier, scheduler, seconds=310)
    assert scheduler.workloads == {name("a"): "a token 1"}


def test_a_second_attempt_gets_no_workload(courier: Courier, scheduler: FakeScheduler) -> None:
    """The first attempt may have started the task; a token now would let it run beside itself."""
    courier.hand_over([task("a")])
    rounds(courier, scheduler)
    scheduler.end("a", Status.QUEUED, attempt=2)
    assert rounds(courier, scheduler, seconds=310, number=3) == []
    assert scheduler.calls["put"] == 1


def test_a_revoked_task_is_cancelled_and_forgotten(courier: Courier, scheduler: FakeScheduler) -> None:
    courier.hand_over([task("a")])
    rounds(courier, scheduler)
    courier.revoke("a")
    courier.revoke("never seen")
    scheduler.end("a", Status.CANCELLED)
    assert rounds(courier, scheduler, number=2) == []
    assert sorted(scheduler.cancelled) == ["a", "never seen"]
    assert scheduler.workloads == {}


def test_a_task_revoked_before_it_was_submitted_is_not_submitted(courier: Courier, scheduler: FakeScheduler) -> None:
    courier.hand_over([task("a")])
    courier.revoke("a")
    rounds(courier, scheduler, number=2)
    assert scheduler.jobs == {}


def test_an_unanswered_cancellation_is_made_again(courier: Courier, scheduler: FakeScheduler) -> None:
    courier.hand_over([task("a")])
    rounds(courier, scheduler)
    scheduler.broken["cancel"] = Unknown("no answer")
    courier.revoke("a")
    rounds(courier, scheduler)
    assert scheduler.cancelled == []
    del scheduler.broken["cancel"]
    rounds(courier, scheduler, number=2)
    assert scheduler.cancelled == ["a"]


def test_leftovers_are_deleted_though_one_call_fails(courier: Courier, scheduler: FakeScheduler) -> None:
    courier.hand_over([task("a")])
    rounds(courier, scheduler)
    scheduler.end("a")
    scheduler.broken["delete"] = Throttled("slow")
    rounds(courier, scheduler)
    assert scheduler.workloads
    del scheduler.broken["delete"]
    rounds(courier, scheduler)
    assert not scheduler.workloads


def test_workloads_of_the_dead_are_found(courier: Courier, scheduler: FakeScheduler) -> None:
    old = datetime.now(UTC) - timedelta(hours=2)
    scheduler.workloads |= {name("gone"): "token", name("ended"): "token", name("live"): "token", name("new"): "token"}
    scheduler.written = {**dict.fromkeys(scheduler.workloads, old), name("new"): datetime.now(UTC)}
    for job_id in ("ended", "live"):
        scheduler.submit_many([{"job_id": job_id}], run_ids=[job_id])
    scheduler.end("ended")
    rounds(courier, scheduler)
    assert sorted(scheduler.workloads) == [name("live"), name("new")]
    scheduler.calls.clear()
    rounds(courier, scheduler, number=5)
    assert scheduler.calls["list"] == 0, "once an hour"


def test_adopted_tasks_are_followed_and_not_submitted(courier: Courier, scheduler: FakeScheduler) -> None:
    scheduler.submit_many([{"job_id": "a"}], run_ids=["a"])
    adopted = task("a")
    adopted.fields = {}
    courier.adopt([adopted])
    assert rounds(courier, scheduler, seconds=310, number=2)[-1] == News("a", WAITING)
    assert scheduler.calls["submit"] == 1
    scheduler.end("a")
    assert [one.outcome for one in rounds(courier, scheduler)] == [Outcome(True)]


def test_its_thread_goes_on_after_a_round_that_failed(courier: Courier, scheduler: FakeScheduler) -> None:
    scheduler.broken["submit"] = RuntimeError("a defect")  # type: ignore[assignment]
    courier.start()
    courier.hand_over([task("a")])
    courier.ask()
    while not scheduler.calls["submit"]:
        pass
    del scheduler.broken["submit"]
    courier.stop(10)
    assert "a" in scheduler.jobs, "what was handed over is submitted before it ends"
    assert scheduler.calls["close"] == 1


def test_left_over_are_those_whose_jobs_are_not_live() -> None:
    assert left_over([name("a"), name("b")], {"a"}) == [name("b")]


def test_a_short_lived_token_is_renewed_before_it_ends(scheduler: FakeScheduler) -> None:
    courier = scheduler.courier(read_settings(conf(token_lifetime="120")))
    courier.hand_over([task("a")])
    told = rounds(courier, scheduler)
    for number in range(1, 10):
        told += rounds(courier, scheduler, seconds=60)
        assert scheduler.workloads == {name("a"): f"a token {number}"}
    assert told == [News("a", WAITING)], "Airflow hears of it only when half of its own patience is over"


def test_a_renewal_that_fails_is_tried_again_soon(scheduler: FakeScheduler) -> None:
    courier = scheduler.courier(read_settings(conf()))
    courier.hand_over([task("a")])
    rounds(courier, scheduler)
    scheduler.refused[name("a")] = Throttled("slow")
    rounds(courier, scheduler, seconds=300)
    scheduler.calls.clear()
    rounds(courier, scheduler, seconds=1, number=60)
    assert 3 <= scheduler.calls["put"] <= 8, "with pauses that grow"
    del scheduler.refused[name("a")]
    rounds(courier, scheduler, seconds=30)
    assert scheduler.workloads[name("a")] != "a token 0"


def test_many_renewals_hold_up_no_other_task(courier: Courier, scheduler: FakeScheduler) -> None:
    """Parameter Store takes three writes a second by default, so that a thousand would take minutes of one round."""
    courier.hand_over([task(str(number)) for number in range(500)])
    rounds(courier, scheduler, number=3)
    scheduler.calls.clear()
    rounds(courier, scheduler, seconds=300)
    assert scheduler.calls["put"] <= 200
    rounds(courier, scheduler, number=2)
    assert scheduler.calls["put"] == 500, "each of them once"
    assert all(text.endswith("token 1") for text in scheduler.workloads.values())


def test_a_workload_that_cannot_be_made_keeps_nobody_from_hearing_of_ends(
    courier: Courier, scheduler: FakeScheduler
) -> None:
    courier.hand_over([task("a")])
    rounds(courier, scheduler)

    def unmade() -> str:
        raise OSError("the key cannot be read")

    courier.hand_over([Task("b", name("b"), {"job_id": "b"}, unmade)])
    scheduler.end("a")
    assert [one.job_id for one in rounds(courier, scheduler)] == ["a"]
