"""What an error of an AWS call proves: not done, refused, or perhaps done. Decided here and nowhere else.

botocore repeats most calls by itself. The last reply alone then proves too little: a call whose first reply was
lost and whose second try was throttled may have been carried out. So each client counts the replies that were
lost on the way (:func:`note_lost_reply`), and after one nothing is called "not done" any more.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any, Final

from botocore.exceptions import (
    BaseEndpointResolverError,
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    EndpointConnectionError,
    EndpointProviderError,
    MetadataRetrievalError,
    NoAuthTokenError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
    ProxyConnectionError,
    SSOError,
    TokenRetrievalError,
    ValidationError,
)
from botocore.parsers import ResponseParserError

from sched_plugins.errors import NotPermitted, Refused, ServiceError, Throttled, Unknown

ERRORS: Final = (ClientError, BotoCoreError, ResponseParserError)
"""All that a call through a boto3 client raises, and the reading of a streamed body."""


class AccessRefused(Refused, NotPermitted):
    """AWS refused the caller: its credentials are missing, wrong or expired, or do not permit the action."""


THROTTLES: Final = frozenset({
    "BandwidthLimitExceeded", "EC2ThrottledException", "KMSThrottlingException", "KmsThrottled",
    "LimitExceededException", "OverLimit", "ProvisionedThroughputExceededException", "RateExceeded",
    "ReplicatedWriteConflictException", "RequestLimitExceeded", "RequestThrottled", "RequestThrottledException",
    "ResourceContention", "ScalingActivityInProgress", "SlowDown", "Throttled", "ThrottledException", "Throttling",
    "ThrottlingError", "ThrottlingException", "TooManyRequestsException", "TransactionConflict",
    "TransactionConflictException",
})  # fmt: skip
"""Error codes that say "not done; later": throttles, and conflicts with another caller that pass."""

_DENIALS: Final = frozenset({
    "AccessDenied", "AccessDeniedException", "AuthFailure", "AuthorizationError", "ExpiredToken",
    "ExpiredTokenException", "IncompleteSignature", "InvalidAccessKeyId", "InvalidClientTokenId",
    "InvalidSignatureException", "InvalidToken", "KMSAccessDeniedException", "KmsAccessDenied",
    "MissingAuthenticationToken", "NotAuthorized", "OptInRequired", "SignatureDoesNotMatch",
    "UnauthorizedOperation", "UnrecognizedClientException", "403",
})  # fmt: skip

# Answered with a status below 500, and yet the call may have been (or still be) carried out.
_UNCERTAIN: Final = frozenset({"RequestTimeout", "RequestTimeoutException", "TransactionInProgressException"})

# No connection was made, so no request was sent.
_NOT_SENT: Final = (EndpointConnectionError, ConnectTimeoutError, ProxyConnectionError)

_NO_CREDENTIALS: Final = (
    CredentialRetrievalError, MetadataRetrievalError, NoAuthTokenError, NoCredentialsError, PartialCredentialsError,
    ProfileNotFound, SSOError, TokenRetrievalError,
)  # fmt: skip

# botocore refused the arguments, or found no address to send them to, before it sent anything.
_MALFORMED: Final = (ParamValidationError, ValidationError, BaseEndpointResolverError, EndpointProviderError)

_LOST: Final = "SchedLostReplies"


def code_of(error: Exception) -> str:
    """The service's error code; empty if the service did not answer.

    SQS's codes come with and without their prefix, which is left out.
    """
    if not isinstance(error, ClientError):
        return ""
    return str(error.response.get("Error", {}).get("Code", "")).removeprefix("AWS.SimpleQueueService.")


def detail_of(error: Exception) -> str:
    """The error as people read it."""
    if not isinstance(error, ClientError):
        return f"{type(error).__name__}: {error}"
    return f"{code_of(error)}: {error.response.get('Error', {}).get('Message', '')}"


def lost_replies(error: Exception) -> int:
    """Of a failed call: how many of its earlier tries may have been carried out."""
    if isinstance(error, ClientError):
        metadata: Mapping[str, Any] = error.response.get("ResponseMetadata", {})
        return int(metadata.get(_LOST, 0))
    return int(getattr(error, _LOST, 0))


def note_lost_reply(
    context: MutableMapping[str, Any],
    parsed_response: MutableMapping[str, Any] | None,
    exception: Exception | None,
    **_: object,
) -> None:
    """Handle botocore's event ``response-received``, which comes after each try of a call.

    The context lives as long as the call; what the try came to is marked with the replies lost before it.
    """
    lost = context.get(_LOST, 0)
    if lost and exception is not None:
        setattr(exception, _LOST, lost)
    elif lost and parsed_response is not None:
        parsed_response.setdefault("ResponseMetadata", {})[_LOST] = lost
    if exception is not None:
        uncertain = not isinstance(exception, (*_NOT_SENT, *_NO_CREDENTIALS))
    else:
        error = (parsed_response or {}).get("Error") or {}
        status = (parsed_response or {}).get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        uncertain = _is_uncertain(str(error.get("Code", "")), status)
    if uncertain:
        context[_LOST] = lost + 1


def classify(error: Exception) -> type[ServiceError]:
    """What an error proves about the call.

    A connection that could not be made is a :class:`Throttled`: nothing was sent, and the next try may get
    through. Everything that is not known to prove something is :class:`Unknown`.
    """
    if lost_replies(error):
        return Unknown
    if isinstance(error, ClientError):
        return _classify_code(code_of(error), int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)))
    if isinstance(error, _NOT_SENT):
        return Throttled
    if isinstance(error, _NO_CREDENTIALS):
        return AccessRefused
    if isinstance(error, _MALFORMED):
        return Refused
    return Unknown


def classify_entry(code: str, *, caller_fault: bool = True) -> type[ServiceError]:
    """What the error code of one entry of a batch proves about that entry."""
    return _classify_code(code.removeprefix("AWS.SimpleQueueService."), 400 if caller_fault else 500)


def _classify_code(code: str, status: int) -> type[ServiceError]:
    if _is_uncertain(code, status):
        return Unknown
    if code in THROTTLES or status == 429:
        return Throttled
    if code in _DENIALS:
        return AccessRefused
    return Refused


def _is_uncertain(code: str, status: int) -> bool:
    return code in _UNCERTAIN or (status >= 500 and code not in THROTTLES)


_MEANINGS: Final[dict[type[ServiceError], str]] = {
    Throttled: "was not carried out, but may be later; try again",
    AccessRefused: "was refused to this caller; give its role this permission, or check its credentials",
    Refused: "was refused, and would be again",
    Unknown: "gave no usable answer, and may have been carried out; look before you repeat it",
}


def failure(kind: type[ServiceError], action: str, detail: str) -> ServiceError:
    """The exception of a kind for an action, say ``"SendMessage to 'queue'"``."""
    meaning = next(_MEANINGS[base] for base in kind.__mro__ if base in _MEANINGS)
    return kind(f"{action} {meaning} ({detail})")


def answer(error: Exception, action: str) -> ServiceError:
    """The exception to raise for an error of a call."""
    return failure(classify(error), action, detail_of(error))
