"""Workers: on moto where EC2's own behaviour matters, on stubbed replies where errors do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from aws_wire import SETTINGS, make_clients
from botocore.stub import Stubber
from moto import mock_aws

from sched_plugins.aws import workers as module
from sched_plugins.aws.answers import AccessRefused
from sched_plugins.aws.clients import Clients
from sched_plugins.aws.workers import Ec2Workers
from sched_plugins.errors import Refused, Throttled, Unknown
from sched_plugins.ports import InstanceState, Worker

GROUP = "env-autoscaling-group"
IMAGE = "ami-12c6146b"


@pytest.fixture
def clients() -> Iterator[Clients]:
    """On moto, with a group of one to three instances, two wanted."""
    with mock_aws():
        found = make_clients()
        subnet = found.ec2.describe_subnets()["Subnets"][0]["SubnetId"]
        found.autoscaling.create_launch_configuration(
            LaunchConfigurationName="lc", ImageId=IMAGE, InstanceType="t3.micro"
        )
        found.autoscaling.create_auto_scaling_group(
            AutoScalingGroupName=GROUP, LaunchConfigurationName="lc", MinSize=1, MaxSize=3, DesiredCapacity=2,
            VPCZoneIdentifier=subnet,
        )  # fmt: skip
        yield found


def launch(clients: Clients, **tags: str) -> str:
    """A running instance with these tags."""
    tagged: Any = [{"ResourceType": "instance", "Tags": [{"Key": key, "Value": tags[key]} for key in tags]}]
    started = clients.ec2.run_instances(ImageId=IMAGE, MinCount=1, MaxCount=1, TagSpecifications=tagged if tags else [])
    return started["Instances"][0]["InstanceId"]


def members(clients: Clients) -> dict[str, bool]:
    """Instances of the group, and whether each is protected."""
    [group] = clients.autoscaling.describe_auto_scaling_groups(AutoScalingGroupNames=[GROUP])["AutoScalingGroups"]
    return {one["InstanceId"]: one["ProtectedFromScaleIn"] for one in group["Instances"]}


def test_workers_are_those_with_the_exact_tag_that_live(clients: Clients, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PAGE", 5)
    ours = [launch(clients, sim="q", Name=str(number)) for number in range(7)]
    launch(clients, simulation="q")
    launch(clients, Sim="q")
    clients.ec2.terminate_instances(InstanceIds=[ours[6]])
    clients.ec2.stop_instances(InstanceIds=[ours[5]])
    found = list(Ec2Workers(SETTINGS, clients).tagged())
    assert sorted(worker.worker_id for worker in found) == sorted(ours[:5])
    assert {(worker.queue, worker.state) for worker in found} == {("q", InstanceState.RUNNING)}


def test_every_worker_asked_for_is_described(clients: Clients, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FILTER_VALUES", 2)
    live, plain, ended = launch(clients, sim="q"), launch(clients), launch(clients, sim="q")
    clients.ec2.terminate_instances(InstanceIds=[ended])
    gone = "i-00000000000000001"
    found = Ec2Workers(SETTINGS, clients).described([live, gone, plain, ended, live])
    assert found == {
        live: Worker(live, "q", InstanceState.RUNNING),
        plain: Worker(plain, "", InstanceState.RUNNING),
        ended: Worker(ended, "q", InstanceState.TERMINATED),
        gone: Worker(gone, "", InstanceState.GONE),
    }
    assert Ec2Workers(SETTINGS, clients).described([]) == {}


def test_a_member_is_protected_and_released(clients: Clients) -> None:
    workers = Ec2Workers(SETTINGS, clients)
    first, second = members(clients)
    workers.protect(first, protected=True)
    workers.protect(launch(clients), protected=True)
    assert members(clients) == {first: True, second: False}
    workers.protect(first, protected=False)
    assert members(clients) == {first: False, second: False}


def test_terminating_a_member_lowers_the_capacity_once(clients: Clients) -> None:
    workers = Ec2Workers(SETTINGS, clients)
    first, second = members(clients)
    workers.terminate(first)
    workers.terminate(first)
    assert workers.capacity(GROUP) == (1, 3)
    assert list(members(clients)) == [second]
    assert workers.described([first])[first].state is InstanceState.TERMINATED


def test_a_worker_of_no_group_is_terminated_and_may_be_again(clients: Clients) -> None:
    workers = Ec2Workers(SETTINGS, clients)
    alone = launch(clients, sim="q")
    workers.terminate(alone)
    workers.terminate(alone)
    assert workers.described([alone])[alone].state is InstanceState.TERMINATED
    workers.terminate("i-00000000000000001")
    assert workers.capacity(GROUP) == (2, 3)


def test_capacity_is_read_and_set(clients: Clients) -> None:
    workers = Ec2Workers(SETTINGS, clients)
    workers.set_capacity(GROUP, 3)
    assert workers.capacity(GROUP) == (3, 3)
    with pytest.raises(Refused, match="'nobody'"):
        workers.capacity("nobody")


WORKER = "i-1"
TERMINATE = "terminate_instance_in_auto_scaling_group"
NOT_MANAGED = "Instance Id not found - No managed instance found for instance ID: i-1"
AT_MINIMUM = (
    "Currently, desiredSize equals minSize (1). Terminating instance without replacement will violate group's min "
    "size constraint. Either set shouldDecrementDesiredCapacity flag to false or lower group's min size."
)
NOT_IN_SERVICE = "The instance i-1 is not in InService or EnteringStandby or Standby."


class Play:
    """Stubs of the clients that a worker's end needs."""

    def __init__(self) -> None:
        self.clients = make_clients()
        self.workers = Ec2Workers(SETTINGS, self.clients)
        self.autoscaling = self._stub(self.clients.autoscaling)
        self.once = self._stub(self.clients.autoscaling_once)
        self.ec2 = self._stub(self.clients.ec2)

    def _stub(self, client: Any) -> Stubber:
        stubber = Stubber(client)
        stubber.activate()
        return stubber

    def member(self, state: str) -> None:
        """The worker is in its group, in this lifecycle state."""
        details = {
            "InstanceId": WORKER, "AutoScalingGroupName": GROUP, "AvailabilityZone": "a", "LifecycleState": state,
            "HealthStatus": "HEALTHY", "ProtectedFromScaleIn": True,
        }  # fmt: skip
        self.autoscaling.add_response("describe_auto_scaling_instances", {"AutoScalingInstances": [details]})

    def is_done(self) -> None:
        """Check that every reply was asked for."""
        for stubber in (self.autoscaling, self.once, self.ec2):
            stubber.assert_no_pending_responses()


def lowering(lower: bool) -> dict[str, Any]:
    """What TerminateInstanceInAutoScalingGroup must be asked."""
    return {"InstanceId": WORKER, "ShouldDecrementDesiredCapacity": lower}


def error(text: str, code: str = "ValidationError") -> dict[str, Any]:
    """An error that terminating with a lowered capacity meets."""
    return {"service_error_code": code, "service_message": text, "expected_params": lowering(True)}


@pytest.mark.parametrize("state", ["Terminating", "Terminating:Wait", "Terminated", "Detaching"])
def test_what_is_leaving_is_left_alone(state: str) -> None:
    play = Play()
    play.member(state)
    play.member(state)
    play.workers.terminate(WORKER)
    play.workers.protect(WORKER, protected=False)
    play.is_done()


def test_a_worker_that_left_its_group_meanwhile_is_terminated_by_ec2() -> None:
    play = Play()
    play.member("InService")
    play.once.add_client_error(TERMINATE, **error(NOT_MANAGED))
    play.ec2.add_client_error("terminate_instances", "InvalidInstanceID.NotFound")
    play.workers.terminate(WORKER)
    play.is_done()


def test_a_group_at_its_minimum_keeps_its_size() -> None:
    play = Play()
    play.member("InService")
    play.once.add_client_error(TERMINATE, **error(AT_MINIMUM))
    play.once.add_response(TERMINATE, {}, lowering(False))
    play.workers.terminate(WORKER)
    play.is_done()


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("ScalingActivityInProgress", 400, Throttled),
        ("ResourceContention", 500, Throttled),
        ("Throttling", 400, Throttled),
        ("AccessDenied", 403, AccessRefused),
        ("ValidationError", 400, Refused),
        ("InternalFailure", 500, Unknown),
    ],
)
def test_a_termination_that_failed_is_not_taken_for_one(code: str, status: int, kind: type[Exception]) -> None:
    play = Play()
    play.member("InService")
    play.once.add_client_error(TERMINATE, code, "no", http_status_code=status)
    with pytest.raises(kind) as caught:
        play.workers.terminate(WORKER)
    assert type(caught.value) is kind


def test_a_termination_is_never_repeated_by_botocore() -> None:
    clients = make_clients()
    assert clients.autoscaling_once.meta.config.retries["total_max_attempts"] == 1
    assert clients.autoscaling.meta.config.retries["total_max_attempts"] > 1


@pytest.mark.parametrize("state", ["Pending", "Pending:Wait"])
def test_a_worker_not_yet_in_service_is_protected_later(state: str) -> None:
    play = Play()
    play.member(state)
    play.autoscaling.add_client_error("set_instance_protection", "ValidationError", NOT_IN_SERVICE)
    with pytest.raises(Throttled, match=state):
        play.workers.protect(WORKER, protected=True)


def test_a_worker_that_left_its_group_meanwhile_needs_no_protection() -> None:
    play = Play()
    play.member("InService")
    play.autoscaling.add_client_error(
        "set_instance_protection", "ValidationError", "The instance i-1 is not part of Auto Scaling group env."
    )
    play.workers.protect(WORKER, protected=True)
    play.is_done()


@pytest.mark.parametrize(
    ("ask", "operation"),
    [
        (lambda workers: list(workers.tagged()), "describe_instances"),
        (lambda workers: workers.described(["i-1"]), "describe_instances"),
    ],
)
def test_instances_that_cannot_be_described_are_not_gone(ask: Callable[[Ec2Workers], Any], operation: str) -> None:
    play = Play()
    play.ec2.add_client_error(operation, "UnauthorizedOperation", "no")
    with pytest.raises(AccessRefused):
        ask(play.workers)


def test_half_a_list_of_instances_is_no_list() -> None:
    play = Play()
    page: Any = {"Reservations": [{"Instances": [{"InstanceId": "i-1", "State": {"Name": "running"}}]}]}
    play.ec2.add_response("describe_instances", page | {"NextToken": "more"})
    play.ec2.add_client_error("describe_instances", "RequestLimitExceeded", "no", http_status_code=503)
    with pytest.raises(Throttled):
        play.workers.described(["i-1", "i-2"])
