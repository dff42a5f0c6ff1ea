"""A flow run's job: its names, its fields, and the secret that holds what nobody else may read. Makes no call.

The job id is ``prefect-<flow run id>``, however often the flow run is executed. An execution is known by how often the
flow run had started before, and by when it was to start: both stay as they are from its claim to its start, whoever
looks. Its run ids are ``<digest>-<number>``. So a worker that comes later finds the job though nobody told it, and two
that submit the same execution, at once or one long after the other, submit one run.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from sched_plugins.client import Job, JobSpec, Run, Standing
from sched_plugins.client.identity import Step, decide, digest, is_ending
from sched_plugins.client.run import standing
from sched_plugins.client.secret_store import ADVANCED_BYTES, secret_prefix
from sched_plugins.core import limits, names
from sched_plugins.core.job import LINUX_DOCUMENT, parse_spec
from sched_plugins.errors import InvalidJob
from sched_plugins.prefect.exceptions import InvalidWorkPool

PREFIX: Final = "prefect-"
SECRETS: Final = "prefect-flow-runs"
"""The folder of the flow runs' secrets among those of an environment."""
_MODULE: Final = "sched_plugins.prefect.worker.run_flow"
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def job_id_of(flow_run_id: object) -> str:
    """The job of a flow run."""
    return f"{PREFIX}{flow_run_id}"


@dataclass(frozen=True, slots=True)
class Execution:
    """One of the executions of a flow run."""

    flow_run_id: str
    run_count: int
    """How often the flow run had started before."""
    scheduled: str = ""
    """When it was to start, as text; empty for one that its creator submits, and nobody else."""

    @property
    def job_id(self) -> str:
        """Its job."""
        return job_id_of(self.flow_run_id)

    @property
    def digest(self) -> str:
        """What its run ids begin with."""
        return digest("prefect-worker", self.flow_run_id, str(self.run_count), self.scheduled)

    def is_of(self, run_id: str) -> bool:
        """Whether a run is this execution's."""
        return run_id.rpartition("-")[0] == self.digest


def secret_folder(environment: str) -> str:
    """Where in Parameter Store the secrets of an environment's flow runs are."""
    return secret_prefix(environment, SECRETS)


def secret_name(environment: str, job_id: str, run_id: str) -> str:
    """Where the secret of a run is. Each run has its own, so that the end of one does not take another's away."""
    return f"{secret_folder(environment)}/{job_id}.{run_id}"


def job_of_secret(name: str) -> str:
    """The job whose secret a parameter holds."""
    return name.rsplit("/", 1)[-1].partition(".")[0]


@dataclass(frozen=True, slots=True)
class Next:
    """What is to be done about an execution that a worker has claimed or taken over."""

    run_id: str
    is_known: bool
    """It was submitted already, and may even have ended; otherwise it is to be submitted under that id."""
    after: Run | None = None
    """A run that is being cancelled, or belongs to an earlier execution: only its end makes room."""


def next_run(execution: Execution, record: Job | None) -> Next:
    """Whether the job of an execution is to be submitted, and under which run id.

    An execution that Prefect has scheduled may be submitted by several workers, and has one run. One that its creator
    submits is the creator's alone: what has ended belongs to an earlier try.
    """
    decision = decide(execution.job_id, execution.digest, record)
    known = known_run(execution, record)
    if known is not None and (execution.scheduled or (_is_live(record) and not is_ending(decision, record))):
        return Next(known.run_id, True)
    live = Run(execution.job_id, record.run_id) if record is not None and _is_live(record) else None
    number = int(known.run_id.rpartition("-")[2]) + 1 if known is not None else 1
    return Next(f"{execution.digest}-{number}", False, live)


def known_run(execution: Execution, record: Job | None) -> Run | None:
    """The newest run of an execution, live or ended; None if it was never submitted."""
    decision = decide(execution.job_id, execution.digest, record)
    if decision.step is not Step.SUBMIT:
        return Run(execution.job_id, decision.run_id)
    head, _, number = decision.run_id.rpartition("-")
    run = Run(execution.job_id, f"{head}-{int(number) - 1}")
    return run if standing(run, record) is not Standing.MISSING else None


def _is_live(record: Job | None) -> bool:
    return record is not None and not record.is_terminal


@dataclass(frozen=True, slots=True)
class FlowRunJob:
    """What a flow run asks for."""

    execution: Execution
    environment: str
    """The environment whose workers run it."""
    region: str
    python: str
    command: str
    variables: Mapping[str, str] = field(repr=False)
    timeout_seconds: int = limits.DEFAULT_JOB_TIMEOUT
    working_directory: str = ""
    group_id: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def job_id(self) -> str:
        """Its job."""
        return self.execution.job_id

    def secret_name(self, run_id: str) -> str:
        """Where the secret of one of its runs is."""
        return secret_name(self.environment, self.job_id, run_id)

    def check(self) -> None:
        """Refuse what cannot be submitted.

        Raises:
            InvalidWorkPool: names the value and the next step.
        """
        self.secret()
        self.spec(f"{self.execution.digest}-1")

    def secret(self) -> str:
        """The command and its variables, as :mod:`.run_flow` reads them.

        Raises:
            InvalidWorkPool: a name cannot be a variable's, or it is all too large.
        """
        for name, value in self.variables.items():
            if not _VARIABLE.fullmatch(name) or "\x00" in value:
                raise InvalidWorkPool(
                    f"env has {name!r}, which cannot be a variable; names are letters, digits and _, values have no "
                    "null character"
                )
        text = json.dumps({"command": self.command, "environment": dict(self.variables)}, ensure_ascii=False)
        if (size := len(text.encode())) > ADVANCED_BYTES:
            longest = sorted(self.variables, key=lambda name: len(self.variables[name]), reverse=True)[:3]
            raise InvalidWorkPool(
                f"the command and the variables of the flow run have {size:,} bytes, and Parameter Store holds "
                f"{ADVANCED_BYTES:,}; shorten env (the longest are {', '.join(longest)}), or read large values from S3"
            )
        return text

    def spec(self, run_id: str) -> JobSpec:
        """The job. It tells where the secret is and nothing of what is in it.

        Raises:
            InvalidWorkPool: a value breaks the contract of jobs.
        """
        argv = [self.python, "-m", _MODULE, "--region", self.region, self.secret_name(run_id)]
        try:
            return parse_spec(
                {
                    "job_id": self.job_id,
                    # Whether a flow is run again is for Prefect to say. A lost machine is not charged to the job.
                    "retry": 0,
                    "ssm_document": LINUX_DOCUMENT,
                    "commands": (f"exec {shlex.join(argv)}",),
                    "timeout_seconds": self.timeout_seconds,
                    "working_directory": self.working_directory,
                    # Not the group of the jobs that the flow submits: those are cancelled together, without it.
                    "group_id": names.clip(self.group_id, limits.MAX_GROUP_ID_BYTES),
                    "tags": dict(self.tags),
                }
            )
        except InvalidJob as error:
            raise InvalidWorkPool(f"{error}; correct the work pool or the deployment's job variables") from None
