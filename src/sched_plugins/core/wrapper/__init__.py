"""The script inside which every job of the two standard Systems Manager documents runs.

It starts an attempt at most once, gives it a directory and an environment, copies its files in and out, ends
it in time, and leaves no process of it behind. Nothing that a user wrote appears as text in what is sent:
it travels compressed and base64-encoded.
"""

from __future__ import annotations

from sched_plugins.core.job import WINDOWS_DOCUMENT, JobSpec
from sched_plugins.core.wrapper import linux, windows
from sched_plugins.core.wrapper.attempt import AttemptContext
from sched_plugins.core.wrapper.codes import (
    ALREADY_STARTED,
    CANCELLED,
    EXIT_REMAPPED,
    NOT_PREPARED,
    STAGE_IN_FAILED,
    STAGE_OUT_FAILED,
    STARTED_TOO_LATE,
    TIMED_OUT,
)
from sched_plugins.core.wrapper.stage import refuse_null
from sched_plugins.core.wrapper.trailer import Trailer, read_trailer
from sched_plugins.errors import InvalidJob

__all__ = [
    "ALREADY_STARTED",
    "CANCELLED",
    "EXIT_REMAPPED",
    "MAX_PARAMETERS_BYTES",
    "NOT_PREPARED",
    "STAGE_IN_FAILED",
    "STAGE_OUT_FAILED",
    "STARTED_TOO_LATE",
    "TIMED_OUT",
    "AttemptContext",
    "Trailer",
    "command_parameters",
    "read_trailer",
]

# own: the parameters of one SendCommand together, with room for the rest of the request.
MAX_PARAMETERS_BYTES = 95_000


def command_parameters(spec: JobSpec, context: AttemptContext) -> dict[str, list[str]]:
    """The parameters with which ``spec.ssm_document`` runs this attempt.

    A document other than the two standard ones gets ``spec.parameters``, unchanged.

    Raises:
        InvalidJob: the job does not fit into one command, its stage names an executable that cannot be a file,
            or a value has a null character.
    """
    if not spec.is_wrapped:
        return {name: list(values) for name, values in spec.parameters.items()}
    refuse_null(spec)
    wrap = windows.commands if spec.ssm_document == WINDOWS_DOCUMENT else linux.commands
    lines = wrap(spec, context)
    size = sum(len(line) + 1 for line in lines)
    if size > MAX_PARAMETERS_BYTES:
        raise InvalidJob(
            f"the job takes {size:,} bytes as a Systems Manager command; at most {MAX_PARAMETERS_BYTES:,} are sent. "
            "Put long scripts and data in S3 and let a short command fetch them."
        )
    return {"commands": lines, "executionTimeout": [str(spec.execution_timeout)]}
