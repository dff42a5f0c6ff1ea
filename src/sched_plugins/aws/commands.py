"""AWS Systems Manager Run Command."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

from botocore.exceptions import ParamValidationError

from sched_plugins.aws.answers import ERRORS, answer, classify, code_of, detail_of, failure
from sched_plugins.aws.clients import Clients
from sched_plugins.aws.settings import Settings
from sched_plugins.core import names
from sched_plugins.core.job import LINUX_DOCUMENT, WINDOWS_DOCUMENT
from sched_plugins.core.judge import Invocation
from sched_plugins.errors import Refused, ServiceError, Throttled, Unknown
from sched_plugins.ports import Command, RefusedForJob, RefusedForWorker

if TYPE_CHECKING:
    from mypy_boto3_ssm.type_defs import GetCommandInvocationResultTypeDef

OUTPUT_PREFIX: Final = "commands"
"""Folder of the output bucket for stdout and stderr."""

_PAGE: Final = 50  # AWS, ListCommands: at most 50 a page
_LOOK_BACK: Final = 500
"""Commands of a worker, newest first, among which one is sought. A worker runs one job at a time, so that an
attempt's own command is the newest, or nearly."""
_DOCUMENT_REMEMBERED: Final = 300.0
"""Seconds for which a document's parameters are not asked for again."""

_COMMENT: Final = names.comment("", "", 0).partition(" ")[0] + " "

# AWS, SendCommand, "Errors". The first are the job's own fault, wherever it is sent.
_JOBS_FAULT: Final = frozenset({
    "DuplicateInstanceId", "InvalidDocument", "InvalidDocumentContent", "InvalidDocumentVersion", "InvalidParameters",
    "MaxDocumentSizeExceeded", "UnsupportedPlatformType", "ValidationException",
})  # fmt: skip
_WORKERS_FAULT: Final = frozenset({"InvalidInstanceId"})
# The deployment's fault: nothing was sent, for no fault of job or worker.
_SETTINGS_FAULT: Final = frozenset({"InvalidNotificationConfig", "InvalidOutputFolder", "InvalidRole"})


class RunCommands:
    """:class:`~sched_plugins.ports.Commands` on Systems Manager."""

    def __init__(self, settings: Settings, clients: Clients, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clients = clients
        self._monotonic = monotonic
        self._documents: dict[str, tuple[float, frozenset[str]]] = {}

    def send(self, command: Command) -> str:
        """Send with one total attempt, and return the command id.

        One SendCommand; before it, for a document other than the two standard ones, one DescribeDocument each
        five minutes, since a parameter that a document does not declare would be refused.

        Raises:
            RefusedForJob: definitely not sent, for the job's own fault.
            RefusedForWorker: definitely not sent, for the worker's fault.
            Refused: definitely not sent, because the caller may not, or its settings are wrong.
            Throttled: definitely not sent: Systems Manager said so, or no connection was made.
            Unknown: anything else.
        """
        given = self._declared(command.document, command.parameters)
        action = f"SendCommand of {command.document!r} to {command.worker_id}"
        try:
            reply = self._clients.ssm_once.send_command(
                InstanceIds=[command.worker_id],
                DocumentName=command.document,
                Parameters={name: list(values) for name, values in given.items()},
                Comment=command.comment,
                TimeoutSeconds=command.delivery_timeout,
                OutputS3BucketName=self._settings.needed("output_bucket"),
                OutputS3KeyPrefix=OUTPUT_PREFIX,
                CloudWatchOutputConfig={"CloudWatchOutputEnabled": False},
            )
        except ERRORS as error:
            raise _not_sent(error, action) from error
        command_id = reply.get("Command", {}).get("CommandId")
        if not command_id:
            raise failure(Unknown, action, "the reply names no command")
        return str(command_id)

    def _declared(self, document: str, parameters: Mapping[str, Sequence[str]]) -> Mapping[str, Sequence[str]]:
        """The parameters that the document declares. Whatever fails here, no command was sent."""
        if document in (LINUX_DOCUMENT, WINDOWS_DOCUMENT) or not parameters:
            return parameters
        until, known = self._documents.get(document, (0.0, frozenset()))
        if self._monotonic() >= until:
            action = f"DescribeDocument {document!r}"
            try:
                described = self._clients.ssm.describe_document(Name=document)["Document"]
            except ERRORS as error:
                refusal = _not_sent(error, action)
                if isinstance(refusal, Unknown):
                    refusal = failure(Throttled, action, detail_of(error))
                raise refusal from error
            known = frozenset(one["Name"] for one in described.get("Parameters", []))
            self._documents[document] = (self._monotonic() + _DOCUMENT_REMEMBERED, known)
        return {name: values for name, values in parameters.items() if name in known}

    def invocation(self, command_id: str, worker_id: str) -> Invocation | None:
        """The answer about a command; None while Systems Manager does not know it.

        One GetCommandInvocation. Of a document with several steps it tells the exit code and output of one step
        only when asked for that step: then two calls more find the first step that failed, or else the last.
        """
        try:
            answered = self._invocation(command_id, worker_id)
        except ERRORS as error:
            if code_of(error) == "InvocationDoesNotExist":
                return None
            if code_of(error) != "InvalidPluginName":
                raise answer(error, f"GetCommandInvocation of {command_id} on {worker_id}") from error
            return self._by_step(command_id, worker_id)
        if answered["StatusDetails"] in ("Success", "Failed") and answered["ResponseCode"] == -1:
            return self._by_step(command_id, worker_id)
        return self._read(answered)

    def _invocation(self, command_id: str, worker_id: str, **step: str) -> GetCommandInvocationResultTypeDef:
        return self._clients.ssm.get_command_invocation(CommandId=command_id, InstanceId=worker_id, **step)

    def _by_step(self, command_id: str, worker_id: str) -> Invocation | None:
        action = f"ListCommandInvocations of {command_id} on {worker_id}"
        try:
            listed = self._clients.ssm.list_command_invocations(
                CommandId=command_id, InstanceId=worker_id, Details=True
            )["CommandInvocations"]
            if not listed:
                return None
            [whole] = listed
            steps = whole.get("CommandPlugins", [])
            if not steps:
                raise failure(Unknown, action, f"the command is {whole['StatusDetails']} but shows no step")
            chosen = next((step for step in steps if step.get("ResponseCode")), steps[-1])
            answered = self._invocation(command_id, worker_id, PluginName=chosen["Name"])
        except ERRORS as error:
            raise answer(error, action) from error
        return self._read(answered | {"Status": whole["Status"], "StatusDetails": whole["StatusDetails"]})

    def _read(self, answered: Mapping[str, Any]) -> Invocation:
        return Invocation(
            command_id=answered["CommandId"],
            worker_id=answered["InstanceId"],
            comment=answered.get("Comment", ""),
            status=answered["Status"],
            details=answered["StatusDetails"],
            exit_code=answered["ResponseCode"],
            stdout=answered.get("StandardOutputContent", ""),
            stderr=answered.get("StandardErrorContent", ""),
            stdout_uri=_s3_uri(answered.get("StandardOutputUrl", ""), self._settings.output_bucket),
            stderr_uri=_s3_uri(answered.get("StandardErrorUrl", ""), self._settings.output_bucket),
            started_at=_moment(answered.get("ExecutionStartDateTime", "")),
            finished_at=_moment(answered.get("ExecutionEndDateTime", "")),
        )

    def find(self, worker_id: str, comment: str) -> str | None:
        """The id of the worker's command with this comment, newest first; None if none is listed.

        One ListCommands for each fifty until it is found, up to 500 commands back: Systems Manager lists the newest
        first.
        """
        recent = islice(self._listed(InstanceId=worker_id), _LOOK_BACK)
        return next((str(command["CommandId"]) for command in recent if command.get("Comment") == comment), None)

    def in_progress(self) -> set[str]:
        """Comments of this package's commands that are not over; one just sent may be missing.

        One ListCommands for each fifty Pending, then one for each fifty InProgress: a command that moves on
        between the two is seen by the second.
        """
        return {
            command["Comment"]
            for status in ("Pending", "InProgress")
            for command in self._listed(Filters=[{"key": "Status", "value": status}])
            if command.get("Comment", "").startswith(_COMMENT)
        }

    def cancel(self, command_id: str, worker_id: str) -> None:
        """Ask for the command to end; nothing guarantees that it does. One CancelCommand."""
        try:
            self._clients.ssm.cancel_command(CommandId=command_id, InstanceIds=[worker_id])
        except ERRORS as error:
            raise answer(error, f"CancelCommand {command_id} on {worker_id}") from error

    def is_online(self, worker_id: str) -> bool:
        """Whether the worker's agent answers. One DescribeInstanceInformation."""
        try:
            reply = self._clients.ssm.describe_instance_information(
                Filters=[{"Key": "InstanceIds", "Values": [worker_id]}]
            )
        except ERRORS as error:
            if code_of(error) in _WORKERS_FAULT:
                return False  # Systems Manager has not met this instance yet.
            raise answer(error, f"DescribeInstanceInformation of {worker_id}") from error
        return any(one["PingStatus"] == "Online" for one in reply["InstanceInformationList"])

    def _listed(self, **chosen: Any) -> Iterator[Mapping[str, Any]]:
        pages = self._clients.ssm.get_paginator("list_commands").paginate(
            **chosen, PaginationConfig={"PageSize": _PAGE}
        )
        try:
            for page in pages:
                yield from page["Commands"]
        except ERRORS as error:
            raise answer(error, "ListCommands") from error


def _not_sent(error: Exception, action: str) -> ServiceError:
    """What an error of SendCommand proves; everything not listed leaves open whether it was sent."""
    code = code_of(error)
    if code in _JOBS_FAULT or isinstance(error, ParamValidationError):
        return failure(RefusedForJob, action, detail_of(error))
    if code in _WORKERS_FAULT:
        return failure(RefusedForWorker, action, detail_of(error))
    if code in _SETTINGS_FAULT:
        return failure(Refused, action, detail_of(error))
    kind = classify(error)
    if kind is Refused and code:
        kind = Unknown
    return failure(kind, action, detail_of(error))


def _s3_uri(url: str, output_bucket: str) -> str:
    """The address of an object that Systems Manager gives as an HTTPS one, in either of S3's styles."""
    if not url or url.startswith("s3://"):
        return url
    split = urlsplit(url)
    host, path = split.hostname or "", unquote(split.path).lstrip("/")
    hosted = re.match(r"(.+)\.s3[.-]", host)
    if output_bucket and host.startswith(f"{output_bucket}."):
        return f"s3://{output_bucket}/{path}"
    return f"s3://{hosted[1]}/{path}" if hosted else f"s3://{path}"


def _moment(text: str) -> datetime | None:
    """A time as Systems Manager writes it; None if it writes none, or not one that can be read."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
