"""Accept submissions. One conditional write each; the outbox does the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sched_plugins.core import submission
from sched_plugins.core.submission import Decision, Outcome, Submission
from sched_plugins.ports import ConditionFailed, Unreadable, World

_ROUNDS = 5
"""How often a submission is decided anew because the record changed under it; each loser has met a winner."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one submission of a batch."""

    decision: Decision | None
    error: Exception | None = None


def submit(world: World, submissions: Sequence[Submission]) -> Sequence[Answer]:
    """Submit jobs, in one read and one round of writes unless records change meanwhile.

    Repeating it with the same run ids changes nothing, so a caller whose reply was lost repeats it. Of two
    submissions of one job in the same batch the later is decided after the earlier was written.
    """
    answers: dict[int, Answer] = {}
    open_ = list(range(len(submissions)))
    repeats = len(submissions) - len({one.spec.job_id for one in submissions})
    for _ in range(_ROUNDS + repeats):
        if not open_:
            break
        now_: list[int] = []
        seen: set[str] = set()
        for index in open_:
            if submissions[index].spec.job_id not in seen:
                seen.add(submissions[index].spec.job_id)
                now_.append(index)
        answers |= _round(world, {index: submissions[index] for index in now_})
        open_ = [i for i in open_ if i not in answers or isinstance(answers[i].error, ConditionFailed)]
    missing = Answer(Decision(Outcome.BUSY, None, reason="the job's record kept changing; try again"))
    return [
        missing if index not in answers or isinstance(answers[index].error, ConditionFailed) else answers[index]
        for index in range(len(submissions))
    ]


def _round(world: World, batch: dict[int, Submission]) -> dict[int, Answer]:
    now = world.clock.now()
    records = world.tables.jobs([one.spec.job_id for one in batch.values()])
    answers: dict[int, Answer] = {}
    decisions: dict[int, Decision] = {}
    for index, one in batch.items():
        record = records.get(one.spec.job_id)
        if isinstance(record, Unreadable):
            answers[index] = Answer(None, record)
        else:
            decisions[index] = submission.decide(one, record, now)
    writing = [(index, decision) for index, decision in decisions.items() if decision.write is not None]
    outcomes = world.tables.write_each([decision.write for _, decision in writing if decision.write])
    answers |= {index: Answer(decision) for index, decision in decisions.items()}
    for (index, _), error in zip(writing, outcomes, strict=True):
        if error is not None:
            answers[index] = replace(answers[index], error=error)
    return answers
