"""The emulator: every place where the fleet reads or changes MiniStack from inside its process.

MiniStack has no public interface for this. All use of its private names is here, so that a new version
needs changes in one file; ``tests/stack`` fails if any of them is gone.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import subprocess
import threading
import zipfile
from collections.abc import Awaitable, Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from .functions import Forks, SharedCode

log = logging.getLogger("sched.fleet")

# What follows the frames of a traceback: the exception with its module, and what it says.
_RAISED = re.compile(r"^(?:[\w<>]+\.)*(\w+)(?::|$)", re.MULTILINE)

#: What a handler of a service answers: HTTP status, headers, body.
Answer = tuple[int, dict[str, str], bytes]
#: A handler of a service: method, path, headers, body and query to an answer.
Service = Callable[[str, str, dict[str, str], "bytes | str", dict[str, list[str]]], Awaitable[Answer]]


def _service(name: str) -> ModuleType:
    return import_module(f"ministack.services.{name}")


@contextlib.contextmanager
def scope(account: str, region: str) -> Iterator[None]:
    """Act in ``account`` and ``region``: MiniStack's stores are divided by both."""
    with import_module("ministack.core.responses").request_scope(account, region):
        yield


def current_scope() -> tuple[str, str]:
    """Account and region in which MiniStack acts just now."""
    responses = import_module("ministack.core.responses")
    return str(responses.get_account_id()), str(responses.get_region())


def wrap_service(name: str, wrap: Callable[[str, Service], Service]) -> None:
    """Replace the handler of a service by what ``wrap`` makes of it, for callers outside and inside."""
    handlers = import_module("ministack.app").SERVICE_HANDLERS
    handlers[name] = wrap(name, handlers[name])


def put_event(
    account: str, region: str, source: str, detail_type: str, resources: list[str], detail: dict[str, Any]
) -> None:
    """Hand an event to EventBridge's default bus; unlike PutEvents, also from a source ``aws.*``."""
    entry = {
        "Source": source,
        "DetailType": detail_type,
        "Resources": resources,
        "Detail": json.dumps(detail),
        "EventBusName": "default",
    }
    with scope(account, region):
        _service("eventbridge")._put_events({"Entries": [entry]}, allow_aws_source=True)


async def put_object(account: str, region: str, bucket: str, key: str, body: bytes) -> bool:
    """Store an object in S3; false, with a line in the log, if S3 refuses."""
    headers = {"content-type": "text/plain", "content-length": str(len(body))}
    with scope(account, region):
        status, _, text = await _service("s3").handle_request("PUT", f"/{bucket}/{key}", headers, body, {})
    if status != 200:
        log.warning("output not stored at s3://%s/%s: HTTP %s %s", bucket, key, status, text)
    return bool(status == 200)


def parameter(name: str, version: str | None) -> str | None:
    """Value of a Parameter Store parameter that is no SecureString; None if there is none."""
    ssm = _service("ssm")
    record = ssm._lookup_parameter(name, allow_arn_region=True, flexible_name=True)[1]
    if record is not None and record.get("Type") == "SecureString":
        return None
    value = ssm.resolve_parameter_value(name, version=version)
    return None if value is None else str(value)


def launch(count: int, **options: Any) -> list[dict[str, Any]]:
    """Make instance records, with their network address and root volume, in the current scope."""
    ec2 = _service("ec2")
    ec2._ensure_defaults_initialized()
    options["subnet_id"] = options.get("subnet_id") or ec2._DEFAULT_SUBNET_ID
    profile = options.pop("profile", None) or {}
    if profile.get("Arn") or profile.get("Name"):
        options["iam_profile"], refused = ec2._resolve_iam_instance_profile(
            iam_arn=profile.get("Arn", ""), iam_name=profile.get("Name", ""), allow_missing=True
        )
        if refused:
            options["iam_profile"] = None
    created: list[dict[str, Any]] = ec2._launch_instances_internal(count=count, **options)
    return created


def forget_instance(instance_id: str) -> None:
    """Drop an instance's record and tags from the current scope."""
    ec2 = _service("ec2")
    ec2._instances.pop(instance_id, None)
    ec2._tags.pop(instance_id, None)


def instance_tags(instance_id: str) -> dict[str, str]:
    """Tags of a resource in the current scope."""
    return {tag["Key"]: tag.get("Value", "") for tag in _service("ec2")._tags.get(instance_id) or []}


def set_instance_tags(instance_id: str, tags: dict[str, str]) -> None:
    """Replace the tags of a resource in the current scope."""
    _service("ec2")._tags[instance_id] = [{"Key": key, "Value": value} for key, value in tags.items()]


def launch_template(spec: dict[str, Any]) -> dict[str, Any] | None:
    """Data of the launch template version that ``spec`` names (id or name, version); None if there is none.

    ``$Default``, ``$Latest`` and numbers are versions; a missing version is the default one.
    """
    ec2 = _service("ec2")
    wanted = str(spec.get("LaunchTemplateId") or ""), str(spec.get("LaunchTemplateName") or "")
    for template in ec2._launch_templates.values():
        if template["LaunchTemplateId"] in wanted or template["LaunchTemplateName"] in wanted:
            break
    else:
        return None
    version = str(spec.get("Version") or "$Default")
    if version == "$Default":
        version = str(template.get("DefaultVersionNumber", 1))
    elif version == "$Latest":
        version = str(template.get("LatestVersionNumber", 1))
    for candidate in template.get("Versions", []):
        if str(candidate.get("VersionNumber")) == version:
            data = candidate.get("LaunchTemplateData") or {}
            return {
                **data,
                "_id": template["LaunchTemplateId"],
                "_name": template["LaunchTemplateName"],
                "_version": version,
            }
    return None


def groups() -> list[tuple[str, str, dict[str, Any]]]:
    """Every Auto Scaling group with its account and region."""
    stored = _service("autoscaling")._asgs._data.items()
    return [(key[0], key[1], group) for key, group in list(stored)]


def group(name: str) -> dict[str, Any] | None:
    """An Auto Scaling group of the current scope."""
    found: dict[str, Any] | None = _service("autoscaling")._asgs.get(name)
    return found


def create_group(properties: dict[str, Any]) -> None:
    """Make an Auto Scaling group in the current scope, from the properties that a template would give."""
    provisioners = import_module("ministack.services.cloudformation.provisioners")
    provisioners._asg_create(properties["AutoScalingGroupName"], properties, "")


def forget_group(name: str) -> None:
    """Drop an Auto Scaling group of the current scope, with its hooks and policies."""
    _service("autoscaling")._delete_asg({"AutoScalingGroupName": name})


def now() -> str:
    """The time as MiniStack writes it."""
    return str(import_module("ministack.core.responses").now_iso())


def watch_groups(changed: Callable[[], None]) -> None:
    """Call ``changed`` whenever a group is made, changed or deleted, and keep what the fleet needs.

    MiniStack fills a group with made-up instances and, in templates, drops ``MixedInstancesPolicy``: both
    are replaced here. ``changed`` may be called from any thread, and just before the change is stored.
    """
    autoscaling = _service("autoscaling")
    provisioners = import_module("ministack.services.cloudformation.provisioners")
    read_properties = provisioners._asg_fields
    delete_hooks = autoscaling._delete_group_hooks

    def fields_of(properties: dict[str, Any]) -> dict[str, Any]:
        changed()
        return {
            **read_properties(properties),
            "MixedInstancesPolicy": properties.get("MixedInstancesPolicy"),
            "NewInstancesProtectedFromScaleIn": str(properties.get("NewInstancesProtectedFromScaleIn", "")).lower()
            == "true",
        }

    def deleted(name: str) -> None:
        delete_hooks(name)
        changed()

    # A module's attributes: for the type checker these are not known to exist.
    vars(autoscaling)["_reconcile_instances"] = lambda _group: changed()
    vars(autoscaling)["_delete_group_hooks"] = deleted
    vars(provisioners)["_asg_fields"] = fields_of


def add_resource_type(name: str, handlers: dict[str, Any]) -> None:
    """Teach CloudFormation a resource type: functions ``create``, ``update`` and ``delete``."""
    provisioners = import_module("ministack.services.cloudformation.provisioners")
    provisioners._RESOURCE_HANDLERS.setdefault(name, handlers)


def name_function_errors() -> None:
    """Let a Python function's error have the name of its exception, as on AWS.

    MiniStack names every one ``Runtime.HandlerError``, which a state machine's ``Retry`` and ``Catch`` do not know.
    """
    service = _service("lambda_svc")
    execute = service._execute_function_warm

    def executed(*arguments: Any, **options: Any) -> dict[str, Any]:
        result: dict[str, Any] = execute(*arguments, **options)
        body = result.get("body")
        if result.get("error") and isinstance(body, dict) and body.get("errorType") == "Runtime.HandlerError":
            found = _RAISED.search(str(result.get("log")).rpartition("Traceback (most recent call last):")[2])
            body["errorType"] = found[1] if found else body["errorType"]
        return result

    vars(service)["_execute_function_warm"] = executed


def fail_tasks_with_their_function() -> None:
    """Let a task that waits for its token fail when the function that was given the token fails, as on AWS.

    MiniStack waits on: an execution whose function died would wait until the task's timeout.
    """
    service = _service("stepfunctions")
    invoke, call = service._invoke_with_callback, service._call_lambda
    task = threading.local()

    def invoked(resource: str, values: Any, token: str, state: dict[str, Any]) -> Any:
        task.token = token
        return invoke(resource, values, token, state)

    def called(function: str, event: Any) -> Any:
        token, task.token = getattr(task, "token", None), None
        try:
            return call(function, event)
        except service._ExecutionError as error:
            waiting = service._task_tokens.get(token) if token else None
            if waiting and not waiting["event"].is_set():
                waiting["error"] = {"Error": error.error, "Cause": error.cause}
                waiting["event"].set()
            raise

    vars(service)["_invoke_with_callback"] = invoked
    vars(service)["_call_lambda"] = called


def start_functions_fast(folder: Path) -> None:
    """Let instances of functions share their unpacked code, in ``folder``, and what they have imported."""
    runtime = vars(import_module("ministack.core.lambda_runtime"))
    archives, processes = ModuleType("zipfile"), ModuleType("subprocess")
    vars(archives).update(vars(zipfile), ZipFile=SharedCode(folder).archive())
    vars(processes).update(vars(subprocess), Popen=Forks().popen)
    runtime.update(zipfile=archives, subprocess=processes)


def application() -> Any:
    """MiniStack's ASGI application."""
    return import_module("ministack.app").app


def install_http_fixes() -> None:
    """MiniStack's corrections of its HTTP server's replies."""
    import_module("ministack.core.hypercorn_compat").install()
