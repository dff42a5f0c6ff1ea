"""Every exception that the provider raises.

::

    AirflowException
    └── SchedulerException            its __cause__ is the client's error, of sched_plugins.errors
        ├── InvalidRequestException     a value was refused; nothing was submitted
        ├── NotFoundException           no such scheduler, environment, queue, job, file
        ├── ConflictException           the job id is in use, or a later run has taken the place of this one
        ├── NotPermittedException       AWS refused the connection's credentials
        ├── WaitTimeoutException        the wait ended before the job; the job goes on
        ├── JobFailedException          a job ended FAILED or REJECTED
        │   └── JobCancelledException     … CANCELLED
        └── ServiceException            AWS, or the laptop stack, gave no usable answer

All of them are retried as the task's ``retries`` say. Each message names the value and the next step.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from airflow.sdk.exceptions import AirflowException

from sched_plugins import errors


class SchedulerException(AirflowException):
    """Base of the provider's exceptions."""


class InvalidRequestException(SchedulerException):
    """A value was refused before anything was submitted."""


class NotFoundException(SchedulerException):
    """The named scheduler, environment, queue, job or file does not exist."""


class ConflictException(SchedulerException):
    """The job id is in use by another job, or a later run has taken the place of the task's own."""


class NotPermittedException(SchedulerException):
    """AWS refused the credentials of the connection."""


class WaitTimeoutException(SchedulerException):
    """The wait ended before the job did; the job goes on."""


class JobFailedException(SchedulerException):
    """A job ended otherwise than SUCCEEDED."""


class JobCancelledException(JobFailedException):
    """A job was cancelled."""


class ServiceException(SchedulerException):
    """AWS, or the laptop stack, gave no usable answer."""


_KINDS: Final[tuple[tuple[type[errors.SchedulerError], type[SchedulerException]], ...]] = (
    (errors.InvalidInput, InvalidRequestException),
    (errors.NotFound, NotFoundException),
    (errors.Conflict, ConflictException),
    (errors.NotPermitted, NotPermittedException),
    (errors.WaitTimeout, WaitTimeoutException),
    (errors.JobFailed, JobFailedException),
    (errors.SchedulerError, ServiceException),
)


def as_airflow(error: errors.SchedulerError | SchedulerException) -> SchedulerException:
    """The provider's exception for an error of the client; one of the provider's own as it is."""
    if isinstance(error, SchedulerException):
        return error
    return next(kind for cause, kind in _KINDS if isinstance(error, cause))(str(error))


@contextmanager
def translated() -> Iterator[None]:
    """Turn the client's errors into the provider's, with the original as the cause."""
    try:
        yield
    except errors.SchedulerError as error:
        raise as_airflow(error) from error


def named(kind: str, message: str) -> SchedulerException:
    """The exception of that name, as a trigger's event tells it."""
    known = {one.__name__: one for _, one in _KINDS}
    return known.get(kind, ServiceException)(message)
