"""What both wrappers derive from a job spec: the variables of the job and the names of its files."""

from __future__ import annotations

import json
from typing import Final
from urllib.parse import quote

from sched_plugins.core.job import JobSpec, Stage
from sched_plugins.core.wrapper.attempt import AttemptContext
from sched_plugins.errors import InvalidJob

MAX_FILE_NAME_BYTES: Final = 255  # ext4 and XFS; NTFS allows 255 UTF-16 units


def refuse_null(spec: JobSpec) -> None:
    """Refuse a null character, which no path, argument or variable can hold.

    Raises:
        InvalidJob: names the value that has one.
    """
    texts = [spec.working_directory, spec.job_id, *spec.commands, *spec.environment.values()]
    if spec.stage is not None:
        texts += [spec.stage.executable, *spec.stage.inputs, spec.stage.output, *spec.stage.outputs_too]
    for text in texts:
        if "\0" in text:
            raise InvalidJob(f"{text[:200]!r} contains a null character")


def job_variables(spec: JobSpec, context: AttemptContext) -> dict[str, str]:
    """The environment variables that tell a job what it is. They win over the job's own of the same name.

    ``SCHED_METRICS`` and ``SCHED_ATTEMPT_KEY`` are set on the worker.
    """
    variables = {
        "SCHED_JOB_ID": context.job_id,
        "SCHED_RUN_ID": context.run_id,
        "SCHED_ATTEMPT": str(context.attempt),
        "SCHED_QUEUE": context.queue,
    }
    if spec.stage is not None:
        variables["SCHED_PARAMETERS"] = json.dumps(spec.stage.stage_parameters, ensure_ascii=False)
        variables["SCHED_OUTPUT_URI"] = spec.stage.output
    return variables


def own_variables(spec: JobSpec, context: AttemptContext) -> dict[str, str]:
    """The spec's environment without the names that are the scheduler's."""
    taken = {*job_variables(spec, context), "SCHED_METRICS", "SCHED_ATTEMPT_KEY"}
    return {name: value for name, value in spec.environment.items() if name not in taken}


def executable_name(stage: Stage) -> str:
    """The base name of the executable.

    Raises:
        InvalidJob: no file can have that name.
    """
    name = stage.executable.rpartition("/")[2]
    if name in ("", ".", "..") or len(name.encode()) > MAX_FILE_NAME_BYTES:
        raise InvalidJob(
            f"the executable {stage.executable[:200]!r} cannot be a file: its last part must be a file name "
            f"of at most {MAX_FILE_NAME_BYTES} bytes"
        )
    return name


def executable_path(stage: Stage) -> tuple[str, bool]:
    """Where an executable in S3 is in the working directory, and whether it comes there with the inputs."""
    name = executable_name(stage)
    folder = stage.executable.removesuffix(name)
    if folder not in stage.inputs:
        return name, False
    subdirectory = input_directories(stage)[stage.inputs.index(folder)]
    return (f"{subdirectory}/{name}" if subdirectory else name), True


def input_directories(stage: Stage) -> tuple[str, ...]:
    """The subdirectory of each input: none for a single input, its name for one of several."""
    return ("",) if len(stage.inputs) == 1 else stage.input_names[: len(stage.inputs)]


def key_prefix(folder: str) -> str:
    """The key of a folder given by its S3 address."""
    return folder.removeprefix("s3://").partition("/")[2]


def list_request(folder: str) -> str:
    """The ListObjectsV2 request for a folder, as JSON; in this form the AWS CLI reads no ``file://`` in a key."""
    bucket = folder.removeprefix("s3://").partition("/")[0]
    return json.dumps({"Bucket": bucket, "Prefix": key_prefix(folder)})


def metadata_value(text: str) -> str:
    """Text as S3 metadata can carry it: percent-encoded UTF-8, since metadata is ASCII and ``,`` and ``=`` separate."""
    return quote(text, safe="")
