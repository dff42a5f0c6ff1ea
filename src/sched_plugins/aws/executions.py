"""The worker state machine on AWS Step Functions."""

from __future__ import annotations

import json
from typing import Final

from sched_plugins.aws.answers import ERRORS, answer, code_of
from sched_plugins.aws.clients import Clients
from sched_plugins.aws.settings import Settings
from sched_plugins.core import names
from sched_plugins.core.slot import Slot, Wake

# The token was completed already, or its task or execution has ended: nobody waits for it.
_DEAD_TOKEN: Final = frozenset({"InvalidToken", "TaskDoesNotExist", "TaskTimedOut"})
_PAGE: Final = 1000  # AWS, ListExecutions: at most 1,000 a page


class StepFunctionsExecutions:
    """:class:`~sched_plugins.ports.Executions` on Step Functions."""

    def __init__(self, settings: Settings, clients: Clients) -> None:
        self._settings = settings
        self._clients = clients

    def start(self, slot: Slot) -> None:
        """Start the slot's execution of its present number; "already exists" is success. One StartExecution.

        The input depends on nothing but slot and number, so that a repetition is one for Step Functions too.
        """
        arn = self._settings.needed("state_machine_arn")
        name = names.execution(slot.slot_id, slot.execution)
        given = {"slot_id": slot.slot_id, "worker_id": slot.worker_id, "execution": slot.execution}
        try:
            self._clients.stepfunctions.start_execution(stateMachineArn=arn, name=name, input=json.dumps(given))
        except ERRORS as error:
            if code_of(error) != "ExecutionAlreadyExists":
                raise answer(error, f"StartExecution {name!r}") from error

    def running(self) -> set[str]:
        """Names of the running executions; one just started may be missing. One ListExecutions a thousand."""
        arn = self._settings.needed("state_machine_arn")
        pages = self._clients.stepfunctions.get_paginator("list_executions").paginate(
            stateMachineArn=arn, statusFilter="RUNNING", PaginationConfig={"PageSize": _PAGE}
        )
        try:
            return {execution["name"] for page in pages for execution in page["executions"]}
        except ERRORS as error:
            raise answer(error, f"ListExecutions of {arn!r}") from error

    def wake(self, wake: Wake) -> bool:
        """Complete a task token with its verdict. False: the token is dead. One SendTaskSuccess."""
        output = json.dumps({"verdict": wake.verdict})
        try:
            self._clients.stepfunctions.send_task_success(taskToken=wake.token, output=output)
        except ERRORS as error:
            if code_of(error) in _DEAD_TOKEN:
                return False
            raise answer(error, "SendTaskSuccess") from error
        return True
