"""The automations that most who run jobs want: to be told of failures, and to stop a flow run whose jobs all fail."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from prefect._internal.compatibility.async_dispatch import async_dispatch
from prefect.automations import AutomationCore, CancelFlowRun, EventTrigger, SendNotification
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound

from sched_plugins.core import names
from sched_plugins.errors import InvalidInput, NotFound
from sched_plugins.prefect.events import PREFIX

WITHIN: Final = timedelta(minutes=10)
"""Failures in this time count together."""
_JOB_SUBJECT: Final = "Job {{ event.resource.name }} ended {{ event.payload.status }}"
_JOB_BODY: Final = """\
Job {{ event.resource.name }} ended {{ event.payload.status }}: {{ event.payload.status_reason }}
Output: {{ event.payload.stdout_uri }}
{% if flow_run %}Flow run: {{ flow_run | ui_url }}{% endif %}"""
_RUN_BODY: Final = """\
Flow run {{ flow_run.name }} of {{ flow.name }} is {{ flow_run.state.name }}: {{ flow_run.state.message }}
{{ flow_run | ui_url }}"""
_POOL_BODY: Final = "Work pool {{ work_pool.name }} has no worker that is online: its flow runs wait."


async def acreate_recommended_automations(
    *, notification: str | UUID | None = None, scheduler: str = "", work_pool: str = "", cancel_after: int = 0
) -> dict[str, UUID]:
    """As :func:`create_recommended_automations`."""
    check_choice(notification, scheduler, work_pool, cancel_after)
    found: dict[str, UUID] = {}
    async with get_client() as client:
        block = notification
        if isinstance(notification, str):
            slug, name = block_name(notification)
            try:
                block = (await client.read_block_document_by_name(name, slug, include_secrets=False)).id
            except ObjectNotFound:
                raise _missing_block(notification) from None
        for wanted in recommended(block, scheduler, work_pool, cancel_after):  # type: ignore[arg-type]
            same = await client.read_automations_by_name(wanted.name)
            if same:
                await client.update_automation(same[0].id, as_before(wanted, same[0]))
            found[wanted.name] = same[0].id if same else await client.create_automation(wanted)
    return found


@async_dispatch(acreate_recommended_automations)
def create_recommended_automations(
    *, notification: str | UUID | None = None, scheduler: str = "", work_pool: str = "", cancel_after: int = 0
) -> dict[str, UUID]:
    """Create the recommended automations, or bring those of the same name up to date: calling it again changes nothing.

    - ``notification``: a message for each job that fails or is rejected; with ``work_pool`` also for each of its flow
      runs that crashes, and when the pool has no worker any more.
    - ``cancel_after``: a flow run of which so many jobs fail in ten minutes is cancelled, and its other jobs with it.

    Args:
        notification: the notification block: its id, or ``<block type's slug>/<name>`` as in ``slack-webhook/ops``.
        scheduler: only jobs of this scheduler; of all by default.
        work_pool: the work pool whose flow runs are watched too.
        cancel_after: how many failed jobs cancel their flow run; 0: none do.

    Returns:
        The automations' ids, by their names.

    Raises:
        InvalidInput: nothing is asked for, or a value cannot be.
        NotFound: there is no such notification block.
    """
    check_choice(notification, scheduler, work_pool, cancel_after)
    found: dict[str, UUID] = {}
    with get_client(sync_client=True) as client:
        block = notification
        if isinstance(notification, str):
            slug, name = block_name(notification)
            try:
                block = client.read_block_document_by_name(name, slug, include_secrets=False).id
            except ObjectNotFound:
                raise _missing_block(notification) from None
        for wanted in recommended(block, scheduler, work_pool, cancel_after):  # type: ignore[arg-type]
            same = client.read_automations_by_name(wanted.name)
            if same:
                client.update_automation(same[0].id, as_before(wanted, same[0]))
            found[wanted.name] = same[0].id if same else client.create_automation(wanted)
    return found


def recommended(
    notification: UUID | None, scheduler: str, work_pool: str, cancel_after: int
) -> Sequence[AutomationCore]:
    """The automations that a choice leads to."""
    of = f" of {scheduler}" if scheduler else ""
    jobs: dict[str, Any] = {"match": {"prefect.resource.id": f"{PREFIX}*"}}
    if scheduler:
        jobs["match"]["sched.scheduler"] = scheduler
    found: list[AutomationCore] = []
    if notification:
        found.append(
            AutomationCore(
                name=f"sched: tell of failed jobs{of}",
                description="A message for each job that ended FAILED or REJECTED.",
                trigger=EventTrigger(expect={f"{PREFIX}failed", f"{PREFIX}rejected"}, threshold=1, **jobs),
                actions=[_send(notification, _JOB_SUBJECT, _JOB_BODY)],
            )
        )
    if notification and work_pool:
        found += _of_pool(notification, work_pool)
    if cancel_after:
        found.append(
            AutomationCore(
                name=f"sched: cancel a flow run whose jobs{of} fail",
                description=f"A flow run of which {cancel_after} jobs fail in ten minutes is cancelled.",
                trigger=EventTrigger(
                    expect={f"{PREFIX}failed", f"{PREFIX}rejected"}, threshold=cancel_after, within=WITHIN,
                    for_each={"related:flow-run:prefect.resource.id"},
                    match_related={"prefect.resource.id": "prefect.flow-run.*", "prefect.resource.role": "flow-run"},
                    **jobs,
                ),
                actions=[CancelFlowRun()],
            )
        )  # fmt: skip
    return found


def _of_pool(notification: UUID, work_pool: str) -> list[AutomationCore]:
    pool = {"prefect.resource.name": work_pool, "prefect.resource.role": "work-pool"}
    return [
        AutomationCore(
            name=f"sched: tell of crashed flow runs of {work_pool}",
            description="A message for each flow run that crashed: its job was lost, timed out, or was killed.",
            trigger=EventTrigger(
                expect={"prefect.flow-run.Crashed"}, threshold=1,
                match={"prefect.resource.id": "prefect.flow-run.*"}, match_related=pool,
            ),
            actions=[_send(notification, "Flow run {{ flow_run.name }} crashed", _RUN_BODY)],
        ),
        AutomationCore(
            name=f"sched: tell of {work_pool} without a worker",
            description="A message when the work pool has no worker that is online.",
            trigger=EventTrigger(
                expect={"prefect.work-pool.not-ready"}, threshold=1,
                match={"prefect.resource.id": "prefect.work-pool.*", "prefect.resource.name": work_pool},
            ),
            actions=[_send(notification, "Work pool {{ work_pool.name }} is not ready", _POOL_BODY)],
        ),
    ]  # fmt: skip


def _send(notification: UUID, subject: str, body: str) -> SendNotification:
    return SendNotification(block_document_id=notification, subject=subject, body=body)


def as_before(wanted: AutomationCore, found: AutomationCore) -> AutomationCore:
    """An automation as it is wanted, but off if somebody has turned it off."""
    # Validated anew, since an update sends only what was set, and Prefect's API needs the defaults too.
    return AutomationCore.model_validate(wanted.model_dump(exclude={"owner_resource"}) | {"enabled": found.enabled})


def check_choice(notification: str | UUID | None, scheduler: str, work_pool: str, cancel_after: int) -> None:
    """Refuse a choice that leads to nothing, or cannot be.

    Raises:
        InvalidInput: it does not, or cannot.
    """
    if isinstance(cancel_after, bool) or not isinstance(cancel_after, int) or cancel_after < 0:
        raise InvalidInput(f"cancel_after is {cancel_after!r}; give the number of failed jobs, or 0 for none")
    if notification is None and not cancel_after:
        raise InvalidInput("no automation is asked for; give notification= a notification block, or cancel_after=")
    if work_pool and notification is None:
        raise InvalidInput(f"who is to be told of work pool {work_pool!r}? Give notification= a notification block")
    if isinstance(notification, str):
        block_name(notification)
    if scheduler:
        names.check_stack_name(scheduler)


def block_name(notification: str) -> tuple[str, str]:
    """The block type's slug and the block's name.

    Raises:
        InvalidInput: the text is not of that form.
    """
    slug, _, name = notification.partition("/")
    if not slug or not name:
        raise InvalidInput(
            f"{notification!r} names no notification block; write its type and its name, as in 'slack-webhook/ops' "
            "(`prefect block ls` shows them), or give its id"
        )
    return slug, name


def _missing_block(notification: str) -> NotFound:
    return NotFound(f"there is no block {notification!r} in Prefect; `prefect block ls` shows those that there are")
