"""Tasks about stages: files in, an executable, files out; and the stages of a pipeline file in their order."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sched_plugins.client import EnvironmentClient
from sched_plugins.client.output import DEFAULT_MAXIMUM
from sched_plugins.client.stage_files import (
    check_executable,
    job_folder,
    local_inputs,
    store_inputs,
    stored_executable,
)
from sched_plugins.errors import InvalidInput
from sched_plugins.prefect.blocks.scheduler import as_scheduler
from sched_plugins.prefect.cancellation import asubmitting, cancelling
from sched_plugins.prefect.identity import Caller, CallIdentity
from sched_plugins.prefect.output import run_logger
from sched_plugins.prefect.records import JobHandle, JobResult
from sched_plugins.prefect.submission import check_free, handle_of, submit_one
from sched_plugins.prefect.tasks.dispatch import aio, dual
from sched_plugins.prefect.tasks.jobs import SchedulerLike, finished, live_changes
from sched_plugins.prefect.waiting import await_each, check_timeout, wait_each

FolderLike = str | JobResult
"""An S3 folder, or the result of the stage that wrote it."""


@aio(name="run_stage")
async def arun_stage(
    executable: str | Path,
    *,
    environment: str = "",
    scheduler: SchedulerLike = None,
    inputs: FolderLike | Sequence[FolderLike] = (),
    input_names: Sequence[str] = (),
    input_folder: str | Path | None = None,
    results_uri: str = "",
    parameters: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
    job_key: str | None = None,
    timeout: float | None = None,
    check: bool = True,
    cancel_on_interrupt: bool = True,
    max_log_characters: int = DEFAULT_MAXIMUM,
) -> JobResult:
    """As :func:`run_stage`, for async code."""
    stage = _Stage(
        str(executable), inputs, tuple(input_names), input_folder, results_uri, parameters, settings or {}, tags or {}
    )
    check_timeout(timeout)
    caller, client = Caller(job_key), await asyncio.to_thread(environment_of, scheduler, environment)
    identity = await asyncio.to_thread(stage.identity, caller, client.name)
    own = [handle_of(client, identity.job_id)] if cancel_on_interrupt else []
    handle = await asubmitting(client, caller.root_id, lambda: stage.start(client, identity), own)
    ended = await await_each(
        client, [handle], timeout=timeout, root_id=caller.root_id, cancel=cancel_on_interrupt,
        on_change=live_changes(),
    )  # fmt: skip
    return await asyncio.to_thread(finished, client, ended[handle.job_id], check, max_log_characters)


@dual(arun_stage, name="run_stage")
def run_stage(
    executable: str | Path,
    *,
    environment: str = "",
    scheduler: SchedulerLike = None,
    inputs: FolderLike | Sequence[FolderLike] = (),
    input_names: Sequence[str] = (),
    input_folder: str | Path | None = None,
    results_uri: str = "",
    parameters: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
    job_key: str | None = None,
    timeout: float | None = None,
    check: bool = True,
    cancel_on_interrupt: bool = True,
    max_log_characters: int = DEFAULT_MAXIMUM,
) -> JobResult:
    """Start an executable in an environment with files around it, wait for it, and return how it ended.

    The files of ``inputs`` lie in the executable's working directory; what it writes is copied to the result's
    ``results_uri``. A retry attaches to the live job, or takes the result of the one that succeeded.

    Args:
        executable: what runs: a local file, which is uploaded by its content; an S3 address; or an absolute path on
            the worker's image.
        environment: the environment's stack name; by default the block's.
        scheduler: a block or a stack name; by default the environment's scheduler.
        inputs: S3 folders, or results of earlier stages.
        input_names: subdirectories for several inputs.
        input_folder: a local folder whose files are uploaded, as a further input.
        results_uri: the S3 folder of the results; by default one of the job's own in the environment's bucket.
        parameters: given to the executable as JSON in ``SCHED_PARAMETERS``.
        settings: other fields of the job, ahead of the environment's: ``retry``, ``timeout_seconds``, …
        tags: free labels.
        job_key: who the job is within the flow run, as of ``run_job``.
        timeout: seconds to wait; without end by default.
        check: raise if it did not succeed.
        cancel_on_interrupt: cancel the job when the task is interrupted.
        max_log_characters: how much of its output the log shows; 0 for none.

    Raises:
        NotFound: a file, folder or environment that does not exist; nothing was submitted.
        JobRunFailed: with ``check``: it failed. JobRunCancelled: it was cancelled.
        JobWaitTimeout: it had not ended in time; it goes on.
    """
    stage = _Stage(
        str(executable), inputs, tuple(input_names), input_folder, results_uri, parameters, settings or {}, tags or {}
    )
    check_timeout(timeout)
    caller, client = Caller(job_key), environment_of(scheduler, environment)
    identity = stage.identity(caller, client.name)
    own = [handle_of(client, identity.job_id)] if cancel_on_interrupt else []
    with cancelling(client, own, caller.root_id, late=True):
        handle = stage.start(client, identity)
        ended = wait_each(
            client, [handle], timeout=timeout, root_id=caller.root_id, cancel=cancel_on_interrupt,
            on_change=live_changes(),
        )  # fmt: skip
    return finished(client, ended[handle.job_id], check, max_log_characters)


@dataclass(frozen=True)
class _Stage:
    """What a stage is started with."""

    executable: str
    inputs: FolderLike | Sequence[FolderLike]
    input_names: tuple[str, ...]
    input_folder: str | Path | None
    results_uri: str
    parameters: Mapping[str, Any] | None
    settings: Mapping[str, Any] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)

    def identity(self, caller: Caller, environment: str) -> CallIdentity:
        """Who the stage's job is. Reads the local files: other content is another job.

        Raises:
            NotFound: there is no such file or folder.
            InvalidInput: an input is no folder's address.
        """
        check_free(self.settings, in_flow=bool(caller.root_id))
        path = Path(check_executable(self.executable))
        is_local = path.is_file() and not self.executable.startswith("s3://")
        return caller.identity(
            {
                "executable": _content(path) if is_local else self.executable,
                "environment of the call": environment,
                "inputs": self._folders(),
                "input_names": self.input_names,
                "files": [(file.name, _content(file)) for file in local_inputs(self.input_folder)],
                "results_uri": self.results_uri,
                "parameters": self.parameters,
                "settings": self.settings,
            }
        )

    def start(self, client: EnvironmentClient, identity: CallIdentity) -> JobHandle:
        """Upload what is local, then start the stage, unless it is live or has succeeded."""
        files, inputs = local_inputs(self.input_folder), self._folders()
        logger = run_logger()

        def submit(run_id: str) -> Any:
            stored = [*inputs, *([self.executable] if self.executable.startswith("s3://") else [])]
            client.require_stored(stored)
            executable = stored_executable(client, self.executable)
            given, names = list(inputs), list(self.input_names)
            if files:
                # Of the run, so that another run of the same job, which may be live, keeps what it was given.
                folder = f"{job_folder(client.bucket, identity.job_id)}_input/{run_id}/"
                store_inputs(client, files, str(self.input_folder), folder)
                given.append(folder)
                names += ["input"] if names else []
            return client.start_stage(
                executable=executable,
                outputs=[self.results_uri or f"{job_folder(client.bucket, identity.job_id)}results/"],
                job_id=identity.job_id,
                inputs=given,
                input_names=names if len(given) > 1 else [],
                parameters=self.parameters,
                settings={**self.settings, **({"group_id": identity.group_id} if identity.group_id else {})},
                tags={**self.tags, **identity.tags},
                run_id=run_id,
            )

        return submit_one(client, identity, submit, lambda text: logger.info("The job %s", text))

    def _folders(self) -> list[str]:
        if not isinstance(self.inputs, (str, JobResult, Iterable)):
            raise InvalidInput(
                f"inputs is {str(self.inputs)[:120]!r} ({type(self.inputs).__name__}); give an s3:// folder, a stage's "
                "result, or a list of them"
            )
        given = [self.inputs] if isinstance(self.inputs, (str, JobResult)) else list(self.inputs)
        folders = []
        for one in given:
            uri = one.results_uri if isinstance(one, JobResult) else one
            if not isinstance(uri, str) or not uri:
                raise InvalidInput(
                    f"inputs has {str(one)[:120]!r}, which is no folder's address and no stage's result; give s3:// "
                    "folders, or what run_stage returned"
                )
            folders.append(uri if uri.endswith("/") else f"{uri}/")
        return folders


def _content(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def environment_of(scheduler: SchedulerLike, environment: str) -> EnvironmentClient:
    """The environment that runs a stage."""
    return as_scheduler(scheduler, environment=environment).environment_client(environment)
