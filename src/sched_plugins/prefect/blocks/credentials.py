"""Clients of a scheduler from prefect-aws's credentials, shared by all that uses the same ones in a process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Any

from botocore.config import Config
from prefect_aws import AwsCredentials

_LOCK = threading.RLock()
_SHARED: dict[Hashable, Any] = {}
_TLS = ("verify", "use_ssl", "api_version")


class CredentialsSession:
    """A session of these credentials, with what their client parameters say about TLS.

    Credentials of an assumed role are renewed, where those of the block's own session end after an hour.
    """

    def __init__(self, credentials: AwsCredentials) -> None:
        self._verify: dict[str, Any] = credentials.aws_client_parameters.get_params_override()
        self._session = (
            _renewing(credentials, role) if (role := credentials.assume_role_arn) else credentials.get_boto3_session()
        )

    @property
    def region_name(self) -> str | None:
        """The session's region."""
        region: str | None = self._session.region_name
        return region

    def client(self, service_name: str, **settings: Any) -> Any:
        """A boto3 client."""
        make: Any = self._session.client
        given: dict[str, Any] = {name: self._verify[name] for name in _TLS if name in self._verify}
        return make(service_name, **given | settings)


def client_settings(credentials: AwsCredentials | None, region: str, endpoint_url: str) -> dict[str, Any]:
    """What a client of the package takes. One session for equal credentials, and so one watch for all who wait."""
    found: dict[str, Any] = {"region": region or None, "endpoint_url": endpoint_url or None}
    if credentials is None:
        return found
    parameters = credentials.aws_client_parameters.get_params_override()
    config = parameters.get("config")
    return {
        "region": region or credentials.region_name,
        "endpoint_url": endpoint_url or parameters.get("endpoint_url"),
        "session": shared(("session", hash(credentials)), lambda: CredentialsSession(credentials)),
        "config": Config(**config) if isinstance(config, dict) else config,
    }


def shared(key: Hashable, make: Callable[[], Any]) -> Any:
    """The process's one thing of that key."""
    with _LOCK:
        if key not in _SHARED:
            _SHARED[key] = make()
        return _SHARED[key]


def _renewing(credentials: AwsCredentials, role_arn: str) -> Any:
    import boto3
    import botocore.session
    from botocore.credentials import AssumeRoleCredentialFetcher, DeferredRefreshableCredentials

    plain = credentials.model_copy(update={"assume_role_arn": None})
    base = plain.get_boto3_session()
    extra = {"RoleSessionName": "sched-plugins", **credentials.assume_role_kwargs.get_params_override()}
    fetcher = AssumeRoleCredentialFetcher(
        client_creator=base._session.create_client,
        source_credentials=base.get_credentials(),
        role_arn=role_arn,
        extra_args=extra,
    )
    renewing: Any = botocore.session.get_session()
    renewing._credentials = DeferredRefreshableCredentials(fetcher.fetch_credentials, "assume-role")
    if credentials.region_name:
        renewing.set_config_variable("region", credentials.region_name)
    return boto3.Session(botocore_session=renewing)
