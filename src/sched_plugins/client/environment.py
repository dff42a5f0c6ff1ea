"""The client of an environment: its jobs, uploads and stages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from sched_plugins.client import uploads
from sched_plugins.client.connection import Connection, Session
from sched_plugins.client.failures import missing_environment
from sched_plugins.client.fleet import Queue, Worker, stack_outputs
from sched_plugins.client.jobs import JobClient, checked
from sched_plugins.client.submission import Submitted, new_run_id
from sched_plugins.client.transfer import Item, ProgressCallback, Transfer
from sched_plugins.core import names
from sched_plugins.errors import EnvironmentNotFound, InvalidInput, NotFound, NotPermitted

if TYPE_CHECKING:
    import boto3
    from botocore.config import Config

_SUFFIX_PARAMETER = "TriggerSuffix"


class EnvironmentClient(JobClient):
    """An environment's jobs. Making a client makes one DescribeStacks call; it may be shared between threads.

    It submits and cancels with the environment's own functions, which serve its queue alone; ``list`` shows the jobs
    of that queue unless it is told of another.

    Args: as for :class:`~sched_plugins.client.SchedulerClient`, with ``name`` the environment's stack name.

    Raises:
        EnvironmentNotFound: there is no such environment here.
        InvalidSettings: the name cannot be a stack's, or there is no region or profile.
    """

    def __init__(
        self,
        name: str,
        *,
        session: boto3.Session | Session | None = None,
        region: str | None = None,
        endpoint_url: str | None = None,
        profile: str | None = None,
        config: Config | None = None,
    ) -> None:
        names.check_stack_name(name)
        connection = Connection(
            session=session, region=region, endpoint_url=endpoint_url, profile=profile, config=config
        )
        self.name = name
        missing = missing_environment(name, connection.place)
        outputs, parameters = _describe(connection, name, missing)
        self.bucket = outputs["BucketName"]
        """Name of the bucket whose uploads start jobs."""
        self.trigger_suffix = parameters.get(_SUFFIX_PARAMETER, "")
        """End of the keys that start jobs."""
        self.queue = names.job_queue(name)
        """Name of the environment's job queue."""
        super().__init__(connection, name, outputs["SchedulerName"], missing, self.queue)

    def workers(self, queue: str = "") -> list[Worker]:
        """The environment's workers; none, if another queue is named. One Scan, one DescribeInstances.

        Raises:
            QueueNotFound: there is no such queue.
        """
        if queue and names.queue_name(queue) != self.queue:
            self._queues.require(queue)
            return []
        return self._fleet.workers(self.queue)

    def queues(self) -> list[Queue]:
        """The environment's queue alone. One Scan of the slot table, six SQS calls."""
        return [self._fleet.queue(self.queue, self.name)]

    def upload(
        self,
        folder: str | Path,
        executable: str,
        *,
        prefix: str | None = None,
        several: bool = False,
        progress: ProgressCallback | None = None,
    ) -> uploads.Uploaded:
        """Upload a job folder, the executable last, which starts the job. One PutObject a file, and one GetItem.

        Args:
            folder: the folder; all its files are uploaded, below a key of the folder's name.
            executable: the file that starts the job, relative to the folder.
            prefix: the S3 folder, instead of the folder's name.
            several: other files may end in the trigger suffix too; each starts a job of its own.
            progress: told after each part and file.

        Raises:
            InvalidInput: folder, executable or prefix cannot be; nothing was sent.
        """
        local = Path(folder).expanduser()
        target = uploads.folder_prefix(local, prefix)
        items = uploads.plan(local, executable, target, self.trigger_suffix, several=several)
        job_id = f"s3://{self.bucket}/{items[-1].key}"
        try:
            before = self._records.get(job_id)
        except NotPermitted:
            before = None  # Who may upload need not be one who may read, and so wait.
        uploads.send(self.connection, self.bucket, items, self.trigger_suffix, progress)
        return uploads.Uploaded(
            job_id,
            f"s3://{self.bucket}/{target}",
            len(items),
            sum(item.size for item in items),
            before.run_id if before else "",
        )

    def store(self, uri: str, path: str | Path, *, metadata: Mapping[str, str] | None = None) -> None:
        """Upload one file to an address. One PutObject, or more for a large file.

        Args:
            uri: ``s3://bucket/key``.
            path: the file.
            metadata: the object's metadata; ``sched-environment`` with this environment's name keeps it from being
                taken for an upload that starts a job.

        Raises:
            InvalidInput: the address names no object.
        """
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        if not uri.startswith("s3://") or not bucket or not key:
            raise InvalidInput(f"{uri!r} is not the address of an object (s3://bucket/key)")
        file = Path(path)
        item = Item(key, file, file.stat().st_size)
        Transfer(self.connection, bucket, [item], None).upload([item], metadata)

    def require_stored(self, uris: Iterable[str]) -> None:
        """Refuse objects, and folders, that are not there. One ListObjectsV2 each; who may not ask is believed.

        Args:
            uris: S3 addresses; one that ends in ``/`` is a folder, and must hold something.

        Raises:
            InvalidInput: an address is none of S3.
            NotFound: there is no such object, nothing in the folder, or no such bucket.
        """
        for uri in uris:
            bucket, _, key = uri.removeprefix("s3://").partition("/")
            if not uri.startswith("s3://") or not bucket:
                raise InvalidInput(f"{uri!r} is not an S3 address of the form s3://bucket/key")
            missing = NotFound(
                f"there is {'nothing in' if uri.endswith('/') else 'no object'} {uri!r}; upload it first, or check the "
                "address"
            )
            try:
                with self.connection.doing(f"look for {uri!r}", missing):
                    found = self.connection.client("s3").list_objects_v2(Bucket=bucket, Prefix=key, MaxKeys=1)
            except NotPermitted:
                continue
            first = next((one["Key"] for one in found.get("Contents", ())), None)
            if first is None or (first != key and not uri.endswith("/")):
                raise missing

    def start_stage(
        self,
        *,
        executable: str,
        outputs: Sequence[str],
        job_id: str,
        inputs: Sequence[str] = (),
        input_names: Sequence[str] = (),
        parameters: Mapping[str, Any] | None = None,
        overrides: Mapping[str, Mapping[str, Any]] | None = None,
        settings: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        run_id: str | None = None,
    ) -> Submitted:
        """Start a job with files around it, with the environment's own settings. One Lambda call.

        Args:
            executable: what runs: an S3 address, or an absolute path on the worker's image.
            outputs: S3 folders that receive what it writes; the first is where results are looked for.
            job_id: the job.
            inputs: S3 folders copied into the working directory; one flat, several as ``input_names`` say.
            input_names: subdirectories for several inputs.
            parameters: given to the executable as JSON in ``SCHED_PARAMETERS``, ahead of the environment's.
            overrides: parameters for later stages, by stage; the manifest carries them on.
            settings: other fields of the job spec, ahead of the environment's (``retry``, ``timeout_seconds``, …).
            tags: free labels.
            run_id: the idempotency key; a fresh one by default.

        Raises: as :meth:`submit`.
        """
        stage: dict[str, Any] = {"executable": executable, "inputs": list(inputs), "outputs": list(outputs)}
        optional = {
            "input_names": list(input_names),
            "parameters": parameters,
            "overrides": overrides,
            "settings": settings,
            "tags": tags,
        }
        stage |= {name: value for name, value in optional.items() if value}
        entry = {"job_id": job_id, "run_id": run_id or new_run_id(), "stage_job": stage}
        return checked(self._requests.submit([entry])[0])


def _describe(
    connection: Connection, name: str, missing: EnvironmentNotFound
) -> tuple[Mapping[str, str], Mapping[str, str]]:
    with connection.doing(f"find environment {name!r}", missing):
        try:
            [stack] = connection.client("cloudformation").describe_stacks(StackName=name)["Stacks"]
        except ClientError as error:
            if "does not exist" in error.response.get("Error", {}).get("Message", ""):
                raise missing from None
            raise
    outputs = stack_outputs(stack)
    if outputs.get("EnvironmentName") != name:
        status = stack.get("StackStatus", "")
        if status.endswith("_IN_PROGRESS") and not outputs:
            raise NotFound(f"environment {name!r} is being deployed ({status}); wait for that to end")
        raise EnvironmentNotFound(
            f"stack {name!r} in {connection.place} is no environment ({status}); `sched queues --scheduler NAME` "
            "shows the environments of a scheduler, under OF"
        )
    parameters = {one["ParameterKey"]: one.get("ParameterValue", "") for one in stack.get("Parameters", ())}
    return outputs, parameters
