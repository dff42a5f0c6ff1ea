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
    """Each name, the number of its values, and these."""
    variables = own_variables(spec, context) | job_variables(spec, context)
    named = {
        "attempt": [context.key],
        "startBy": [str(int(context.start_by))],
        "limit": [str(spec.timeout_seconds)],
        "directory": [spec.working_directory],
        "variables": [text for pair in variables.items() for text in pair],
        "commands": ["\r\n".join(spec.commands) + "\r\n"],
    }
    if spec.stage is not None:
        named |= _stage_values(spec.stage, context)
    return [text for name, values in named.items() for text in (name, str(len(values)), *values)]


def _stage_values(stage: Stage, context: AttemptContext) -> dict[str, list[str]]:
    path, is_input = executable_path(stage) if stage.executable.startswith("s3://") else ("", False)
    inputs = zip(stage.inputs, input_directories(stage), strict=True)
    return {
        "executable": [stage.executable],
        "executablePath": [path],
        "executableIsInput": ["1"] if is_input else [],
        "inputs": [text for uri, name in inputs for text in (uri, name, str(key_prefix(uri).count("/")))],
        "outputs": [stage.output, *stage.outputs_too],
        "attemptOutput": [f"{stage.output}_sched/attempts/{context.attempt}/"],
        "writer": [metadata_value(stage.writer)],
        "writerRun": [metadata_value(context.run_id)],
    }
