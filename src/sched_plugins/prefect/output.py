"""What a task's log says of its jobs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import chain
from typing import Any, Final

from prefect.exceptions import MissingContextError
from prefect.logging import get_logger, get_run_logger

from sched_plugins.client import Job, Status
from sched_plugins.client.output import DEFAULT_MAXIMUM, STDERR_MAXIMUM, write_lines
from sched_plugins.errors import SchedulerError
from sched_plugins.prefect.submission import JobClientLike

BATCH_STDERR: Final = 2_000
"""Characters of stderr of each failed job of a batch that is shown."""
Logger = logging.Logger | logging.LoggerAdapter[Any]


def run_logger() -> Logger:
    """The log of the present run, or outside of one that of the collection."""
    try:
        return get_run_logger()
    except MissingContextError:
        return get_logger("sched_plugins")


def tell_change(logger: Logger) -> Callable[[Job], None]:
    """Tells of each change of a job that is seen."""

    def tell(job: Job) -> None:
        where = f" on worker {job.worker_id}" if job.worker_id else ""
        again = f", attempt {job.attempt}" if job.attempt > 1 else ""
        why = f": {job.status_reason}" if job.status_reason and job.status is not Status.SUCCEEDED else ""
        logger.info("%s%s%s (%s)%s", job.status, where, again, job.job_id, why)

    return tell


def tell_output(client: JobClientLike, job: Job, logger: Logger, maximum: int = DEFAULT_MAXIMUM) -> None:
    """Show what a job has written to stdout, and of one that failed to stderr. What cannot be read is told of."""

    def say(line: str) -> None:
        logger.info("%s", line)

    try:
        if maximum and not write_lines(client.logs(job.job_id), say, maximum):
            logger.info("… the output goes on; the whole of it: %s", job.stdout_uri)
    except SchedulerError as error:
        # How the job ended, and not whether its output can be shown, decides about the task.
        logger.warning("The output of job %s cannot be shown here: %s", job.job_id, error)
    if job.status is Status.FAILED:
        tell_stderr(client, job, logger, STDERR_MAXIMUM)


def tell_stderr(client: JobClientLike, job: Job, logger: Logger, maximum: int) -> None:
    """Show what a job has written to stderr, if anything."""
    try:
        chunks = client.logs(job.job_id, stream="stderr")
        if (first := next(chunks, None)) is not None:
            logger.error("stderr of job %s:", job.job_id)
            if not write_lines(chain([first], chunks), lambda line: logger.error("  %s", line), maximum):
                logger.error("  … the whole of it: %s", job.stderr_uri)
    except SchedulerError as error:
        logger.warning("The stderr of job %s cannot be shown here: %s", job.job_id, error)
