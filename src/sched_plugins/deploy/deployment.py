"""Create, update and find the stacks of schedulers and environments."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from sched_plugins.core.names import check_stack_name
from sched_plugins.deploy import template as templates
from sched_plugins.deploy.account import Account, translated
from sched_plugins.deploy.archive import Archive, Target, functions_archive
from sched_plugins.deploy.artifacts import Artifacts
from sched_plugins.deploy.stack import Change, EventCallback, Stack, StackState
from sched_plugins.deploy.template import Kind, Value
from sched_plugins.errors import (
    DeployError,
    EnvironmentNotFound,
    InvalidSettings,
    SchedulerNotFound,
)

if TYPE_CHECKING:
    import boto3

#: Stack tags by which this package knows its own stacks; they reach every resource that takes tags.
SCHEDULER_TAG, ENVIRONMENT_TAG = "sched:scheduler", "sched:environment"
Outcome = Literal["created", "updated", "unchanged", "planned"]
PlanCallback = Callable[[tuple[Change, ...]], None]
#: Statuses of a first creation that failed and was undone: nothing is in such a stack.
_STILLBORN = frozenset({"ROLLBACK_COMPLETE", "DELETE_COMPLETE"})
#: Tags that the environment's template can hand on to its workers' volumes.
_VOLUME_TAGS = 4
_USABLE = frozenset({"CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE", "IMPORT_COMPLETE"})


@dataclass(frozen=True)
class Deployment:
    """What a deployment did: its outcome, the changes it made (or plans), and the stack's outputs."""

    name: str
    kind: Kind
    outcome: Outcome
    changes: tuple[Change, ...]
    outputs: Mapping[str, str]


@dataclass(frozen=True)
class Deployed:
    """A scheduler or an environment that exists, whatever state its stack is in.

    ``scheduler`` is the scheduler it belongs to (a scheduler's own name); ``outputs`` is empty until the stack
    has been created.
    """

    name: str
    kind: Kind
    scheduler: str
    status: str
    outputs: Mapping[str, str]
    parameters: Mapping[str, str]
    tags: Mapping[str, str]

    @property
    def usable(self) -> bool:
        """Whether the stack was created and no operation is under way."""
        return self.status in _USABLE


def deploy_scheduler(
    name: str,
    parameters: Mapping[str, Value | None] | None = None,
    *,
    tags: Mapping[str, str] | None = None,
    plan_only: bool = False,
    on_plan: PlanCallback | None = None,
    on_event: EventCallback | None = None,
    target: Target | None = None,
    session: boto3.Session | None = None,
) -> Deployment:
    """Create or update the scheduler ``name``; no change is success too.

    ``parameters``: of the template, named as there or as options; one left out keeps its earlier value, or has
    its default in a new stack. ``tags`` are set on everything; those set earlier stay. ``plan_only`` changes
    nothing and returns what would change. ``on_plan`` gets the changes before they are made, ``on_event`` each
    stack event as it comes. ``target`` is what the functions run on, by default the running interpreter's like.

    Raises:
        InvalidSettings: the name, a parameter or a tag is not allowed.
        NotPermitted: AWS refuses the caller.
        DeployError: CloudFormation refused or failed; names the resource and AWS's reason.
    """
    work = _Work("scheduler", name, tags or {}, on_plan, on_event, target, session)
    return work.run(parameters or {}, plan_only)


def deploy_environment(
    name: str,
    *,
    scheduler: str,
    parameters: Mapping[str, Value | None] | None = None,
    tags: Mapping[str, str] | None = None,
    plan_only: bool = False,
    on_plan: PlanCallback | None = None,
    on_event: EventCallback | None = None,
    target: Target | None = None,
    session: boto3.Session | None = None,
) -> Deployment:
    """Create or update the environment ``name`` of a scheduler; the rest is as for ``deploy_scheduler``.

    Raises:
        SchedulerNotFound: there is no such scheduler in this account and region, or it is not ready.
        InvalidSettings, NotPermitted, DeployError: as for ``deploy_scheduler``.
    """
    work = _Work("environment", name, tags or {}, on_plan, on_event, target, session, scheduler)
    return work.run(parameters or {}, plan_only)


def find_scheduler(name: str, *, session: boto3.Session | None = None) -> Deployed:
    """The scheduler of that name.

    Raises:
        SchedulerNotFound: there is no stack of that name, or it is not a scheduler's.
    """
    account = Account(session)
    return _find_scheduler(account, name)


def find_environment(name: str, *, session: boto3.Session | None = None) -> Deployed:
    """The environment of that name.

    Raises:
        EnvironmentNotFound: there is no stack of that name, or it is not an environment's.
    """
    account = Account(session)
    state = Stack(account, name).state()
    found = deployed(state) if state else None
    if found is None or found.kind != "environment":
        what = "no stack" if state is None else "a stack, but no environment,"
        raise EnvironmentNotFound(
            f"there is {what} of the name {name!r} in region {account.region}. "
            f"Deploy it with `sched deploy environment {name} --scheduler NAME`."
        )
    return found


def list_stacks(*, session: boto3.Session | None = None, account: Account | None = None) -> list[Deployed]:
    """Every scheduler and environment of the account and region, by name, schedulers first."""
    account = account or Account(session)
    with translated("listing the stacks"):
        pages = account.client("cloudformation").get_paginator("describe_stacks").paginate()
        states = [StackState.of(described) for page in pages for described in page["Stacks"]]
    found = [one for one in map(deployed, states) if one]
    return sorted(found, key=lambda one: (one.kind == "environment", one.name))


def deployed(state: StackState) -> Deployed | None:
    """The scheduler or environment that a stack is, by its tags or its outputs; None if it is neither."""
    environment = state.tags.get(ENVIRONMENT_TAG) or state.outputs.get("EnvironmentName")
    scheduler = state.tags.get(SCHEDULER_TAG) or state.outputs.get("SchedulerName")
    if state.unborn or not scheduler or state.name not in (environment, scheduler):
        return None
    kind: Kind = "environment" if environment else "scheduler"
    return Deployed(state.name, kind, scheduler, state.status, state.outputs, state.parameters, state.tags)


class _Work:
    """One deployment."""

    def __init__(
        self,
        kind: Kind,
        name: str,
        tags: Mapping[str, str],
        on_plan: PlanCallback | None,
        on_event: EventCallback | None,
        target: Target | None,
        session: boto3.Session | None,
        scheduler: str | None = None,
    ) -> None:
        self._kind: Kind = kind
        self._name = check_stack_name(name)
        self._scheduler = scheduler or name
        self._tags = dict(_checked_tags(tags))
        self._on_plan = on_plan
        self._on_event = on_event
        self._target = target
        self._account = Account(session)
        self._stack = Stack(self._account, name)

    def run(self, values: Mapping[str, Value | None], plan_only: bool) -> Deployment:
        """Check, package, plan, and carry out unless only the plan is wanted."""
        template = templates.load(self._kind)
        chosen = templates.checked(template, values)
        if self._kind == "environment":
            self._require_scheduler()
        state = self._ready(plan_only)
        self._require_values(template, chosen, state)
        archive = functions_archive(self._target)
        source = self._source(template, archive)
        tags = {**(state.tags if state else {}), **self._tags, **self._own_tags()}
        parameters = self._parameters(template, chosen, archive, state)
        plan = self._stack.plan(source, parameters, tags, state)
        if plan is None:
            return self._result("unchanged", (), state.outputs if state else {})
        if self._on_plan:
            self._on_plan(plan.changes)
        if plan_only:
            self._stack.discard(plan)
            return self._result("planned", plan.changes, state.outputs if state else {})
        done = self._stack.execute(plan, self._on_event)
        created = state is None or state.unborn
        return self._result("created" if created else "updated", plan.changes, done.outputs)

    def _result(self, outcome: Outcome, changes: Sequence[Change], outputs: Mapping[str, str]) -> Deployment:
        return Deployment(self._name, self._kind, outcome, tuple(changes), dict(outputs))

    def _require_scheduler(self) -> None:
        found = _find_scheduler(self._account, self._scheduler)
        if not found.usable:
            raise SchedulerNotFound(
                f"the scheduler {self._scheduler!r} is not ready: its stack is {found.status}. "
                f"Run `sched deploy scheduler {self._scheduler}` first."
            )

    def _ready(self, plan_only: bool) -> StackState | None:
        """The stack, with no operation under way; one whose first creation failed is cleared away."""
        state = self._stack.settled()
        if state is None or state.unborn:
            return state
        found = deployed(state)
        if found is None or (found.kind, found.scheduler) != (self._kind, self._scheduler):
            what = f"the {found.kind} of scheduler {found.scheduler!r}" if found else "not one that sched deployed"
            raise InvalidSettings(
                f"a stack of the name {self._name!r} exists already, and it is {what}. Choose another name."
            )
        if state.status in _STILLBORN:
            if plan_only:
                return None
            self._stack.delete(state, self._on_event)
            return None
        if state.status not in _USABLE:
            raise DeployError(
                f"stack {self._name!r} is {state.status} ({state.reason or 'no reason given'}) and cannot be updated. "
                f"Run `sched destroy {self._name}`, or repair it in the CloudFormation console."
            )
        return state

    def _require_values(self, template: Mapping[str, Any], chosen: Mapping[str, str], state: StackState | None) -> None:
        earlier = state.parameters if state else {}
        missing = [
            parameter.option
            for parameter in templates.parameters(template)
            if parameter.default is None
            and parameter.name not in templates.DERIVED
            and parameter.name not in chosen
            and parameter.name not in earlier
        ]
        if missing:
            raise InvalidSettings(f"{self._kind} {self._name!r} needs a value for {', '.join(missing)}")

    def _source(self, template: Mapping[str, Any], archive: Archive) -> dict[str, str]:
        """The code's place written into the template; the template itself, or its place if it is long."""
        artifacts = Artifacts(self._account)
        key = artifacts.put(f"functions-{archive.digest}.zip", archive.zipped)
        final = templates.located(
            template, {"Bucket": artifacts.bucket, "Key": key}, templates.folder(), archive.target.architecture
        )
        body = json.dumps(final, separators=(",", ":"), ensure_ascii=False)
        if len(body.encode()) <= templates.MAX_TEMPLATE_BODY:
            return {"TemplateBody": body}
        return {"TemplateURL": artifacts.url(artifacts.put_text(self._kind, "json", body))}

    def _parameters(
        self, template: Mapping[str, Any], chosen: Mapping[str, str], archive: Archive, state: StackState | None
    ) -> list[dict[str, Any]]:
        derived = {
            templates.RUNTIME: archive.target.runtime,
            templates.ARCHITECTURE: archive.target.architecture,
            templates.SCHEDULER: self._scheduler,
        }
        given = {**self._volume_tags(), **chosen, **derived}
        result: list[dict[str, Any]] = []
        for name in template.get("Parameters", {}):
            if name in given:
                result.append({"ParameterKey": name, "ParameterValue": given[name]})
            elif state and name in state.parameters:
                result.append({"ParameterKey": name, "UsePreviousValue": True})
        return result

    def _volume_tags(self) -> dict[str, str]:
        """The first tags asked for, as parameters: a stack's tags do not reach the volumes of its launch template."""
        tags = [f"{key}={value}" for key, value in self._tags.items()]
        return {f"VolumeTag{number}": tag for number, tag in enumerate(tags[:_VOLUME_TAGS], 1)}

    def _own_tags(self) -> dict[str, str]:
        own = {SCHEDULER_TAG: self._scheduler}
        return {**own, ENVIRONMENT_TAG: self._name} if self._kind == "environment" else own


def _find_scheduler(account: Account, name: str) -> Deployed:
    state = Stack(account, name).state()
    found = deployed(state) if state else None
    if found is None or found.kind != "scheduler":
        what = "no stack" if state is None else "a stack, but no scheduler,"
        raise SchedulerNotFound(
            f"there is {what} of the name {name!r} in region {account.region}. "
            f"Deploy it with `sched deploy scheduler {name}`."
        )
    return found


def _checked_tags(tags: Mapping[str, str]) -> Mapping[str, str]:
    """Limits of tags. Source: AWS Tag Editor User Guide, "Tag naming limits and requirements"."""
    for key, value in tags.items():
        if not 1 <= len(key) <= 128 or len(value) > 256 or key.lower().startswith("aws:"):
            raise InvalidSettings(
                f"{key!r}={value!r} cannot be a tag: the key has 1 to 128 characters and does not begin with aws:, "
                "the value has at most 256"
            )
        if key in (SCHEDULER_TAG, ENVIRONMENT_TAG):
            raise InvalidSettings(f"the tag {key!r} is set by sched itself; leave it out")
    return tags
