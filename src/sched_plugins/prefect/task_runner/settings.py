"""What the jobs of a task runner are, and the secret that tells them how to reach Prefect."""

from __future__ import annotations

import json
import logging
import shlex
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import uuid4

from sched_plugins.client import EnvironmentClient
from sched_plugins.client.secret_store import SecretStore, secret_prefix
from sched_plugins.client.submission import job_entry
from sched_plugins.core import limits, names
from sched_plugins.core.job import LINUX_DOCUMENT
from sched_plugins.core.state import LIVE, Status
from sched_plugins.errors import InvalidInput, InvalidSettings, SchedulerError
from sched_plugins.prefect.identity import CallIdentity, group_id

log = logging.getLogger(__name__)
KIND: Final = "prefect-tasks"
MODULE: Final = "sched_plugins.prefect.task_runner.run_tasks"
OWN_TAGS: Final = 8
"""Labels that a job has besides the user's."""
_LEFT_AFTER: Final = timedelta(seconds=limits.MAX_EXECUTION_TIMEOUT + 86_400)
"""A secret that was written so long ago is not that of a runner at work, unless its flow run has live jobs."""
_SWEEP_SECONDS: Final = 3600.0
_SWEPT: dict[str, float] = {}
_OF_THIS_MACHINE: Final = (
    "PREFECT_HOME", "PREFECT_LOCAL_STORAGE_PATH", "PREFECT_LOGGING_SETTINGS_PATH", "PREFECT_PROFILES_PATH",
    "PREFECT_SERVER_",
)  # fmt: skip
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1", "0.0.0.0"})  # noqa: S104 - recognised, not listened on


@dataclass(frozen=True, slots=True)
class JobSettings:
    """What all jobs of a runner have in common."""

    environment: str = ""
    python: str = ""
    timeout_seconds: int | None = None
    retry: int = 0
    tags: Mapping[str, str] = field(default_factory=dict)
    bundle: int = 1
    env: Mapping[str, str] = field(default_factory=dict)
    api_url: str = ""
    kms_key_id: str = ""

    def check(self) -> None:
        """Refuse what cannot be.

        Raises:
            InvalidInput: names the argument, its value and the rule.
        """
        if isinstance(self.bundle, bool) or not isinstance(self.bundle, int) or not 1 <= self.bundle <= 1000:
            raise InvalidInput(f"bundle is {self.bundle!r}; give how many tasks of a map one job runs, 1 to 1000")
        for name, value in (("tags", self.tags), ("env", self.env)):
            texts = [text for pair in value.items() for text in pair] if isinstance(value, Mapping) else [None]
            if not all(isinstance(text, str) for text in texts):
                raise InvalidInput(f"{name} is {value!r}; give a mapping of texts to texts")
        if len(self.tags) > limits.MAX_TAGS - OWN_TAGS:
            raise InvalidInput(f"tags has {len(self.tags)} labels; at most {limits.MAX_TAGS - OWN_TAGS} are allowed")
        for name in self.env:
            if not name.isidentifier() or not name.isascii():
                raise InvalidInput(f"env has {name!r}, which is no name of a variable ([A-Za-z_][A-Za-z0-9_]*)")
        if self.api_url and urlsplit(self.api_url).scheme not in ("http", "https"):
            raise InvalidInput(f"api_url is {self.api_url!r}; write it as http(s)://HOST[:PORT]/api")
        if self.environment:
            names.check_stack_name(self.environment)
        job_entry({"commands": ["true"], **self._fields()})

    def _fields(self) -> dict[str, Any]:
        timeout = {} if self.timeout_seconds is None else {"timeout_seconds": self.timeout_seconds}
        return {"retry": self.retry, "ssm_document": LINUX_DOCUMENT, "tags": dict(self.tags), **timeout}

    def job(self, identity: CallIdentity, arguments: Sequence[str], *, is_loopback: bool) -> dict[str, Any]:
        """The job of some calls. It tells where their payload is and nothing of what is in it."""
        # The workers of a laptop stack are processes of this machine.
        python = self.python or (sys.executable if is_loopback else "python3")
        fields = self._fields()
        fields["tags"] = {**identity.tags, **fields["tags"]}
        return {
            **fields,
            "job_id": identity.job_id,
            "commands": (f"exec {shlex.join((python, '-m', MODULE, *arguments))}",),
            **({"group_id": identity.group_id} if identity.group_id else {}),
        }


def job_variables(settings: JobSettings, known: Mapping[str, str], *, is_loopback: bool) -> dict[str, str]:
    """The environment of the jobs' processes: the Prefect settings of this one, and the user's variables.

    Args:
        settings: of the jobs.
        known: the settings that are set in this process, as environment variables.
        is_loopback: whether the workers are processes of this machine.

    Raises:
        InvalidSettings: the workers could not reach Prefect's API.
    """
    variables = {name: value for name, value in known.items() if not name.startswith(_OF_THIS_MACHINE)}
    url = settings.api_url or settings.env.get("PREFECT_API_URL") or variables.get("PREFECT_API_URL", "")
    if not url:
        raise InvalidSettings(
            "tasks that run as jobs report to Prefect's API, and PREFECT_API_URL is not set: start a server "
            "(`prefect server start`) and set it, or give the runner api_url="
        )
    if not is_loopback and not settings.api_url and (urlsplit(url).hostname or "") in _LOOPBACK:
        raise InvalidSettings(
            f"PREFECT_API_URL is {url!r}, which no worker on AWS can reach; give the runner api_url= as workers see it"
        )
    # The flow's process has compared the versions already; each job would ask again. Outside flows logs have no place.
    own = {
        "PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED": "false",
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    }
    return {**own, **variables, **settings.env, "PREFECT_API_URL": url}


class JobSecret:
    """The encrypted parameter that the jobs of one runner read, written once and deleted when the runner ends.

    Args:
        client: the environment's.
        owner: whose jobs they are.
        text: what it says.
        kms_key_id: the key; empty for the account's own.
    """

    def __init__(self, client: EnvironmentClient, owner: str, variables: Mapping[str, str], kms_key_id: str) -> None:
        self.name = f"{secret_prefix(client.name, KIND)}/{owner}.{uuid4().hex[:8]}"
        self._client = client
        self._text = json.dumps(dict(variables))
        self._store = SecretStore(client.connection, kms_key_id, 1)
        self._is_written = False

    def write(self) -> None:
        """Write it, unless it is there. One PutParameter.

        Raises:
            SchedulerError: it could not be written.
        """
        if self._is_written:
            return
        error = self._store.put_many({self.name: self._text})[self.name]
        if error is not None:
            raise error
        self._is_written = True

    def delete(self) -> None:
        """Delete it, if it was written; what remains is swept up by a later runner."""
        try:
            if self._is_written:
                self._store.delete_many([self.name])
        except SchedulerError as error:
            log.warning("The secret %s of a task runner is left behind: %s", self.name, error)
        finally:
            self._store.close()

    def sweep(self) -> None:
        """Delete what runners have left that were killed: once an hour in a process.

        One DescribeParameters for fifty of what is there, and a few queries for each that is found.
        """
        prefix, now = secret_prefix(self._client.name, KIND), time.monotonic()
        if now - _SWEPT.get(prefix, float("-inf")) < _SWEEP_SECONDS:
            return
        _SWEPT[prefix] = now
        try:
            names_ = self._store.written_before(prefix, datetime.now(UTC) - _LEFT_AFTER)
            self._store.delete_many(self._unused(names_))
        except SchedulerError as error:
            log.debug("Secrets that were left by task runners are not swept up now: %s", error)

    def _unused(self, found: Iterable[str]) -> list[str]:
        live = {Status.QUEUED, *LIVE}
        unused = []
        for name in found:
            owner = name.rsplit("/", 1)[-1].partition(".")[0]
            if not self._client.list(statuses=live, group=group_id(owner), limit=1):
                unused.append(name)
        return unused
