"""Secrets of jobs in Parameter Store: encrypted, for the workers of one environment, and for a short time.

What a job must not carry in its message, record or command (a token, an API key) is stored here, and the job is told
its name alone. :mod:`sched_plugins.aws.secrets` reads it on the worker.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Final

from sched_plugins.client.connection import Connection
from sched_plugins.errors import InvalidInput, SchedulerError

# AWS Systems Manager, "Managing parameter tiers": 4 KB in the standard tier, 8 KB in the advanced one.
STANDARD_BYTES: Final = 4096
ADVANCED_BYTES: Final = 8192
DELETE_BATCH: Final = 10
"""AWS, DeleteParameters: at most ten names."""


class SecretStore:
    """Writes and deletes secrets; it never reads one.

    AWS calls: one PutParameter a secret, ``concurrency`` at once; one DeleteParameters for ten.

    Args:
        connection: how to reach AWS.
        kms_key_id: the key; empty for the account's own, ``aws/ssm``.
        concurrency: how many are written at once.
    """

    def __init__(self, connection: Connection, kms_key_id: str, concurrency: int) -> None:
        logging.getLogger("botocore.endpoint").addFilter(_without_secrets)
        self._connection = connection
        self._key = {"KeyId": kms_key_id} if kms_key_id else {}
        self._pool = ThreadPoolExecutor(concurrency, thread_name_prefix="sched-secrets")

    def put_many(self, secrets: Mapping[str, str]) -> dict[str, SchedulerError | None]:
        """Write secrets by parameter name, in place of what was there; for each, what went wrong."""
        return dict(zip(secrets, self._pool.map(_told(self._put), secrets, secrets.values()), strict=True))

    def _put(self, name: str, text: str) -> None:
        size = len(text.encode())
        if size > ADVANCED_BYTES:
            raise InvalidInput(
                f"secret {name!r} is {size:,} bytes long, and Parameter Store takes {ADVANCED_BYTES:,}; give the job "
                "less of what must be kept secret (variables, long ids)"
            )
        with self._connection.doing(f"store secret {name!r}"):
            self._connection.client("ssm").put_parameter(
                Name=name,
                Value=text,
                Type="SecureString",
                Overwrite=True,
                Tier="Standard" if size <= STANDARD_BYTES else "Advanced",
                **self._key,
            )

    def delete_many(self, names: Iterable[str]) -> None:
        """Delete secrets; one that is gone already is no error.

        Raises:
            SchedulerError: AWS gave no usable answer; some may be left.
        """
        wanted = list(names)
        for first in range(0, len(wanted), DELETE_BATCH):
            with self._connection.doing("delete secrets"):
                self._connection.client("ssm").delete_parameters(Names=wanted[first : first + DELETE_BATCH])

    def written_before(self, prefix: str, moment: datetime) -> Iterator[str]:
        """Names below a prefix that were last written before that moment. One DescribeParameters for fifty."""
        filters = [{"Key": "Path", "Option": "OneLevel", "Values": [prefix]}]
        with self._connection.doing(f"list secrets below {prefix!r}"):
            pages = self._connection.client("ssm").get_paginator("describe_parameters").paginate(
                ParameterFilters=filters, PaginationConfig={"PageSize": 50}
            )  # fmt: skip
            for page in pages:
                yield from (one["Name"] for one in page["Parameters"] if one["LastModifiedDate"] < moment)

    def close(self) -> None:
        """Write no more."""
        self._pool.shutdown(cancel_futures=True)


def _without_secrets(record: logging.LogRecord) -> bool:
    """Filter of botocore's log, which at level DEBUG shows the parameters of each call: not those of PutParameter."""
    operation = record.args[0] if isinstance(record.args, tuple) and record.args else None
    return getattr(operation, "name", "") != "PutParameter"


def _told(put: Callable[[str, str], None]) -> Callable[[str, str], SchedulerError | None]:
    def telling(name: str, text: str) -> SchedulerError | None:
        try:
            put(name, text)
        except SchedulerError as error:
            return error
        return None

    return telling


def secret_prefix(environment: str, kind: str = "") -> str:
    """Below what the workers of an environment, and no others, may read and delete parameters.

    Args:
        environment: its stack name.
        kind: a folder of its own for those who sweep up what they have left (``prefect``).
    """
    return f"/sched/{environment}/workloads" + (f"/{kind}" if kind else "")
