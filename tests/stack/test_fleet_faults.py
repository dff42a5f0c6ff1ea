"""What hurts: cancels, timeouts, reboots, agents that come back, events and replies that get lost."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from fleet_client import FleetClient, eventually, fleet

from sched_plugins.errors import LaptopStackError
from sched_plugins.local import control, processes

BUCKET = "late-output"
#: Appends a line at each start, so that a test can count how often a document was run.
COUNT = "echo started >> $HOME/starts"


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetClient]:
    with fleet(tmp_path_factory.mktemp("faults")) as client:
        client.s3.create_bucket(Bucket=BUCKET)
        yield client


@pytest.fixture
def worker(aws: FleetClient) -> Iterator[str]:
    instance = aws.launch()
    yield instance
    aws.ec2.terminate_instances(InstanceIds=[instance])


def starts(aws: FleetClient, instance: str) -> int:
    file = aws.folder(instance) / "starts"
    return len(file.read_text().splitlines()) if file.exists() else 0


def test_cancel_ends_a_command_and_all_its_processes_and_no_other(aws: FleetClient, worker: str) -> None:
    other = aws.send(worker, "sleep 300")
    command = aws.send(worker, "echo before; setsid sleep 300 & sleep 300")
    eventually(lambda: len(processes.marked(processes.COMMAND_MARK, command)) == 3)
    aws.ssm.cancel_command(CommandId=command)
    seen = aws.finish(command, worker)
    assert (seen["Status"], seen["ResponseCode"]) == ("Cancelled", 137)
    assert seen["StandardOutputContent"] == "before\n"
    assert processes.marked(processes.COMMAND_MARK, command) == []
    assert aws.look(other, worker)["Status"] == "InProgress"
    aws.ssm.cancel_command(CommandId=command)
    assert aws.look(command, worker)["Status"] == "Cancelled"


def test_cancel_may_be_accepted_and_do_nothing(aws: FleetClient, worker: str) -> None:
    with aws.settings(cancel_works=False):
        command = aws.send(worker, "while ! test -e go; do sleep 0.02; done; echo through")
        eventually(lambda: aws.look(command, worker)["Status"] == "InProgress")
        aws.ssm.cancel_command(CommandId=command)
        (aws.folder(worker) / "work" / "go").touch()
        seen = aws.finish(command, worker)
    assert (seen["Status"], seen["StandardOutputContent"]) == ("Success", "through\n")


def test_a_command_past_its_execution_timeout_is_ended(aws: FleetClient, worker: str) -> None:
    with aws.settings(minimum_execution_timeout=1):
        command = aws.send(worker, "echo early; setsid sleep 300 & sleep 300", parameters={"executionTimeout": ["1"]})
        seen = aws.finish(command, worker)
    assert (seen["Status"], seen["StatusDetails"]) == ("TimedOut", "ExecutionTimedOut")
    assert (seen["ResponseCode"], seen["StandardOutputContent"]) == (137, "early\n")
    assert aws.processes(worker) == []


def test_an_execution_timeout_below_five_seconds_is_taken_as_the_default(aws: FleetClient, worker: str) -> None:
    assert aws.run(worker, "sleep 1.2", parameters={"executionTimeout": ["1"]})["Status"] == "Success"


def test_exit_137_reads_as_a_timeout(aws: FleetClient, worker: str) -> None:
    assert aws.run(worker, "exit 137")["Status"] == "TimedOut"


def test_exit_194_runs_the_document_again_after_a_reboot(aws: FleetClient, worker: str) -> None:
    bystander = aws.send(worker, "echo side >> $HOME/side; test $(wc -l < $HOME/side) -gt 1 || sleep 300")
    eventually((aws.folder(worker) / "side").exists)
    seen = aws.run(worker, COUNT, "test $(wc -l < $HOME/starts) -gt 1 || exit 194", "echo done")
    assert (seen["Status"], seen["StandardOutputContent"]) == ("Success", "done\n")
    assert starts(aws, worker) == 2
    assert aws.finish(bystander, worker)["Status"] == "Success"


def test_exit_194_for_ever_ends_as_a_failure(aws: FleetClient, worker: str) -> None:
    with aws.settings(reboot_limit=2):
        seen = aws.run(worker, COUNT, "exit 194")
    assert (seen["Status"], seen["ResponseCode"]) == ("Failed", 194)
    assert starts(aws, worker) == 3


@pytest.mark.parametrize("kill", [True, False])
def test_an_agent_that_restarts_runs_its_documents_again(aws: FleetClient, worker: str, kill: bool) -> None:
    command = aws.send(worker, COUNT, "test $(wc -l < $HOME/starts) -gt 1 || sleep 300")
    done = aws.send(worker, "true")
    aws.finish(done, worker)
    eventually(lambda: starts(aws, worker) == 1)
    assert control.restart_agent(aws.info, worker, kill=kill) == 1
    assert aws.finish(command, worker)["Status"] == "Success"
    assert starts(aws, worker) == 2
    assert bool(aws.processes(worker)) is not kill


def test_an_instance_that_stops_and_starts_runs_its_documents_again(aws: FleetClient, worker: str) -> None:
    command = aws.send(worker, COUNT, "test $(wc -l < $HOME/starts) -gt 1 || sleep 300")
    eventually(lambda: starts(aws, worker) == 1)
    aws.ec2.stop_instances(InstanceIds=[worker])
    eventually(lambda: aws.state(worker) == "stopped")
    assert aws.processes(worker) == []
    aws.ec2.start_instances(InstanceIds=[worker])
    assert aws.finish(command, worker)["Status"] == "Success"
    assert starts(aws, worker) == 2


def test_a_command_waits_for_an_agent_that_does_not_answer_and_its_result_too(aws: FleetClient, worker: str) -> None:
    running = aws.send(worker, "while ! test -e go; do sleep 0.02; done")
    eventually(lambda: aws.look(running, worker)["Status"] == "InProgress")
    control.set_agent(aws.info, worker, online=False)
    found = aws.ssm.describe_instance_information(Filters=[{"Key": "InstanceIds", "Values": [worker]}])
    assert found["InstanceInformationList"][0]["PingStatus"] == "ConnectionLost"
    waiting = aws.send(worker, "echo late")
    (aws.folder(worker) / "work" / "go").touch()
    eventually(lambda: aws.processes(worker) == [])
    assert aws.look(waiting, worker)["Status"] == "Pending"
    assert aws.look(running, worker)["Status"] == "InProgress"
    control.set_agent(aws.info, worker, online=True)
    assert aws.finish(waiting, worker)["StandardOutputContent"] == "late\n"
    assert aws.finish(running, worker)["Status"] == "Success"


def test_an_undelivered_command_times_out_or_is_cancelled_without_having_run(aws: FleetClient, worker: str) -> None:
    control.set_agent(aws.info, worker, online=False)
    with aws.settings(delivery_timeout_seconds=0.2):
        seen = aws.run(worker, COUNT)
    assert (seen["Status"], seen["StatusDetails"], seen["ResponseCode"]) == ("TimedOut", "DeliveryTimedOut", -1)
    cancelled = aws.send(worker, COUNT)
    aws.ssm.cancel_command(CommandId=cancelled, InstanceIds=[worker])
    assert aws.finish(cancelled, worker)["Status"] == "Cancelled"
    control.set_agent(aws.info, worker, online=True)
    assert aws.run(worker, "true")["Status"] == "Success"
    assert starts(aws, worker) == 0


def test_nobody_reports_the_end_of_a_command_whose_instance_is_gone(aws: FleetClient, worker: str) -> None:
    with aws.watching({"source": ["aws.ssm"], "detail": {"status": ["Failed", "Success", "TimedOut"]}}) as seen:
        command = aws.send(worker, "sleep 300")
        eventually(lambda: aws.look(command, worker)["Status"] == "InProgress")
        aws.ec2.terminate_instances(InstanceIds=[worker])
        eventually(lambda: aws.state(worker) == "terminated")
        assert aws.look(command, worker)["Status"] == "InProgress"
        assert seen() == []


def test_events_can_get_lost_and_come_twice_and_late(aws: FleetClient, worker: str) -> None:
    pattern = {"source": ["aws.ssm"], "detail-type": ["EC2 Command Invocation Status-change Notification"]}
    with aws.watching(pattern) as seen:
        with aws.settings(event_drop_fraction=1.0):
            aws.run(worker, "true")
        with aws.settings(event_duplicate_fraction=1.0):
            twice = aws.send(worker, "true")
            aws.finish(twice, worker)
        with aws.settings(event_delay_seconds=1.0):
            late = aws.send(worker, "true")
            aws.finish(late, worker)
            assert late not in {event["detail"]["command-id"] for event in seen()}
            eventually(lambda: len(seen()) == 6)
        told = [event["detail"]["command-id"] for event in seen()]
    assert told == [twice] * 4 + [late] * 2


def test_output_can_reach_s3_after_the_command_has_ended(aws: FleetClient, worker: str) -> None:
    with aws.settings(output_delay_seconds=1.0):
        seen = aws.run(worker, "echo late", OutputS3BucketName=BUCKET)
        assert aws.s3.list_objects_v2(Bucket=BUCKET)["KeyCount"] == 0
    key = seen["StandardOutputUrl"].partition(f"/{BUCKET}/")[2]
    eventually(lambda: aws.s3.list_objects_v2(Bucket=BUCKET)["KeyCount"] == 1)
    assert aws.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read() == b"late\n"


def test_a_new_command_can_be_unknown_for_a_moment(aws: FleetClient, worker: str) -> None:
    with aws.settings(invocation_delay_seconds=1.0):
        command = aws.send(worker, "true")
        with pytest.raises(aws.ssm.exceptions.InvocationDoesNotExist):
            aws.look(command, worker)

        def known() -> bool:
            try:
                return bool(aws.look(command, worker))
            except aws.ssm.exceptions.InvocationDoesNotExist:
                return False

        eventually(known)


def test_a_call_can_be_throttled_and_a_reply_can_be_lost_after_the_deed(aws: FleetClient, worker: str) -> None:
    once = aws.client("ssm", Config(retries={"total_max_attempts": 1}))
    command = {"DocumentName": "AWS-RunShellScript", "Parameters": {"commands": [COUNT]}}
    with aws.settings(faults={"SendCommand": {"code": "ThrottlingException"}}):
        with pytest.raises(ClientError) as raised:
            once.send_command(InstanceIds=[worker], **command)
        assert raised.value.response["Error"]["Code"] == "ThrottlingException"
    assert starts(aws, worker) == 0
    with aws.settings(faults={"SendCommand": {"lost_reply": True}}):
        with pytest.raises(ClientError) as raised:
            once.send_command(InstanceIds=[worker], **command)
        assert raised.value.response["ResponseMetadata"]["HTTPStatusCode"] == 500
    eventually(lambda: starts(aws, worker) == 1)
    assert len(aws.ssm.list_commands(InstanceId=worker)["Commands"]) == 1


def test_a_setting_that_does_not_exist_is_refused_by_name(aws: FleetClient) -> None:
    with pytest.raises(LaptopStackError, match="no fleet setting is called 'boots'; there are: boot_seconds"):
        control.settings(aws.info, boots=1)
