"""Exit codes with which the wrapper itself ends a command, instead of the job's own.

A job that happens to exit with one of :data:`RESERVED`, or with a code to which the Systems Manager agent
gives a meaning of its own, ends its command with :data:`EXIT_REMAPPED`; the trailer carries the real code.
"""

from __future__ import annotations

from typing import Final

ALREADY_STARTED: Final = 221
"""The attempt was started before (the agent ran the document again). Nothing was run, and whatever the
first start had left running has been killed: the attempt is over, through no fault of the job."""
STARTED_TOO_LATE: Final = 222
"""``start_by`` had passed; nothing was run."""
STAGE_IN_FAILED: Final = 223
"""The attempt's files could not be fetched; nothing was run."""
STAGE_OUT_FAILED: Final = 224
"""The executable exited 0, but its results could not be stored."""
NOT_PREPARED: Final = 225
"""A directory or file that the attempt needs could not be made; nothing was run."""
EXIT_REMAPPED: Final = 226
"""The job ended with a code that would be misunderstood; the trailer has it."""
TIMED_OUT: Final = 124
"""The job ran longer than its own timeout; as GNU ``timeout`` says it. The trailer gives the reason."""
CANCELLED: Final = 143
"""The wrapper was told to end (SIGTERM): 128 + 15, as a shell says it."""

RESERVED: Final = (ALREADY_STARTED, STARTED_TOO_LATE, STAGE_IN_FAILED, STAGE_OUT_FAILED, NOT_PREPARED, EXIT_REMAPPED)

# Source: amazon-ssm-agent, agent/appconfig (RebootExitCode) and agent/plugins/pluginutil (GetStatus): the first
# means "reboot and run me again", the second is how the agent marks a command that it stopped itself, so
# that a job killed for lack of memory (128 + 9) would be reported as timed out.
AGENT_CODES_LINUX: Final = (194, 137)
AGENT_CODES_WINDOWS: Final = (3010, -1)
