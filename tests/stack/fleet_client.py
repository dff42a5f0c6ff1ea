"""What the fleet's tests ask of a running stack, with plain boto3."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from sched_plugins.local import control, lifecycle, processes
from sched_plugins.local.fleet.settings import Settings
from sched_plugins.local.state import StackInfo

PATIENCE = 20.0


def eventually(look: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """The first true value that ``look`` returns; fails with the last one when none comes.

    What takes long is looked at less often: the stack needs the processor.
    """
    began = time.monotonic()
    while not (value := look()):
        waited = time.monotonic() - began
        assert waited < seconds, f"waited in vain; last seen: {value!r}"
        time.sleep(min(0.02 + waited / 8, 0.5))
    return value


class FleetClient:
    """boto3 clients of one stack, and the steps that most tests share."""

    def __init__(self, info: StackInfo) -> None:
        self.info = info

    def client(self, service: str, config: Config | None = None) -> Any:
        """A boto3 client that knows the stack by explicit settings only."""
        found: Any = boto3.client(
            service,  # type: ignore[call-overload]
            endpoint_url=self.info.endpoint,
            region_name=self.info.region,
            aws_access_key_id="test",
            aws_secret_access_key="test",
            config=config,
        )
        return found

    ec2 = cached_property(lambda self: self.client("ec2"))
    ssm = cached_property(lambda self: self.client("ssm"))
    sqs = cached_property(lambda self: self.client("sqs"))
    s3 = cached_property(lambda self: self.client("s3"))
    events = cached_property(lambda self: self.client("events"))
    autoscaling = cached_property(lambda self: self.client("autoscaling"))
    cloudformation = cached_property(lambda self: self.client("cloudformation"))

    def launch(self, **tags: str) -> str:
        """A running instance with these tags."""
        spec = [{"ResourceType": "instance", "Tags": [{"Key": k, "Value": v} for k, v in tags.items()]}]
        started = self.ec2.run_instances(
            ImageId="ami-1", MinCount=1, MaxCount=1, **({"TagSpecifications": spec} if tags else {})
        )
        instance_id: str = started["Instances"][0]["InstanceId"]
        eventually(lambda: self.state(instance_id) == "running")
        return instance_id

    def state(self, instance_id: str) -> str:
        """State of an instance."""
        found = self.ec2.describe_instances(InstanceIds=[instance_id])
        return str(found["Reservations"][0]["Instances"][0]["State"]["Name"])

    def folder(self, instance_id: str) -> Path:
        """The folder that is the instance."""
        return Path(self.info.state_dir) / "instances" / instance_id

    def send(self, instance_id: str, *commands: str, **options: Any) -> str:
        """Send a shell script; returns the command id. ``parameters`` adds to its parameters."""
        parameters = {"commands": list(commands), **options.pop("parameters", {})}
        sent = self.ssm.send_command(
            InstanceIds=[instance_id], DocumentName="AWS-RunShellScript", Parameters=parameters, **options
        )
        return str(sent["Command"]["CommandId"])

    def look(self, command_id: str, instance_id: str) -> dict[str, Any]:
        """GetCommandInvocation."""
        found: dict[str, Any] = self.ssm.get_command_invocation(CommandId=command_id, InstanceId=instance_id)
        return found

    def finish(self, command_id: str, instance_id: str) -> dict[str, Any]:
        """The invocation once it has ended."""
        ended = ("Success", "Failed", "Cancelled", "TimedOut")
        eventually(lambda: self.look(command_id, instance_id)["Status"] in ended)
        return self.look(command_id, instance_id)

    def run(self, instance_id: str, *commands: str, **options: Any) -> dict[str, Any]:
        """Run a shell script to its end."""
        return self.finish(self.send(instance_id, *commands, **options), instance_id)

    def processes(self, instance_id: str) -> list[int]:
        """Processes of an instance."""
        return processes.marked(processes.INSTANCE_MARK, instance_id)

    @contextmanager
    def watching(self, pattern: dict[str, Any]) -> Iterator[Callable[[], list[dict[str, Any]]]]:
        """Events of the default bus that match ``pattern``, through a rule and a queue; oldest first."""
        name = f"watch-{time.monotonic_ns()}"
        url = self.sqs.create_queue(QueueName=name)["QueueUrl"]
        arn = f"arn:aws:sqs:{self.info.region}:{self.info.account}:{name}"
        self.events.put_rule(Name=name, EventPattern=json.dumps(pattern))
        self.events.put_targets(Rule=name, Targets=[{"Id": "queue", "Arn": arn}])
        seen: list[dict[str, Any]] = []

        def received() -> list[dict[str, Any]]:
            while found := self.sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages"):
                seen.extend(json.loads(message["Body"]) for message in found)
            return seen

        yield received
        self.events.remove_targets(Rule=name, Ids=["queue"])
        self.events.delete_rule(Name=name)
        self.sqs.delete_queue(QueueUrl=url)

    @contextmanager
    def settings(self, **changes: Any) -> Iterator[None]:
        """Changed fleet settings for the length of a block."""
        control.settings(self.info, **changes)
        yield
        defaults = Settings(boot_seconds=BOOT_SECONDS).as_dict()
        control.settings(self.info, **{name: defaults[name] for name in changes})


BOOT_SECONDS = 0.05


@contextmanager
def fleet(folder: Path) -> Iterator[FleetClient]:
    """A stack of its own in ``folder``, for the length of a block."""
    with lifecycle.running(folder, settings={"boot_seconds": BOOT_SECONDS}) as info:
        yield FleetClient(info)
