"""Reading a job's secret on its worker. The counterpart of :mod:`sched_plugins.client.secret_store`.

Everything is imported late: a job waits for it.
"""

from __future__ import annotations

import sys
from typing import Any, Final

_ATTEMPTS: Final = 10


def read(name: str, region: str) -> bytes | None:
    """A secret, which stays for the job's next attempt; None if there is none.

    Raises:
        ClientError: AWS refused, for another reason.
    """
    return _read(_ssm(region), name)


def take(name: str, region: str) -> bytes | None:
    """Read a secret and delete it, so that nobody else reads it; None if there is none.

    One that cannot be deleted is given all the same, and told of: whoever stored it deletes it in the end.

    Raises:
        ClientError: AWS refused to read it.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    ssm = _ssm(region)
    value = _read(ssm, name)
    if value is None:
        return None
    try:
        ssm.delete_parameter(Name=name)
    except (BotoCoreError, ClientError) as error:
        print(f"The secret {name} could not be deleted: {error}", file=sys.stderr)  # noqa: T201 - the job's output
    return value


def _ssm(region: str) -> Any:
    import boto3
    from botocore.config import Config

    # Parameter Store answers 40 reads a second of an account by default, and many workers may start at once.
    config = Config(region_name=region, retries={"mode": "standard", "total_max_attempts": _ATTEMPTS})
    return boto3.client("ssm", config=config)


def _read(ssm: Any, name: str) -> bytes | None:
    from botocore.exceptions import ClientError

    try:
        return str(ssm.get_parameter(Name=name, WithDecryption=True)["Parameter"]["Value"]).encode()
    except ClientError as error:
        if error.response["Error"]["Code"] == "ParameterNotFound":
            return None
        raise
