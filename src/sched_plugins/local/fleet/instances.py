"""Instances: a folder each, and the processes in it."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import processes
from . import emulator
from .events import Events
from .settings import Settings
from .wire import AwsError

#: State codes of the EC2 API (type InstanceState).
STATE_CODES = {
    "pending": 0,
    "running": 16,
    "shutting-down": 32,
    "terminated": 48,
    "stopping": 64,
    "stopped": 80,
}
#: How long DescribeInstances still shows a terminated instance: "about one hour" (EC2 user guide).
TERMINATED_SHOWN_SECONDS = 3600.0
GROUP_TAG = "aws:autoscaling:groupName"


@dataclass
class Instance:
    """One instance. ``record`` is MiniStack's own, so that its other EC2 calls know the instance too."""

    account: str
    region: str
    record: dict[str, Any]
    folder: Path
    spot: bool = False
    client_token: str = ""
    reason: str = ""
    reason_code: str = ""
    terminated_at: float = 0.0
    agent_online: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def id(self) -> str:
        """The instance id."""
        return str(self.record["InstanceId"])

    @property
    def state(self) -> str:
        """The state's name."""
        return str(self.record["State"]["Name"])

    @property
    def zone(self) -> str:
        """The availability zone."""
        return str(self.record["Placement"]["AvailabilityZone"])

    @property
    def work(self) -> Path:
        """The folder in which commands start."""
        return self.folder / "work"

    @property
    def tags(self) -> dict[str, str]:
        """The instance's tags now."""
        with emulator.scope(self.account, self.region):
            return emulator.instance_tags(self.id)

    @property
    def live(self) -> bool:
        """Whether it is neither terminated nor on the way there."""
        return self.state not in ("shutting-down", "terminated")


class Instances:
    """All instances of the fleet, and what can happen to them. Used from the event loop alone."""

    def __init__(self, folder: Path, settings: Settings, events: Events) -> None:
        self._folder = folder
        self._settings = settings
        self._events = events
        self._all: dict[str, Instance] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        #: Called with an instance whose state changed.
        self.observers: list[Callable[[Instance], None]] = []

    def all(self, account: str, region: str) -> list[Instance]:
        """The instances of one account and region, oldest first."""
        self._forget_old()
        return [item for item in self._all.values() if (item.account, item.region) == (account, region)]

    def scopes(self) -> set[tuple[str, str]]:
        """The accounts and regions in which there are instances."""
        return {(item.account, item.region) for item in self._all.values()}

    def get(self, instance_id: str) -> Instance | None:
        """An instance by id, also a terminated one."""
        return self._all.get(instance_id)

    def require(self, account: str, region: str, ids: Iterable[str]) -> list[Instance]:
        """The named instances; raises EC2's own errors for an id that is malformed or unknown."""
        found = []
        for instance_id in ids:
            digits = instance_id.removeprefix("i-")
            if digits == instance_id or len(digits) not in (8, 17) or set(digits) - set("0123456789abcdef"):
                raise AwsError("InvalidInstanceID.Malformed", f'Invalid id: "{instance_id}"')
            item = self._all.get(instance_id)
            if item is None or (item.account, item.region) != (account, region):
                raise AwsError("InvalidInstanceID.NotFound", f"The instance ID '{instance_id}' does not exist")
            found.append(item)
        return found

    def launch(
        self,
        account: str,
        region: str,
        count: int,
        tags: dict[str, str],
        *,
        spot: bool = False,
        client_token: str = "",
        **options: Any,
    ) -> list[Instance]:
        """Start ``count`` instances; they are running after the boot time."""
        with emulator.scope(account, region):
            records = emulator.launch(count, **options)
            for record in records:
                emulator.set_instance_tags(record["InstanceId"], tags)
        created = []
        for index, record in enumerate(records):
            record["AmiLaunchIndex"] = index
            item = Instance(
                account,
                region,
                record,
                self._folder / record["InstanceId"],
                spot=spot,
                client_token=client_token,
            )
            self._all[item.id] = item
            self._set_state(item, "pending")
            self._spawn(self._boot(item))
            created.append(item)
        return created

    def terminate(self, item: Instance, reason: str, code: str) -> str:
        """End an instance and every process in it; returns the state it was in."""
        before = item.state
        if item.live:
            item.reason, item.reason_code = reason, code
            self._set_state(item, "shutting-down")
            self._spawn(self._end(item, "terminated"))
        return before

    def stop(self, item: Instance) -> str:
        """Stop a running instance, which keeps its folder; returns the state it was in."""
        before = item.state
        if before not in ("pending", "running", "stopping", "stopped"):
            raise AwsError(
                "IncorrectInstanceState",
                f"The instance '{item.id}' is not in a state from which it can be stopped.",
            )
        if before in ("pending", "running"):
            self._set_state(item, "stopping")
            self._spawn(self._end(item, "stopped"))
        return before

    def start(self, item: Instance) -> str:
        """Start a stopped instance; returns the state it was in."""
        before = item.state
        if before not in ("stopped", "pending", "running"):
            raise AwsError(
                "IncorrectInstanceState",
                f"The instance '{item.id}' is not in a state from which it can be started.",
            )
        if before == "stopped":
            self._set_state(item, "pending")
            self._spawn(self._boot(item))
        return before

    def interrupt(self, item: Instance, warning_seconds: float) -> None:
        """Take an instance away as Spot does: a warning, and after ``warning_seconds`` its end."""
        self._events.spot_interruption(item.account, item.region, item.zone, item.id)
        reason = "Server.SpotInstanceTermination: Spot instance termination"

        async def end() -> None:
            await asyncio.sleep(warning_seconds)
            self.terminate(item, reason, "Server.SpotInstanceTermination")

        if warning_seconds > 0:
            self._spawn(end())
        else:
            self.terminate(item, reason, "Server.SpotInstanceTermination")

    async def reboot(self, item: Instance) -> None:
        """End the instance's processes and start again; as on EC2, its state stays ``running``."""
        item.agent_online.clear()
        await asyncio.to_thread(processes.kill_marked, processes.INSTANCE_MARK, item.id)
        await asyncio.sleep(self._settings.boot_seconds)
        if item.state == "running":
            item.agent_online.set()

    def close(self) -> None:
        """Stop following the instances; for the end of the server, which ends their processes itself."""
        for task in self._tasks:
            task.cancel()

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _set_state(self, item: Instance, state: str) -> None:
        item.record["State"] = {"Code": STATE_CODES[state], "Name": state}
        if state == "running":
            item.agent_online.set()
        else:
            item.agent_online.clear()
        self._events.instance_state(item.account, item.region, item.id, state)
        for observer in self.observers:
            observer(item)

    async def _boot(self, item: Instance) -> None:
        for folder in (item.work, item.folder / "tmp"):
            folder.mkdir(parents=True, exist_ok=True)
        await asyncio.sleep(self._settings.boot_seconds)
        if item.state == "pending":
            self._set_state(item, "running")

    async def _end(self, item: Instance, state: str) -> None:
        await asyncio.to_thread(processes.kill_marked, processes.INSTANCE_MARK, item.id)
        if state == "terminated":
            item.terminated_at = time.monotonic()
            # Gone at once; what is in it may take a while to delete.
            gone = item.folder.with_name(f".gone-{item.id}")
            with contextlib.suppress(FileNotFoundError):
                item.folder.rename(gone)
            self._spawn(asyncio.to_thread(shutil.rmtree, gone, ignore_errors=True))
        self._set_state(item, state)

    def _forget_old(self) -> None:
        limit = time.monotonic() - TERMINATED_SHOWN_SECONDS
        for item in [item for item in self._all.values() if 0 < item.terminated_at < limit]:
            with emulator.scope(item.account, item.region):
                emulator.forget_instance(item.id)
            del self._all[item.id]
