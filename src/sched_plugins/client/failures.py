"""What an error of an AWS call means to a user, and what to do next."""

from __future__ import annotations

from typing import Final

from botocore import exceptions as botocore
from botocore.exceptions import BotoCoreError, ClientError

from sched_plugins.errors import (
    EnvironmentNotFound,
    InvalidSettings,
    LaptopStackError,
    NotFound,
    NotPermitted,
    Refused,
    SchedulerError,
    Throttled,
    Unknown,
)

# The codes with which AWS services say the same thing; each service has names of its own.
_MISSING: Final = frozenset(
    {
        "ResourceNotFoundException", "NoSuchKey", "NoSuchBucket", "404", "QueueDoesNotExist",
        "AWS.SimpleQueueService.NonExistentQueue", "InvocationDoesNotExist", "InvalidInstanceID.NotFound",
        "InvalidInstanceID.Malformed", "InvalidID",
    }
)  # fmt: skip
_THROTTLED: Final = frozenset(
    {
        "ThrottlingException", "Throttling", "ThrottledException", "TooManyRequestsException", "SlowDown",
        "RequestLimitExceeded", "ProvisionedThroughputExceededException", "RequestThrottled", "BandwidthLimitExceeded",
        "LimitExceededException", "EC2ThrottledException", "TooManyUpdates",
    }
)  # fmt: skip
_DENIED: Final = frozenset(
    {"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "AuthFailure", "403", "AllAccessDisabled",
     "KMSAccessDeniedException"}
)  # fmt: skip
_CREDENTIALS: Final = frozenset(
    {
        "ExpiredToken", "ExpiredTokenException", "RequestExpired", "InvalidClientTokenId", "InvalidAccessKeyId",
        "UnrecognizedClientException", "SignatureDoesNotMatch", "InvalidSignatureException", "InvalidToken",
        "MissingAuthenticationToken", "OptInRequired",
    }
)  # fmt: skip
_UNREACHED: Final = (botocore.EndpointConnectionError, botocore.ConnectTimeoutError, botocore.ProxyConnectionError)
_LAPTOP: Final = '`eval "$(sched local env)"`'
_SIGN_IN: Final = (
    "Sign in (`aws configure`, `aws sso login`), or choose a profile (--profile, AWS_PROFILE); "
    f"for the laptop stack, run {_LAPTOP}."
)
_START_LAPTOP: Final = (
    f"The laptop stack is not running there; start it with `sched local up`, and run {_LAPTOP} again: its port may be "
    "another one."
)
GIVE_REGION: Final = (
    "give one (--region, AWS_REGION or AWS_DEFAULT_REGION, or a profile that has one); "
    f"for the laptop stack, run {_LAPTOP}"
)


def missing_environment(name: str, place: str) -> EnvironmentNotFound:
    """What is told of an environment that is not there."""
    return EnvironmentNotFound(
        f"there is no environment {name!r} in {place}. Deploy it with `sched deploy environment {name} "
        "--scheduler NAME`, or check its name and the region."
    )


def explain(
    error: ClientError | BotoCoreError, what: str, place: str, *, loopback: bool, missing: SchedulerError | None
) -> SchedulerError:
    """The package's exception for an error of botocore.

    Args:
        error: what botocore raised.
        what: what was being done: "submit jobs to scheduler 's'".
        place: region and endpoint, in words.
        loopback: whether the endpoint is on this machine.
        missing: the answer where AWS says that the thing does not exist.
    """
    if isinstance(error, ClientError):
        return _refused_by_aws(error, what, place, missing)
    if isinstance(error, botocore.NoRegionError):
        return InvalidSettings(f"cannot {what}: no AWS region is set; {GIVE_REGION}")
    if _is_about_credentials(error):
        return NotPermitted(f"cannot {what}: {_one_line(error)}. {_SIGN_IN}")
    if isinstance(error, _UNREACHED):
        if loopback:
            return LaptopStackError(f"cannot {what}: nothing answers in {place}. {_START_LAPTOP}")
        return Unknown(f"cannot {what}: {_one_line(error)}. Check the network, the region and --endpoint-url.")
    if isinstance(error, botocore.ParamValidationError):
        return Refused(f"cannot {what}: {_one_line(error)}")
    return Unknown(f"cannot {what} in {place}: {_one_line(error)}. Try again.")


def _refused_by_aws(error: ClientError, what: str, place: str, missing: SchedulerError | None) -> SchedulerError:
    code = str(error.response.get("Error", {}).get("Code", ""))
    said = str(error.response.get("Error", {}).get("Message", "")).strip()
    told = f"cannot {what} in {place}: AWS answered {code}" + (f": {said.rstrip('.')}" if said else "")
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code in _MISSING:
        return missing or NotFound(f"{told}. Check the name, the region and the account.")
    if code in _THROTTLED:
        return Throttled(f"{told}. Try again in a moment.")
    if code in _CREDENTIALS:
        return NotPermitted(f"{told}. {_SIGN_IN}")
    if code in _DENIED:
        return NotPermitted(
            f"{told}. Ask for the submitter or reader policy that the scheduler and environment stacks export."
        )
    if status >= 500:
        return Unknown(f"{told}. Try again in a moment.")
    return Refused(f"{told}.")


def _is_about_credentials(error: BotoCoreError) -> bool:
    kinds = (
        botocore.NoCredentialsError, botocore.PartialCredentialsError, botocore.CredentialRetrievalError,
        botocore.SSOError, botocore.TokenRetrievalError, botocore.NoAuthTokenError,
        botocore.MetadataRetrievalError,
    )  # fmt: skip
    return isinstance(error, kinds)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")
