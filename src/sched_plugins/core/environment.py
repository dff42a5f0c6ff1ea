"""What one environment runs, and how an upload into its bucket, or a request, becomes a job."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sched_plugins.core import limits, names
from sched_plugins.core.job import LINUX_DOCUMENT, JobSpec, parse_spec
from sched_plugins.core.submission import Submission, upload_run_id
from sched_plugins.errors import InvalidJob

MANIFEST = "_sched/SUCCEEDED.json"
"""Key, below a result folder, of the manifest that only the outbox writes, and only after SUCCEEDED."""
OVERRIDES = "_sched/parameters.json"
"""Key, below the first stage's input folder, of parameters for the stages of one run: {stage: {name: value}}."""
ENVIRONMENT_METADATA = "sched-environment"
RUN_METADATA = "sched-run-id"
EVENT_METADATA = "sched-event"
"""Of a manifest: which end of a run it tells of. It may be written twice, and each writing is an upload."""


@dataclass(frozen=True, slots=True)
class Environment:
    """The parameters of a deployed environment that shape its jobs."""

    name: str
    bucket: str
    trigger_suffix: str = ".sh"
    """End of the keys whose upload starts a job; the manifest's key for a chained stage."""
    document: str = LINUX_DOCUMENT
    retry: int = 3
    success_string: str = ""
    working_directory: str = ""
    timeout_seconds: int = limits.DEFAULT_JOB_TIMEOUT
    output_buckets: tuple[str, ...] = ()
    """Where results go; empty: the environment's own bucket."""
    output_prefix: str = ""
    """Put before the folder of every result."""
    stage: str = ""
    """The stage's name in a pipeline: its results go to ``<run>/<stage>/``. Empty outside pipelines."""
    stage_executable: str = ""
    """What runs for every trigger, an S3 address or a path on the image; empty: the uploaded object itself."""
    stage_parameters: Mapping[str, Any] = field(default_factory=dict)
    fan_in: tuple[str, ...] = ()
    """Of a stage with several predecessors: their names. It starts when the manifests of all are there."""

    @property
    def queue(self) -> str:
        """The environment's job queue."""
        return names.job_queue(self.name)

    @property
    def is_chained(self) -> bool:
        """Whether manifests start it."""
        return self.trigger_suffix.endswith(MANIFEST)


@dataclass(frozen=True, slots=True)
class Upload:
    """One object-created event."""

    bucket: str
    key: str
    etag: str
    sequencer: str

    @property
    def uri(self) -> str:
        """The object's address."""
        return f"s3://{self.bucket}/{self.key}"

    @property
    def folder(self) -> str:
        """The key's folder, ending in ``/``, or empty at the bucket's top. Of a manifest: the result folder."""
        if self.key.endswith(MANIFEST):
            return self.key.removesuffix(MANIFEST)
        return self.key[: self.key.rfind("/") + 1]


def triggers(environment: Environment, upload: Upload, metadata: Mapping[str, str]) -> bool:
    """Whether the upload starts a job: its key ends as asked for, and the environment did not write it itself.

    The second rule, by metadata and not by name, is what keeps results from starting the job that made them
    without dropping any result because of its name.
    """
    if not upload.key.endswith(environment.trigger_suffix):
        return False
    if upload.key.endswith(MANIFEST) != environment.is_chained:
        return False
    return metadata.get(ENVIRONMENT_METADATA) != environment.name


def run_path(environment: Environment, upload: Upload) -> str:
    """The folder that one run of a pipeline has in every bucket: that of the upload, or above a predecessor's."""
    folder = upload.folder
    if not environment.is_chained:
        return folder
    return folder[: folder.rstrip("/").rfind("/") + 1]


def needed_manifests(environment: Environment, upload: Upload) -> dict[str, str]:
    """Addresses of the manifests that must all exist before a fan-in stage starts, by predecessor."""
    base = f"s3://{upload.bucket}/{run_path(environment, upload)}"
    return {name: f"{base}{name}/{MANIFEST}" for name in environment.fan_in}


def uploaded_job(
    environment: Environment,
    upload: Upload,
    *,
    event: str = "",
    manifest_etags: Mapping[str, str] | None = None,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
) -> Submission:
    """The submission that an upload makes.

    Args:
        environment: where it was uploaded.
        upload: the event.
        event: of a manifest, the end that it tells of: however often that is written, it starts one run.
        manifest_etags: of a fan-in stage, what tells its predecessors' manifests from earlier ones: the ends that they
            tell of, or else their ETags.
        overrides: parameters of this run for the stages of the pipeline, ahead of the deployed ones.

    Raises:
        InvalidJob: the environment's parameters and the key make no valid job.
    """
    folder, run = upload.folder, run_path(environment, upload)
    job_id, run_id = upload.uri, upload_run_id(upload.sequencer)
    inputs, input_names = [f"s3://{upload.bucket}/{folder}"] if folder else [], []
    if environment.is_chained and event:
        run_id = f"manifest-{event}"
    if environment.fan_in:
        input_names = list(environment.fan_in)
        inputs = [f"s3://{upload.bucket}/{run}{name}/" for name in input_names]
        job_id = f"s3://{upload.bucket}/{run}"
        digest = hashlib.sha256(json.dumps(manifest_etags, sort_keys=True).encode()).hexdigest()
        run_id = f"join-{digest}"
    if environment.is_chained and not environment.stage_executable:
        raise InvalidJob(f"environment {environment.name!r} is chained but names no stage executable")
    target = f"{run}{environment.stage}/" if environment.stage else folder
    outputs = [f"s3://{name}/{environment.output_prefix}{target}" for name in environment.output_buckets]
    outputs = outputs or [f"s3://{environment.bucket}/{environment.output_prefix}{target}"]
    spec = stage_spec(
        environment,
        job_id=job_id,
        executable=environment.stage_executable or upload.uri,
        inputs=inputs,
        input_names=input_names,
        outputs=outputs,
        overrides=overrides or {},
        tags={"source_etag": upload.etag},
    )
    return Submission(spec, run_id, environment.queue, keep=True)


def stage_spec(
    environment: Environment,
    *,
    job_id: str,
    executable: str,
    inputs: Sequence[str],
    outputs: Sequence[str],
    input_names: Sequence[str] = (),
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    parameters: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> JobSpec:
    """The spec of a job with files around it, as this environment runs it.

    Args:
        environment: gives document, retry, success string, timeout and parameters where nothing else does.
        job_id: the job.
        executable: an S3 address or a path on the image.
        inputs: S3 folders.
        outputs: S3 folders; the first is where the results are looked for.
        input_names: subdirectories for several inputs.
        overrides: parameters of this run, by stage; passed on to the next stages in the manifest.
        parameters: parameters of this request alone.
        tags: free labels.
        settings: other fields of the spec, ahead of the environment's (retry, timeout_seconds, …).

    Raises:
        InvalidJob: a field breaks the contract.
    """
    chosen = {**environment.stage_parameters, **(overrides or {}).get(environment.stage, {}), **(parameters or {})}
    fields: dict[str, Any] = {
        "job_id": job_id,
        "retry": environment.retry,
        "job_success_string": environment.success_string,
        "ssm_document": environment.document,
        "commands": [],
        "timeout_seconds": environment.timeout_seconds,
        "working_directory": environment.working_directory,
        "results_uri": outputs[0],
        "tags": dict(tags or {}),
        "stage": {
            "executable": executable,
            "inputs": list(inputs),
            "input_names": list(input_names),
            "output": outputs[0],
            "outputs_too": list(outputs[1:]),
            "writer": environment.name,
            "stage_parameters": chosen,
            "overrides": {name: dict(values) for name, values in (overrides or {}).items()},
        },
    }
    return parse_spec(fields | dict(settings or {}))
