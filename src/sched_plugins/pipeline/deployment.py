"""A pipeline on AWS, or on a laptop: one environment a stage, each stage's output bucket the next one's input."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sched_plugins.core import names
from sched_plugins.core.environment import ENVIRONMENT_METADATA, MANIFEST
from sched_plugins.errors import EnvironmentNotFound, NotFound
from sched_plugins.pipeline.definition import Pipeline, StageDefinition

if TYPE_CHECKING:
    from sched_plugins.deploy import StackEvent

_EXECUTABLES = "_stage"
"""Folder of a stage's bucket that holds its executable, by content."""


@dataclass(frozen=True)
class Deployment:
    """A pipeline as it is deployed: where each stage's files are, and which jobs a run consists of."""

    pipeline: Pipeline
    scheduler: str
    account: str

    def bucket(self, stage: str) -> str:
        """The bucket of a stage's environment: what starts it lies there."""
        return names.bucket(self.pipeline.environment(stage), self.account)

    def executable_uri(self, stage: StageDefinition) -> str:
        """What a stage runs: an S3 address (of a local file: its copy, named by content) or a path on the image."""
        if not stage.is_local_file:
            return stage.executable
        path = self.pipeline.executable_path(stage)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        return f"s3://{self.bucket(stage.name)}/{_EXECUTABLES}/{digest}/{path.name}"

    def parameters(self, stage: StageDefinition) -> dict[str, str]:
        """The template parameters of a stage's environment; what the pipeline leaves open has the template's default,
        also where an earlier deployment had set it."""
        from sched_plugins.deploy import template_parameters

        chosen: dict[str, Any] = {
            "TriggerSuffix": MANIFEST if stage.after else _trigger(stage),
            "CommandType": stage.document,
            "Retry": stage.retry,
            "SuccessString": stage.success_string,
            "TimeoutSeconds": stage.timeout_seconds,
            "MaxWorkers": stage.max_workers,
            # An orchestrated run reads each predecessor's results in that one's own bucket.
            "InputBuckets": ",".join(self.bucket(name) for name in stage.after),
            "OutputBuckets": ",".join(self.bucket(name) for name in self.pipeline.successors(stage.name)),
            "StageName": stage.name,
            "StageExecutable": self.executable_uri(stage) if stage.after or not stage.is_local_file else "",
            "StageParameters": json.dumps(stage.parameters),
            "FanIn": ",".join(stage.after) if len(stage.after) > 1 else "",
            "SetupScript": stage.setup,
            "InstanceTypes": ",".join(stage.instance_types),
            "ImageId": stage.image,
        }
        defaults = {parameter.name: parameter.default or "" for parameter in template_parameters("environment")}
        return {name: str(value) if value != "" else defaults[name] for name, value in chosen.items()}

    def orchestrated_results(self, run: str, stage: str) -> str:
        """Where an orchestrated run's results of a stage are: in its own bucket, so that nothing is triggered."""
        return f"s3://{self.bucket(stage)}/{run}/{stage}/"

    def chained_results(self, run: str, stage: str) -> str:
        """Where a chained run's results of a stage are: in the bucket of the (first) stage that works on them."""
        owner = next(iter(self.pipeline.successors(stage)), stage)
        return f"s3://{self.bucket(owner)}/{run}/{stage}/"

    def orchestrated_job(self, run: str, stage: str) -> str:
        """The job id of a stage in an orchestrated run."""
        return f"{self.pipeline.name}/{run}/{stage}"

    def chained_job(self, run: str, stage: str) -> str:
        """The job id of a stage in a chained run: the address of what started it."""
        definition, bucket = self.pipeline.stage(stage), self.bucket(stage)
        if not definition.after:
            return f"s3://{bucket}/{run}/{_trigger(definition)}"
        if len(definition.after) == 1:
            return f"s3://{bucket}/{run}/{definition.after[0]}/{MANIFEST}"
        return f"s3://{bucket}/{run}/"


def _trigger(stage: StageDefinition) -> str:
    """The name of the object whose upload starts a first stage: its executable, or a start file for one that is
    already on S3 or on the image."""
    return stage.executable.rsplit("/", 1)[-1] if stage.is_local_file else f"{stage.name}.start"


def deploy_pipeline(
    pipeline: Pipeline,
    scheduler: str,
    *,
    on_event: Callable[[StackEvent], None] | None = None,
    settings: Mapping[str, str] | None = None,
    tags: Mapping[str, str] | None = None,
) -> Deployment:
    """Deploy one environment a stage, several at a time, then store the executables. Repeating it changes nothing.

    Args:
        pipeline: what to deploy.
        scheduler: the scheduler's stack name; it must exist.
        on_event: told of every step of every stack.
        settings: template parameters for every stage, ahead of the pipeline's own (``Subnets``, say).
        tags: for everything that costs money.

    Raises:
        DeployError: names the resource that failed and AWS's reason.
        SchedulerNotFound: the scheduler does not exist.
    """
    from concurrent.futures import ThreadPoolExecutor

    from sched_plugins import deploy
    from sched_plugins.deploy.account import Account

    deployment = Deployment(pipeline, scheduler, Account().number)

    def one(stage: StageDefinition) -> None:
        deploy.deploy_environment(
            pipeline.environment(stage.name),
            scheduler=scheduler,
            parameters={**deployment.parameters(stage), **(settings or {})},
            tags={"sched:pipeline": pipeline.name, **(tags or {})},
            on_event=on_event,
        )

    with ThreadPoolExecutor(4, thread_name_prefix="deploy") as pool:
        for outcome in [pool.submit(one, stage) for stage in pipeline.in_order()]:
            outcome.result()
    _store_executables(deployment)
    return deployment


def _store_executables(deployment: Deployment) -> None:
    from sched_plugins.client import EnvironmentClient

    for stage in deployment.pipeline.stages:
        if stage.is_local_file:
            environment = deployment.pipeline.environment(stage.name)
            # Marked as the environment's own, so that no trigger takes it for an upload.
            EnvironmentClient(environment).store(
                deployment.executable_uri(stage),
                deployment.pipeline.executable_path(stage),
                metadata={ENVIRONMENT_METADATA: environment},
            )


def find_deployment(pipeline: Pipeline) -> Deployment:
    """The deployment of a pipeline in this account and region.

    Raises:
        EnvironmentNotFound: a stage has not been deployed.
    """
    from sched_plugins import deploy
    from sched_plugins.deploy.account import Account

    schedulers = set()
    for stage in pipeline.stages:
        name = pipeline.environment(stage.name)
        try:
            schedulers.add(deploy.find_environment(name).scheduler)
        except NotFound:
            raise EnvironmentNotFound(
                f"stage {stage.name!r} of pipeline {pipeline.name!r} is not deployed (no environment {name!r}); "
                "run `sched deploy pipeline FILE --scheduler NAME`"
            ) from None
    return Deployment(pipeline, schedulers.pop(), Account().number)
