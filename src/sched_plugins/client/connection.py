"""How the client reaches AWS: one session, its service clients, and what their errors mean to a user."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from ipaddress import ip_address
from typing import Any, Protocol
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ProfileNotFound

from sched_plugins import __version__
from sched_plugins.client.failures import GIVE_REGION, explain
from sched_plugins.errors import InvalidSettings, SchedulerError

_ATTEMPTS = 5
"""Attempts of one AWS call. Everything that the client calls may be repeated without effect."""
_LOOPBACK_ATTEMPTS = 2
"""Of a call to a laptop stack: one that is not running should be told at once, not after 20 s of retries."""


class Session(Protocol):
    """What a connection needs of a session. ``boto3.Session`` has it; a wrapper may add settings of its own to each
    client, for TLS, say."""

    @property
    def region_name(self) -> str | None:
        """The session's region."""

    def client(self, service_name: str, **settings: Any) -> Any:
        """A boto3 client; ``region_name``, ``endpoint_url`` and ``config`` are given."""


def surroundings() -> str:
    """A digest of the variables that decide whom botocore calls, and as who."""
    variables = sorted((name, value) for name, value in os.environ.items() if name.startswith("AWS_"))
    return sha256(repr(variables).encode()).hexdigest()


class Connection:
    """An account, a region and perhaps an endpoint. Safe to share between threads.

    Args:
        session: a ``boto3.Session``, or what behaves like one; by default one is made from the environment.
        region: the AWS region; by default the session's, else ``AWS_REGION``.
        endpoint_url: where every service answers; by default what boto3 finds (``AWS_ENDPOINT_URL``).
        profile: a profile of the AWS configuration, where no session is given.
        config: botocore settings ahead of the client's own.

    Raises:
        InvalidSettings: there is no such profile, or no region.
    """

    def __init__(
        self,
        *,
        session: boto3.Session | Session | None = None,
        region: str | None = None,
        endpoint_url: str | None = None,
        profile: str | None = None,
        config: Config | None = None,
    ) -> None:
        try:
            self._session: Any = session or boto3.Session(profile_name=profile)
            found = region or self._session.region_name or os.environ.get("AWS_REGION")
        except ProfileNotFound as error:
            raise InvalidSettings(f"{error}; `aws configure list-profiles` shows those that there are") from None
        if not found:
            raise InvalidSettings(f"no AWS region is set; {GIVE_REGION}")
        self.region = found
        self.endpoint_url = endpoint_url or os.environ.get("AWS_ENDPOINT_URL") or None
        # Resolved, and with what else botocore reads: two clients that were made with the same arguments, but under
        # other AWS variables, reach other places.
        who = id(session) if session else (profile, surroundings())
        self.identity = (self.region, self.endpoint_url, who)
        """Equal for two connections that certainly reach the same account in the same way."""
        self._given = endpoint_url
        attempts = _LOOPBACK_ATTEMPTS if self.is_loopback else _ATTEMPTS
        own = Config(
            retries={"mode": "standard", "total_max_attempts": attempts},
            connect_timeout=5,
            read_timeout=70,  # above the submit function's own timeout
            max_pool_connections=32,
            user_agent_extra=f"sched-plugins/{__version__}",
        )
        self._config = own.merge(config) if config else own
        self._clients: dict[str, Any] = {}
        # Reentrant: a signal's handler, as a task's on_kill is one, may need a client while this thread makes another.
        self._lock = threading.RLock()

    @property
    def is_loopback(self) -> bool:
        """Whether the endpoint is on this machine, as that of a laptop stack is."""
        host = urlsplit(self.endpoint_url or "").hostname or ""
        if host == "localhost":
            return True
        try:
            return ip_address(host).is_loopback
        except ValueError:
            return False

    @property
    def place(self) -> str:
        """Where it looks, in words."""
        return f"region {self.region}" + (f" at {self.endpoint_url}" if self.endpoint_url else "")

    def client(self, service: str) -> Any:
        """The boto3 client of a service; made once. Making one is not safe between threads, using it is."""
        with self._lock:
            if service not in self._clients:
                try:
                    with self.doing(f"reach {service}"):
                        self._clients[service] = self._session.client(
                            service,
                            region_name=self.region,
                            endpoint_url=self._given,
                            config=self._config,
                        )
                except ValueError:
                    raise InvalidSettings(
                        f"{self.endpoint_url!r} is no endpoint; write --endpoint-url (or AWS_ENDPOINT_URL) as "
                        "http://HOST:PORT or https://HOST"
                    ) from None
            return self._clients[service]

    @contextmanager
    def doing(self, what: str, missing: SchedulerError | None = None) -> Iterator[None]:
        """Turn botocore's errors into the package's, told as "cannot <what>: …".

        Args:
            what: what is being done, for the message.
            missing: raised where AWS says that the thing does not exist.
        """
        try:
            yield
        except (ClientError, BotoCoreError) as error:
            raise explain(error, what, self.place, loopback=self.is_loopback, missing=missing) from error
