"""EC2 and Auto Scaling in virtual time: instances boot, leave slowly, and are taken away."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sched_plugins.errors import NotFound, Refused
from sched_plugins.ports import InstanceState, Worker
from sched_plugins.testing.clock import VirtualClock

BOOT = 30.0
"""Seconds from launch to running."""
AGENT = 5.0
"""Seconds from running until the agent of Systems Manager answers."""
SHUTDOWN = 20.0
"""Seconds from shutting-down to terminated."""
FORGOTTEN = 3600.0
"""Seconds for which EC2 still knows a terminated instance."""
SPOT_NOTICE = 120.0
"""Seconds between a Spot interruption's warning and the interruption."""

ALIVE = frozenset({InstanceState.PENDING, InstanceState.RUNNING})
_ENDING = frozenset({InstanceState.SHUTTING_DOWN, InstanceState.TERMINATED})


@dataclass
class Instance:
    """One instance."""

    worker_id: str
    tag: str
    """Value of the scheduler's tag; empty without the tag."""
    group: str
    launched_at: datetime
    state: InstanceState = InstanceState.PENDING
    agent_answers: bool = False
    protected: bool = False
    has_agent: bool = True
    terminated_at: datetime | None = None


@dataclass
class Group:
    """One Auto Scaling group."""

    name: str
    queue: str
    maximum: int
    desired: int = 0
    has_agent: bool = True
    """Whether its image runs the agent."""


class MemoryWorkers:
    """The ``Workers`` port, in memory.

    Attributes:
        instances: every instance that was ever launched.
        groups: the Auto Scaling groups.
        state_listeners: called with an instance after each change of its state.
        warning_listeners: called with an instance that is about to be interrupted.
        boot: seconds from launch to running.
        peak: the largest number of instances that one group ever had at a time.
        unseen: seconds for which EC2 does not yet know an instance that was just launched.
        left_out: workers that EC2's answers lack for now, although they live.
    """

    def __init__(self, clock: VirtualClock) -> None:
        self.instances: dict[str, Instance] = {}
        self.groups: dict[str, Group] = {}
        self.state_listeners: list[Callable[[Instance], None]] = []
        self.warning_listeners: list[Callable[[Instance], None]] = []
        self.unseen = 1.0
        self.left_out: set[str] = set()
        self.boot = BOOT
        self.peak = 0
        self._clock = clock
        self._numbers = itertools.count(1)

    def launch(self, tag: str, group: str = "", *, has_agent: bool = True) -> Instance:
        """Launch an instance with this value of the scheduler's tag."""
        worker_id = f"i-{next(self._numbers):017x}"
        instance = Instance(worker_id, tag, group, self._clock.now(), has_agent=has_agent)
        self.instances[worker_id] = instance
        self.peak = max(self.peak, len(self.of_group(group)) if group else 0)
        self._clock.after(self.boot, lambda: self._booted(instance))
        return instance

    def _booted(self, instance: Instance) -> None:
        if instance.state is not InstanceState.PENDING:
            return
        self._enter(instance, InstanceState.RUNNING)
        self._clock.after(AGENT, lambda: self._answer(instance))

    def _answer(self, instance: Instance) -> None:
        instance.agent_answers = instance.has_agent and instance.state is InstanceState.RUNNING

    def _enter(self, instance: Instance, state: InstanceState) -> None:
        instance.state = state
        if state is InstanceState.TERMINATED:
            instance.terminated_at = self._clock.now()
        for listener in self.state_listeners:
            listener(instance)

    def of_group(self, group: str) -> Sequence[Instance]:
        """The instances of a group that are pending or running."""
        return [one for one in self.instances.values() if one.group == group and one.state in ALIVE]

    def alive(self) -> Sequence[Instance]:
        """All instances that cost money."""
        return [one for one in self.instances.values() if one.state in ALIVE]

    def interrupt(self, worker_id: str, *, notice: float = SPOT_NOTICE) -> None:
        """Take an instance away as Spot does: a warning, then termination."""
        instance = self.instances[worker_id]
        if instance.state not in ALIVE:
            return
        for listener in self.warning_listeners:
            listener(instance)
        self._clock.after(notice, lambda: self._leave(instance))

    def stop(self, worker_id: str) -> None:
        """Stop an instance, as somebody might in the console."""
        instance = self.instances[worker_id]
        if instance.state is InstanceState.RUNNING:
            instance.agent_answers = False
            self._enter(instance, InstanceState.STOPPED)

    def _leave(self, instance: Instance) -> None:
        if instance.state in _ENDING or instance.state is InstanceState.GONE:
            return
        instance.agent_answers = False
        instance.protected = False
        self._enter(instance, InstanceState.SHUTTING_DOWN)
        self._clock.after(SHUTDOWN, lambda: self._enter(instance, InstanceState.TERMINATED))
        self._clock.after(SHUTDOWN + FORGOTTEN, lambda: self._enter(instance, InstanceState.GONE))
        self._clock.after(1.0, self._fill_groups)

    def _fill_groups(self) -> None:
        """A group launches what it lacks, as Auto Scaling does."""
        for group in self.groups.values():
            for _ in range(group.desired - len(self.of_group(group.name))):
                self.launch(group.queue, group.name, has_agent=group.has_agent)

    def _known(self, instance: Instance) -> bool:
        seen_at = instance.launched_at + timedelta(seconds=self.unseen)
        listed = instance.worker_id not in self.left_out
        return listed and self._clock.now() >= seen_at and instance.state is not InstanceState.GONE

    def tagged(self) -> Iterator[Worker]:
        """Instances that carry the scheduler's tag and are pending or running."""
        for one in list(self.instances.values()):
            if one.tag and one.state in ALIVE and self._known(one):
                yield Worker(one.worker_id, one.tag, one.state)

    def described(self, worker_ids: Sequence[str]) -> Mapping[str, Worker]:
        """Those instances; one that EC2 does not know is GONE."""
        answer = {}
        for worker_id in worker_ids:
            one = self.instances.get(worker_id)
            known = one is not None and self._known(one)
            state = one.state if one is not None and known else InstanceState.GONE
            answer[worker_id] = Worker(worker_id, one.tag if one is not None else "", state)
        return answer

    def protect(self, worker_id: str, protected: bool) -> None:
        """Scale-in protection, for a worker of an Auto Scaling group; otherwise nothing."""
        instance = self.instances.get(worker_id)
        if instance is not None and instance.group and instance.state in ALIVE:
            instance.protected = protected

    def terminate(self, worker_id: str) -> None:
        """Terminate; of a group, with its desired capacity lowered by one."""
        instance = self.instances.get(worker_id)
        if instance is None or instance.state in _ENDING or instance.state is InstanceState.GONE:
            return
        group = self.groups.get(instance.group)
        if group is not None and instance.state in ALIVE:
            group.desired = max(0, group.desired - 1)
        self._leave(instance)

    def add_group(self, name: str, queue: str, maximum: int) -> Group:
        """Make an Auto Scaling group whose instances carry the queue in the scheduler's tag."""
        self.groups[name] = Group(name, queue, maximum)
        return self.groups[name]

    def _group(self, name: str) -> Group:
        if name not in self.groups:
            raise NotFound(f"no Auto Scaling group is called {name!r}; add it first")
        return self.groups[name]

    def capacity(self, group: str) -> tuple[int, int]:
        """Desired and maximum capacity of an Auto Scaling group."""
        return self._group(group).desired, self._group(group).maximum

    def set_capacity(self, group: str, desired: int) -> None:
        """Ask for so many workers."""
        if not 0 <= desired <= self._group(group).maximum:
            raise Refused(f"a desired capacity of {desired} is outside the bounds of group {group!r}")
        self._group(group).desired = desired
        self._clock.after(1.0, self._fill_groups)
