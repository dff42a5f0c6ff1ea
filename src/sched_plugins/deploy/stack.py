"""One CloudFormation stack: what it is, what would change, and its events while it changes."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sched_plugins.deploy.account import Account, translated
from sched_plugins.errors import DeployError

#: How long one stack operation is followed, in seconds; AWS goes on with it afterwards.
OPERATION_SECONDS = 3600.0
#: Pause between two looks at a stack: a tenth of the time since the start, within these bounds, in seconds.
#: A laptop's stack takes seconds, one on AWS minutes, and DescribeStackEvents is throttled at a few a second.
_SHORTEST, _LONGEST, _SHARE = 0.1, 5.0, 0.1
_SERVICE = "cloudformation"
_CAPABILITIES = ["CAPABILITY_IAM", "CAPABILITY_NAMED_IAM", "CAPABILITY_AUTO_EXPAND"]
_NO_CHANGES = ("didn't contain changes", "No updates are to be performed")
#: What CloudFormation says of a resource that it stopped because another one failed.
_CANCELLED = ("Resource creation cancelled", "Resource update cancelled", "Resource deletion cancelled")
#: Statuses that another one follows: a failed operation is always rolled back.
_PASSING = ("_IN_PROGRESS", "CREATE_FAILED", "UPDATE_FAILED")
_STACK = "AWS::CloudFormation::Stack"


@dataclass(frozen=True)
class StackEvent:
    """One step of one resource: what CloudFormation reports while it works on a stack.

    ``resource`` is the name in the template; ``reason`` is AWS's text, mostly empty unless something failed.
    """

    stack: str
    resource: str
    type: str
    status: str
    reason: str
    physical_id: str
    at: datetime

    @property
    def is_stack(self) -> bool:
        """Whether the event is the stack's own and not a resource's."""
        return self.type == _STACK and self.resource == self.stack

    @property
    def failed(self) -> bool:
        """Whether the step failed."""
        return self.status.endswith("_FAILED")


@dataclass(frozen=True)
class Change:
    """What a deployment would do to one resource.

    ``action`` is ``Add``, ``Modify`` or ``Remove``; ``replacement`` is ``True``, ``False``, ``Conditional`` or
    empty; ``details`` names the properties that change.
    """

    action: str
    resource: str
    type: str
    replacement: str = ""
    details: tuple[str, ...] = ()


@dataclass(frozen=True)
class StackState:
    """A stack as CloudFormation describes it."""

    name: str
    stack_id: str
    status: str
    reason: str
    outputs: Mapping[str, str]
    parameters: Mapping[str, str]
    tags: Mapping[str, str]

    @classmethod
    def of(cls, described: Mapping[str, Any]) -> StackState:
        """From one entry of DescribeStacks."""
        return cls(
            name=described["StackName"],
            stack_id=described["StackId"],
            status=described["StackStatus"],
            reason=described.get("StackStatusReason", ""),
            outputs={o["OutputKey"]: o["OutputValue"] for o in described.get("Outputs", [])},
            parameters={p["ParameterKey"]: p.get("ParameterValue", "") for p in described.get("Parameters", [])},
            tags={t["Key"]: t["Value"] for t in described.get("Tags", [])},
        )

    @property
    def busy(self) -> bool:
        """Whether an operation is under way."""
        return self.status.endswith("_IN_PROGRESS") and self.status != "REVIEW_IN_PROGRESS"

    @property
    def unborn(self) -> bool:
        """Whether the stack is only the shell of a plan that was never carried out."""
        return self.status == "REVIEW_IN_PROGRESS"


@dataclass(frozen=True)
class ChangeSet:
    """A plan that CloudFormation has made and can carry out.

    ``leaves_shell`` is true where making the plan made an empty stack, which goes with it when it is discarded.
    """

    arn: str
    stack_id: str
    leaves_shell: bool
    changes: tuple[Change, ...]


EventCallback = Callable[[StackEvent], None]


class Stack:
    """Operations on the stack of one name; each call to AWS goes through here.

    ``sleep`` and ``clock`` are replaced in tests.
    """

    def __init__(
        self,
        account: Account,
        name: str,
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._account = account
        self.name = name
        self._sleep = sleep
        self._clock = clock

    def state(self, stack_id: str | None = None) -> StackState | None:
        """The stack as it is now; None if there is none of that name (or id)."""
        from botocore.exceptions import ClientError

        with translated(f"looking for the stack {self.name!r}"):
            try:
                found = self._client.describe_stacks(StackName=stack_id or self.name)["Stacks"]
            except ClientError as error:
                if "does not exist" in error.response["Error"].get("Message", ""):
                    return None
                raise
        return StackState.of(found[0]) if found else None

    def plan(
        self,
        template: Mapping[str, str],
        parameters: Sequence[Mapping[str, Any]],
        tags: Mapping[str, str],
        state: StackState | None,
    ) -> ChangeSet | None:
        """Have CloudFormation work out the changes to the stack as it is in ``state``; None if there are none.

        ``template`` is ``{"TemplateBody": …}`` or ``{"TemplateURL": …}``.

        Raises:
            DeployError: CloudFormation refuses the template or the parameters.
        """
        with translated(f"planning the stack {self.name!r}"):
            made = self._client.create_change_set(
                StackName=self.name,
                ChangeSetName=f"sched-{uuid.uuid4()}",
                ChangeSetType="CREATE" if state is None or state.unborn else "UPDATE",
                Capabilities=_CAPABILITIES,
                Parameters=list(parameters),
                Tags=[{"Key": key, "Value": value} for key, value in tags.items()],
                **template,
            )
            described = self._planned(made["Id"])
        plan = ChangeSet(made["Id"], made["StackId"], state is None, tuple(_changes(described)))
        if described["Status"] != "FAILED":
            return plan
        reason = described.get("StatusReason", "no reason given")
        if any(text in reason for text in _NO_CHANGES):
            self.discard(plan)
            return None
        reason = "; ".join([reason, *self._validation_errors(ChangeSetName=made["Id"])])
        self.discard(plan)
        raise DeployError(
            f"stack {self.name!r}: CloudFormation refuses the template or its parameters: {reason}. "
            "Nothing was changed."
        )

    def execute(self, plan: ChangeSet, on_event: EventCallback | None = None) -> StackState:
        """Carry a plan out, and follow it to its end.

        Raises:
            DeployError: the operation failed; the message names the first resource that did, and AWS's reason.
        """
        with translated(f"changing the stack {self.name!r}"):
            seen = self._event_ids(plan.stack_id)
            self._client.execute_change_set(ChangeSetName=plan.arn)
        status, events = self._until_done(plan.stack_id, seen, on_event)
        if status not in ("CREATE_COMPLETE", "UPDATE_COMPLETE"):
            raise DeployError(self._failure(status, plan.stack_id, events))
        state = self.state(plan.stack_id)
        if state is None:
            raise DeployError(f"stack {self.name!r} was deleted by someone else just now. Deploy it again.")
        return state

    def discard(self, plan: ChangeSet) -> None:
        """Forget a plan, and the empty stack that a plan for a new one leaves behind."""
        with translated(f"discarding a plan of the stack {self.name!r}"):
            self._client.delete_change_set(ChangeSetName=plan.arn, StackName=plan.stack_id)
            if plan.leaves_shell:
                state = self.state(plan.stack_id)
                if state and state.unborn:
                    self._client.delete_stack(StackName=plan.stack_id)

    def delete(self, state: StackState, on_event: EventCallback | None = None) -> list[StackEvent]:
        """Delete the stack, and follow it to its end; returns the events.

        Raises:
            DeployError: something could not be deleted; the message names it and AWS's reason.
        """
        with translated(f"deleting the stack {self.name!r}"):
            seen = self._event_ids(state.stack_id)
            self._client.delete_stack(StackName=state.stack_id)
        status, events = self._until_done(state.stack_id, seen, on_event)
        if status != "DELETE_COMPLETE":
            raise DeployError(self._failure(status, state.stack_id, events))
        return events

    def settled(self) -> StackState | None:
        """The stack once no operation is under way: one that someone else has started is waited for.

        Raises:
            DeployError: it is still under way after ``OPERATION_SECONDS``.
        """
        for _ in self._looks():
            state = self.state()
            if state is None or not state.busy:
                return state
        raise DeployError(self._still_busy())

    def resources(self, state: StackState) -> Iterator[tuple[str, str]]:
        """Type and physical id of each resource that exists."""
        with translated(f"listing the resources of the stack {self.name!r}"):
            pages = self._client.get_paginator("list_stack_resources").paginate(StackName=state.stack_id)
            for page in pages:
                for resource in page["StackResourceSummaries"]:
                    if resource.get("PhysicalResourceId") and resource["ResourceStatus"] != "DELETE_COMPLETE":
                        yield resource["ResourceType"], resource["PhysicalResourceId"]

    @property
    def _client(self) -> Any:
        return self._account.client(_SERVICE)

    def _planned(self, arn: str) -> dict[str, Any]:
        """The change set once CloudFormation has finished making it, all pages of changes in one."""
        for _ in self._looks():
            described: dict[str, Any] = self._client.describe_change_set(ChangeSetName=arn)
            if described["Status"] in ("CREATE_COMPLETE", "FAILED"):
                break
        else:
            raise DeployError(f"stack {self.name!r}: CloudFormation did not finish its plan. Try again.")
        token = described.get("NextToken")
        while token:
            page = self._client.describe_change_set(ChangeSetName=arn, NextToken=token)
            described["Changes"] += page["Changes"]
            token = page.get("NextToken")
        return described

    def _failure(self, status: str, stack_id: str, events: Sequence[StackEvent]) -> str:
        """What failed first, in AWS's words, how the stack is now, and what to do."""
        failed = [event for event in events if event.failed and not event.reason.startswith(_CANCELLED)]
        first = next((event for event in failed if not event.is_stack), None)
        if first:
            what = f"{first.resource} ({first.type}): {first.reason or first.status}"
        else:
            own = [event.reason for event in (*failed, *events) if event.is_stack and event.reason]
            since = min((event.at for event in events), default=None)
            found = self._validation_errors(since, StackName=stack_id)
            what = "; ".join(found or own[:1]) or "no reason given"
        return f"stack {self.name!r} is {status}: {what.rstrip('. ')}. {_next_step(self.name, status)}"

    def _validation_errors(self, since: datetime | None = None, **of: str) -> list[str]:
        """What CloudFormation's validation found wrong before it touched any resource."""
        from botocore.exceptions import ClientError

        try:
            events = self._client.describe_events(**of, Filters={"FailedEvents": True})["OperationEvents"]
        except ClientError:  # a detail: what is known without it is still true
            return []
        return [
            f"{event.get('LogicalResourceId')} ({event.get('ResourceType')}): {event['ValidationStatusReason']}"
            for event in events
            if event.get("ValidationStatusReason") and (since is None or event["Timestamp"] >= since)
        ]

    def _until_done(
        self, stack_id: str, seen: set[str], on_event: EventCallback | None
    ) -> tuple[str, list[StackEvent]]:
        """Follow the events until the stack's own says that the operation has ended; its status, and all events.

        Events in ``seen`` belong to earlier operations.
        """
        events: list[StackEvent] = []
        with translated(f"following the stack {self.name!r}"):
            for _ in self._looks():
                for event in self._new_events(stack_id, seen):
                    events.append(event)
                    if on_event:
                        on_event(event)
                last = next((event for event in reversed(events) if event.is_stack), None)
                if last and not last.status.endswith(_PASSING):
                    return last.status, events
        raise DeployError(self._still_busy())

    def _still_busy(self) -> str:
        return (
            f"stack {self.name!r} was not done after {OPERATION_SECONDS / 60:.0f} minutes; AWS goes on with it. "
            "Run the same command again later."
        )

    def _new_events(self, stack_id: str, seen: set[str]) -> list[StackEvent]:
        """Events not seen before, the oldest first; they are seen now."""
        fresh: list[StackEvent] = []
        for page in self._client.get_paginator("describe_stack_events").paginate(StackName=stack_id):
            for raw in page["StackEvents"]:
                if raw["EventId"] in seen:
                    return fresh[::-1]
                seen.add(raw["EventId"])
                fresh.append(_event(raw))
        return fresh[::-1]

    def _event_ids(self, stack_id: str) -> set[str]:
        """The newest event's id, which ends the reading of pages, or nothing for a stack without events."""
        newest = self._client.describe_stack_events(StackName=stack_id)["StackEvents"][:1]
        return {raw["EventId"] for raw in newest}

    def _looks(self) -> Iterator[None]:
        return looks(self._sleep, self._clock)


def looks(sleep: Callable[[float], None] = time.sleep, clock: Callable[[], float] = time.monotonic) -> Iterator[None]:
    """Turns to look at something, with pauses that grow, until ``OPERATION_SECONDS`` are over."""
    start = clock()
    while (elapsed := clock() - start) < OPERATION_SECONDS:
        yield
        sleep(min(max(elapsed * _SHARE, _SHORTEST), _LONGEST))


def _event(raw: Mapping[str, Any]) -> StackEvent:
    return StackEvent(
        stack=raw["StackName"],
        resource=raw["LogicalResourceId"],
        type=raw.get("ResourceType", ""),
        status=raw.get("ResourceStatus", ""),
        reason=raw.get("ResourceStatusReason", ""),
        physical_id=raw.get("PhysicalResourceId", ""),
        at=raw["Timestamp"],
    )


def _changes(described: Mapping[str, Any]) -> Iterator[Change]:
    for entry in described.get("Changes", []):
        change = entry["ResourceChange"]
        targets = [detail.get("Target", {}) for detail in change.get("Details", [])]
        names = (target.get("Name") or target.get("Attribute", "") for target in targets)
        yield Change(
            action=change["Action"],
            resource=change["LogicalResourceId"],
            type=change["ResourceType"],
            replacement=change.get("Replacement", ""),
            details=tuple(dict.fromkeys(name for name in names if name)),
        )


def _next_step(name: str, status: str) -> str:
    if status == "ROLLBACK_COMPLETE":
        return "Everything it had made was deleted again. Correct this and deploy again."
    if status == "UPDATE_ROLLBACK_COMPLETE":
        return "The stack is as it was before. Correct this and deploy again."
    if status.startswith("DELETE"):
        return f"Correct this and run `sched destroy {name}` again."
    if status == "UPDATE_ROLLBACK_FAILED":
        return f"Correct this, run `aws cloudformation continue-update-rollback --stack-name {name}`, and deploy again."
    return f"Correct this, run `sched destroy {name}`, and deploy again."
