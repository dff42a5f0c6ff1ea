"""The server of a laptop stack whose functions may do only what their roles allow.

MiniStack then evaluates every policy, and runs each function with the credentials of its role. What it cannot
know, it is told here: that SQS has no permissions for batches of their own; that S3 tells only those who may list
a bucket that an object is not there; which tags the fleet's instances and
groups have; on which resources SendCommand is permitted; that on AWS the requests come by TLS; and whose
permissions a worker's agent has. Every call of a function is written to ``asked`` in the state folder, every refusal
to ``denied``.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import boto3

from sched_plugins.local import server
from sched_plugins.local.fleet import emulator

ACCOUNT = "000000000000"
BATCHES = {
    "sqs:SendMessageBatch": "sqs:SendMessage",
    "sqs:DeleteMessageBatch": "sqs:DeleteMessage",
    "sqs:ChangeMessageVisibilityBatch": "sqs:ChangeMessageVisibility",
}


def main() -> int:
    """Run the server as ``sched_plugins.local.server`` does."""
    folder = Path(sys.argv[sys.argv.index("--state-dir") + 1])
    set_environment = server._set_environment

    def set_all(*arguments: Any) -> None:
        set_environment(*arguments)
        os.environ["AUTH"] = "true"
        enforce_policies(folder)

    server._set_environment = set_all
    return server.main()


def enforce_policies(folder: Path) -> None:
    """Put ourselves between MiniStack and its evaluation."""
    from ministack.core import iam_evaluator

    enforce, condition_key = iam_evaluator.enforce, iam_evaluator._resolve_condition_key

    def enforced(
        access_key_id: str,
        iam_action: str,
        service: str,
        region: str,
        resource_arn: str = "*",
        service_context: Any = None,
    ) -> Any:
        action = BATCHES.get(iam_action, iam_action)
        answers = [
            enforce(access_key_id, action, service, region, resource, {**(service_context or {}), **known})
            for resource, known in asked_on(action, resource_arn, region)
        ]
        if action == "s3:GetObject" and not is_stored(resource_arn):
            bucket = resource_arn.partition("/")[0]
            answers.append(enforce(access_key_id, "s3:ListBucket", service, region, bucket, service_context))
        refusal = next((answer for answer in answers if answer is not None), None)
        if access_key_id.startswith("ASIA"):
            function = caller(iam_evaluator, access_key_id)
            write(folder / "asked", f"{function} {action}")
            if refusal is not None:
                write(folder / "denied", f"{function} {action} {resource_arn}")
        return refusal

    iam_evaluator.enforce = enforced
    emulator.put_object = put_object
    iam_evaluator._resolve_condition_key = lambda key, context: (
        "true" if key.lower() == "aws:securetransport" else condition_key(key, context)
    )


async def put_object(_account: str, region: str, bucket: str, key: str, body: bytes) -> bool:
    """Store a command's output with credentials, as an agent has them."""
    endpoint = f"http://127.0.0.1:{os.environ['GATEWAY_PORT']}"
    client = boto3.client("s3", endpoint_url=endpoint, region_name=region)
    await asyncio.to_thread(client.put_object, Bucket=bucket, Key=key, Body=body)
    return True


def asked_on(action: str, resource: str, region: str) -> list[tuple[str, dict[str, str]]]:
    """The resources that AWS checks an action on, and the condition keys that it knows of each."""
    from ministack.services import autoscaling, ec2

    if action == "ssm:SendCommand":
        [scheduler] = {tag["Key"] for tags in ec2._tags.values() for tag in tags if tag["Value"].endswith("-job-queue")}
        return [
            (f"arn:aws:ec2:{region}:{ACCOUNT}:instance/i-1", {f"ssm:resourceTag/{scheduler}": "queue"}),
            (f"arn:aws:ssm:{region}::document/AWS-RunShellScript", {}),
            (f"arn:aws:s3:::{scheduler}-{ACCOUNT}-output", {}),
        ]
    if action == "events:PutEvents":
        return [(resource, {"events:source": "sched-plugins"})]
    if action == "autoscaling:TerminateInstanceInAutoScalingGroup":  # It names no group, but AWS knows it.
        resource = next(iter(autoscaling._asgs.values()))["AutoScalingGroupARN"]
    name = resource.rpartition("/")[2]
    tags = {"ec2": ec2._tags, "autoscaling": autoscaling._tags}.get(action.partition(":")[0], {}).get(name) or []
    return [(resource, {f"aws:ResourceTag/{tag['Key']}": str(tag["Value"]) for tag in tags})]


def is_stored(arn: str) -> bool:
    """Whether there is an object of this ARN."""
    from ministack.services import s3

    bucket, _, key = arn.partition(":::")[2].partition("/")
    return bucket in s3._buckets and key in s3._buckets[bucket]["objects"]


def caller(iam_evaluator: Any, access_key_id: str) -> str:
    """Name of the function that has these credentials."""
    return str(iam_evaluator.resolve_principal(access_key_id, ACCOUNT, None).arn).rpartition("/")[2]


def write(path: Path, line: str) -> None:
    """Add a line to a file."""
    with path.open("a") as file:
        file.write(line + "\n")


if __name__ == "__main__":
    sys.exit(main())
