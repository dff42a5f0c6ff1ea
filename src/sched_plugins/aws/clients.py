"""boto3 clients, each made when it is first used, and once."""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING, Any, Final

from sched_plugins.aws.answers import note_lost_reply

if TYPE_CHECKING:
    import boto3
    from mypy_boto3_autoscaling import AutoScalingClient
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_ec2 import EC2Client
    from mypy_boto3_events import EventBridgeClient
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_ssm import SSMClient
    from mypy_boto3_stepfunctions import SFNClient

TRIES: Final = 4
"""Tries of a call that may be repeated, the first included; botocore's standard mode backs off between them."""
POOL: Final = 16
"""Connections a client keeps, and so the most calls that are worth making at once."""
CONNECT_TIMEOUT: Final = 3
READ_TIMEOUT: Final = 10
"""Seconds; AWS answers these calls in milliseconds, and a function that waits is paid for."""
LONG_READ_TIMEOUT: Final = 30
"""Seconds, for a long poll (20), a chunk of a large object, and calls that are made only once."""


class Clients:
    """The clients of one caller.

    Args:
        session: its credentials and region; by default what the environment gives.
        endpoint: one address for all services; by default AWS's own, or what ``AWS_ENDPOINT_URL`` says.
    """

    def __init__(self, session: boto3.Session | None = None, endpoint: str | None = None) -> None:
        self._session = session
        self._endpoint = endpoint
        self._made: dict[tuple[str, str, int, float], Any] = {}
        # Making a client is not thread-safe in boto3; using one is.
        self._lock = Lock()

    @property
    def dynamodb(self) -> DynamoDBClient:
        """Amazon DynamoDB."""
        client: DynamoDBClient = self._client("dynamodb")
        return client

    def sqs(self, region: str = "") -> SQSClient:
        """Amazon SQS in a region; by default the session's."""
        client: SQSClient = self._client("sqs", region, read_timeout=LONG_READ_TIMEOUT)
        return client

    @property
    def ssm(self) -> SSMClient:
        """AWS Systems Manager, for everything that may be repeated."""
        client: SSMClient = self._client("ssm")
        return client

    @property
    def ssm_once(self) -> SSMClient:
        """AWS Systems Manager with one try a call, for SendCommand, each on a connection of its own.

        A kept connection may have died while its function was frozen; to write into it would make an unknown of
        a command that was never sent.
        """
        client: SSMClient = self._client("ssm", tries=1, read_timeout=LONG_READ_TIMEOUT)
        return client

    @property
    def s3(self) -> S3Client:
        """Amazon S3."""
        client: S3Client = self._client("s3", read_timeout=LONG_READ_TIMEOUT)
        return client

    @property
    def ec2(self) -> EC2Client:
        """Amazon EC2."""
        client: EC2Client = self._client("ec2")
        return client

    @property
    def autoscaling(self) -> AutoScalingClient:
        """Amazon EC2 Auto Scaling, for everything that may be repeated."""
        client: AutoScalingClient = self._client("autoscaling")
        return client

    @property
    def autoscaling_once(self) -> AutoScalingClient:
        """Amazon EC2 Auto Scaling with one try a call: repeating a termination could lower the capacity twice."""
        client: AutoScalingClient = self._client("autoscaling", tries=1, read_timeout=LONG_READ_TIMEOUT)
        return client

    @property
    def stepfunctions(self) -> SFNClient:
        """AWS Step Functions."""
        client: SFNClient = self._client("stepfunctions")
        return client

    @property
    def events(self) -> EventBridgeClient:
        """Amazon EventBridge."""
        client: EventBridgeClient = self._client("events")
        return client

    def _client(self, service: str, region: str = "", *, tries: int = TRIES, read_timeout: float = READ_TIMEOUT) -> Any:
        key = (service, region, tries, read_timeout)
        with self._lock:
            if key not in self._made:
                self._made[key] = self._make(*key)
            return self._made[key]

    def _make(self, service: str, region: str, tries: int, read_timeout: float) -> Any:
        # Here and not above: 0.2 s that a command line's --help need not wait for.
        import boto3
        from botocore.config import Config

        if self._session is None:
            self._session = boto3.Session()
        config = Config(
            retries={"mode": "standard", "total_max_attempts": tries},
            connect_timeout=CONNECT_TIMEOUT,
            read_timeout=read_timeout,
            max_pool_connections=POOL,
            tcp_keepalive=True,
            user_agent_extra="sched-plugins",
        )
        name: Any = service
        client = self._session.client(name, region_name=region or None, endpoint_url=self._endpoint, config=config)
        client.meta.events.register("response-received", note_lost_reply)
        if tries == 1:
            client.meta.events.register("before-send", _close_afterwards)
        return client


def _close_afterwards(request: Any, **_: object) -> None:
    request.headers["Connection"] = "close"
