"""Every exception that this package raises.

::

    SchedulerError
    ├── InvalidInput             a value was refused before anything happened
    │   ├── InvalidJob           a job spec breaks its contract
    │   ├── InvalidPipeline      a pipeline file breaks its contract
    │   └── InvalidSettings      a deployment parameter or a local setting is wrong
    ├── NotFound                 the named thing does not exist
    │   ├── JobNotFound
    │   ├── SchedulerNotFound
    │   ├── EnvironmentNotFound
    │   └── QueueNotFound
    ├── Conflict                 the request contradicts what exists
    │   └── JobConflict          a live job of that id has another spec
    ├── NotPermitted             AWS refused the caller
    ├── Busy                     try again: an earlier run is still being published
    ├── SubmissionStopped        its caller stopped the submission
    ├── WaitTimeout              the wait ended before the job did
    ├── JobFailed                a job ended other than SUCCEEDED
    ├── DeployError              a stack could not be created, updated or deleted
    ├── LaptopStackError         the laptop stack could not do what was asked
    └── ServiceError             an AWS call did not give a usable answer
        ├── Throttled            definitely not done; try again later
        ├── Refused              definitely not done; trying again will not help
        └── Unknown              perhaps done, perhaps not

Each message says what was wrong, with which value, and what to do next.
"""

from __future__ import annotations


class SchedulerError(Exception):
    """Base of all exceptions of this package."""


class InvalidInput(SchedulerError):
    """A value was refused before anything happened."""


class InvalidJob(InvalidInput):
    """A job spec breaks its contract; the message names the field."""


class InvalidPipeline(InvalidInput):
    """A pipeline file breaks its contract; the message names the stage and field."""


class InvalidSettings(InvalidInput):
    """A deployment parameter or a local setting is wrong."""


class NotFound(SchedulerError):
    """The named thing does not exist."""


class JobNotFound(NotFound):
    """No job record has that id."""


class SchedulerNotFound(NotFound):
    """No scheduler stack has that name in this account and region."""


class EnvironmentNotFound(NotFound):
    """No environment stack has that name in this account and region."""


class QueueNotFound(NotFound):
    """No queue has that name."""


class Conflict(SchedulerError):
    """The request contradicts what exists."""


class JobConflict(Conflict):
    """A live job of that id has another spec, or belongs to another queue."""


class NotPermitted(SchedulerError):
    """AWS refused the caller; the message names the action."""


class Busy(SchedulerError):
    """The end of an earlier run is still being published; try again in a moment."""


class SubmissionStopped(SchedulerError):
    """Its caller stopped the submission before AWS was known to have taken the job."""


class WaitTimeout(SchedulerError):
    """The wait ended before the job did; the job goes on."""


class JobFailed(SchedulerError):
    """A job ended other than SUCCEEDED; the message carries its reason and where its output is."""


class DeployError(SchedulerError):
    """A stack could not be created, updated or deleted; the message names the resource and AWS's reason."""


class LaptopStackError(SchedulerError):
    """The laptop stack could not do what was asked."""


class ServiceError(SchedulerError):
    """An AWS call did not give a usable answer."""


class Throttled(ServiceError):
    """The call was definitely not carried out, and may be made again later."""


class Refused(ServiceError):
    """The call was definitely not carried out, and making it again will not help."""


class Unknown(ServiceError):
    """The call may or may not have been carried out: neither success nor failure may be concluded."""
