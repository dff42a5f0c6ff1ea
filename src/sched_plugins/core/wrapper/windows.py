"""The wrapper for ``AWS-RunPowerShellScript``: a script for Windows PowerShell 5.1, packed with what it runs."""

from __future__ import annotations

from sched_plugins.core.job import JobSpec, Stage
from sched_plugins.core.wrapper.attempt import AttemptContext
from sched_plugins.core.wrapper.script import pack, program
from sched_plugins.core.wrapper.stage import (
    executable_path,
    input_directories,
    job_variables,
    key_prefix,
    metadata_value,
    own_variables,
)

# The first element is the program, the others are its values; none of them can hold the null that separates them.
_BOOTSTRAP = """\
$ErrorActionPreference = 'Stop'
$ProgressPreference = 'SilentlyContinue'
$p = '@PACKED@'
$b = New-Object IO.MemoryStream (,[Convert]::FromBase64String($p))
$z = New-Object IO.Compression.GZipStream $b, ([IO.Compression.CompressionMode]::Decompress)
$values = (New-Object IO.StreamReader $z, ([Text.Encoding]::UTF8)).ReadToEnd().Split([char]0)
$wrapper, $values = $values
. ([ScriptBlock]::Create($wrapper))
"""


def commands(spec: JobSpec, context: AttemptContext) -> list[str]:
    """The lines of the script for this attempt. No value is in it as text."""
    text = "\0".join((program("windows.ps1", "windows_stage.ps1", "windows_main.ps1"), *_values(spec, context)))
    return _BOOTSTRAP.replace("@PACKED@", pack(text)).splitlines()


def _values(spec: JobSpec, context: AttemptContext) -> list[str]:
    variables = own_variables(spec, context) | job_variables(spec, context)
    values = [
        context.key,
        str(int(context.start_by)),
        str(spec.timeout_seconds),
        spec.working_directory,
        "\r\n".join(spec.commands) + "\r\n",
        "" if spec.stage is None else "1",
        str(len(variables)),
        *(part for pair in variables.items() for part in pair),
    ]
    return values if spec.stage is None else [*values, *_stage_values(spec.stage, context)]


def _stage_values(stage: Stage, context: AttemptContext) -> list[str]:
    path, is_input = executable_path(stage) if stage.executable.startswith("s3://") else ("", False)
    outputs = (stage.output, *stage.outputs_too)
    inputs = [
        (uri, directory, str(key_prefix(uri).count("/")))
        for uri, directory in zip(stage.inputs, input_directories(stage), strict=True)
    ]
    return [
        stage.executable,
        path,
        "1" if is_input else "",
        metadata_value(stage.writer),
        metadata_value(context.run_id),
        str(len(inputs)),
        *(part for item in inputs for part in item),
        str(len(outputs)),
        *outputs,
        f"{stage.output}_sched/attempts/{context.attempt}/",
    ]
