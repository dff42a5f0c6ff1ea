"""The wrapper for ``AWS-RunPowerShellScript``: PowerShell 5.1, packed with what it runs."""

from __future__ import annotations

from sched_plugins.core.job import JobSpec
from sched_plugins.core.wrapper.attempt import AttemptContext


def commands(spec: JobSpec, context: AttemptContext) -> list[str]:
    """The lines of the script for this attempt."""
    raise NotImplementedError
