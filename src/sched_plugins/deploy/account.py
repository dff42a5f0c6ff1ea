"""The AWS account and region that a deployment goes to, and AWS's refusals in our words.

Only the endpoint tells a laptop stack from AWS (``AWS_ENDPOINT_URL``, which boto3 reads by itself).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from functools import cached_property
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from sched_plugins.errors import DeployError, InvalidSettings, LaptopStackError, NotPermitted, ServiceError

if TYPE_CHECKING:
    import boto3

_TRIES = 9
#: Of a call to a laptop stack: one that is not running should be told of at once, not after half a minute.
_LOOPBACK_TRIES = 3
#: Error codes by which services say that the caller may not do something.
_DENIED = frozenset(
    {
        "AccessDenied",
        "AccessDeniedException",
        "AuthFailure",
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidClientTokenId",
        "OptInRequired",
        "SignatureDoesNotMatch",
        "UnauthorizedOperation",
        "UnrecognizedClientException",
        "403",
    }
)


class Account:
    """Clients of one session, made when first used, and the account they act in.

    ``session``: None takes boto3's default chain (environment, profile, instance role).
    """

    def __init__(self, session: boto3.Session | None = None) -> None:
        self._session: Any = session
        self._clients: dict[str, Any] = {}

    def client(self, service: str) -> Any:
        """The client of a service; throttled calls are repeated with growing pauses."""
        if service not in self._clients:
            import boto3
            from botocore.config import Config

            if self._session is None:
                self._session = boto3.Session()
            tries = _LOOPBACK_TRIES if _is_loopback(os.environ.get("AWS_ENDPOINT_URL", "")) else _TRIES
            settings = Config(retries={"mode": "standard", "total_max_attempts": tries}, connect_timeout=10)
            try:
                self._clients[service] = self._session.client(service, config=settings)
            except ValueError as error:  # not one of botocore's own
                if "endpoint" not in str(error):
                    raise
                raise InvalidSettings(
                    f"{os.environ.get('AWS_ENDPOINT_URL')!r} is no endpoint; write --endpoint-url (or "
                    "AWS_ENDPOINT_URL) as http://HOST:PORT or https://HOST"
                ) from None
        return self._clients[service]

    @cached_property
    def _identity(self) -> dict[str, str]:
        with translated("looking for the account"):
            answer: dict[str, str] = self.client("sts").get_caller_identity()
        return answer

    @property
    def number(self) -> str:
        """The twelve-digit account number."""
        return self._identity["Account"]

    @property
    def partition(self) -> str:
        """``aws``, ``aws-cn`` or ``aws-us-gov``: the second field of every ARN."""
        return self._identity["Arn"].split(":")[1]

    @property
    def region(self) -> str:
        """The region of the session."""
        return str(self.client("sts").meta.region_name)


def _is_loopback(url: str) -> bool:
    """Whether an endpoint is on this machine, as that of a laptop stack is."""
    host = urlsplit(url).hostname or ""
    with contextlib.suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost"


def _tell_laptop_stack(doing: str, error: Exception) -> None:
    """Raise for a laptop stack that does not answer because there is none; otherwise do nothing."""
    from botocore import exceptions

    if not isinstance(error, exceptions.EndpointConnectionError | exceptions.ConnectTimeoutError):
        return
    place = urlsplit(str(error.kwargs.get("endpoint_url", "")))
    if _is_loopback(place.geturl()):
        raise LaptopStackError(
            f"{doing}: nothing answers at {place.scheme}://{place.netloc}. The laptop stack is not running there; "
            'start it with `sched local up`, and run `eval "$(sched local env)"` again: its port may be another one.'
        ) from error


@contextlib.contextmanager
def translated(doing: str) -> Iterator[None]:
    """Turn what botocore raises into this package's errors; ``doing`` says what was tried.

    Raises:
        NotPermitted: there are no usable credentials, or AWS does not allow the call.
        InvalidSettings: no region is set.
        LaptopStackError: the endpoint is on this machine, and nothing answers there.
        ServiceError: the endpoint gives no answer, or none that makes sense.
        DeployError: any other refusal, with AWS's reason.
    """
    from botocore import exceptions
    from botocore.parsers import ResponseParserError

    try:
        yield
    except exceptions.NoRegionError as error:
        raise InvalidSettings(
            f"{doing}: no AWS region is set. Set AWS_DEFAULT_REGION or AWS_REGION, or give --region or a "
            'profile that has one); for the laptop stack, run `eval "$(sched local env)"`.'
        ) from error
    except (
        exceptions.NoCredentialsError,
        exceptions.PartialCredentialsError,
        exceptions.CredentialRetrievalError,
        exceptions.NoAuthTokenError,
        exceptions.TokenRetrievalError,
        exceptions.SSOError,
    ) as error:
        raise NotPermitted(
            f"{doing}: no AWS credentials were found ({error}). Run `aws configure` or `aws sso login`; "
            'for the laptop stack, run `eval "$(sched local env)"`.'
        ) from error
    except exceptions.ProfileNotFound as error:
        raise InvalidSettings(f"{doing}: {error}. `aws configure list-profiles` lists them.") from error
    except (exceptions.ConnectionError, exceptions.HTTPClientError, ResponseParserError) as error:
        _tell_laptop_stack(doing, error)
        raise ServiceError(
            f"{doing}: no usable answer ({error}). Check the network, the region and AWS_ENDPOINT_URL."
        ) from error
    except exceptions.ClientError as error:
        reason = error.response.get("Error", {})
        code, text = str(reason.get("Code", "")), reason.get("Message", str(error))
        if code in _DENIED:
            raise NotPermitted(
                f"{doing}: AWS refuses {error.operation_name} ({code}: {text}). "
                "Ask for that permission, or use another profile."
            ) from error
        raise DeployError(f"{doing}: {error.operation_name} failed ({code}): {text}") from error
    except exceptions.BotoCoreError as error:
        raise DeployError(f"{doing}: {error}. Check the values and the AWS settings of this machine.") from error
