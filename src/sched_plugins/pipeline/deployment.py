"""A pipeline on AWS, or on a laptop: one environment a stage, each stage's output bucket the next one's input."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sched_plugins.core import names
from sched_plugins.core.environment import ENVIRONMENT_METADATA, MANIFEST
from sched_plugins.errors import Conflict, EnvironmentNotFound, NotFound
from sched_plugins.pipeline.definition import Pipeline, StageDefinition

if TYPE_CHECKING:
    from sched_plugins import deploy
    from sched_plugins.deploy import Destruction, StackEvent

_TAG = "sched:pipeline"
"""Tag of a stage's stack: the pipeline's name."""
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
    from sched_plugins.deploy.account import Account

    deployment = Deployment(pipeline, scheduler, Account().number)
    _deploy_stages(deployment, settings, tags, on_event, plan_only=False)
    _store_executables(deployment)
    return deployment


def plan_pipeline(
    pipeline: Pipeline,
    scheduler: str,
    *,
    settings: Mapping[str, str] | None = None,
    tags: Mapping[str, str] | None = None,
) -> dict[str, deploy.Deployment]:
    """What :func:`deploy_pipeline` would change, by stage; nothing is changed. Arguments and errors are the same."""
    from sched_plugins.deploy.account import Account

    deployment = Deployment(pipeline, scheduler, Account().number)
    return _deploy_stages(deployment, settings, tags, None, plan_only=True)


def _deploy_stages(
    deployment: Deployment,
    settings: Mapping[str, str] | None,
    tags: Mapping[str, str] | None,
    on_event: Callable[[StackEvent], None] | None,
    *,
    plan_only: bool,
) -> dict[str, deploy.Deployment]:
    from concurrent.futures import ThreadPoolExecutor

    from sched_plugins import deploy

    pipeline = deployment.pipeline

    def one(stage: StageDefinition) -> deploy.Deployment:
        return deploy.deploy_environment(
            pipeline.environment(stage.name),
            scheduler=deployment.scheduler,
            parameters={**deployment.parameters(stage), **(settings or {})},
            tags={_TAG: pipeline.name, **(tags or {})},
            plan_only=plan_only,
            on_event=on_event,
        )

    with ThreadPoolExecutor(4, thread_name_prefix="deploy") as pool:
        outcomes = {stage.name: pool.submit(one, stage) for stage in pipeline.in_order()}
    return {stage: outcome.result() for stage, outcome in outcomes.items()}


def destroy_pipeline(
    pipeline: Pipeline,
    *,
    delete_data: bool = False,
    cancel_jobs: bool = False,
    plan_only: bool = False,
    on_event: Callable[[StackEvent], None] | None = None,
) -> list[Destruction]:
    """Delete the environments of a pipeline's stages; those that are not deployed are left out.

    Every stage is checked before the first one is deleted. The earlier stages go first, since they write into the
    buckets of the later ones. Arguments are those of :func:`sched_plugins.deploy.destroy`.

    Raises:
        EnvironmentNotFound: no stage is deployed.
        Conflict: a stage's environment is not this pipeline's, or holds what has not been agreed to; nothing has been
            changed then.
        DeployError: one could not be deleted; those before it are gone.
    """
    from sched_plugins import deploy

    there: list[str] = []
    for stage in pipeline.in_order():
        name = pipeline.environment(stage.name)
        try:
            found = deploy.find_environment(name)
        except EnvironmentNotFound:
            continue
        if found.tags.get(_TAG) != pipeline.name:
            raise Conflict(
                f"environment {name!r} was not deployed as a stage of pipeline {pipeline.name!r}; if it is to go, "
                f"run `sched destroy {name}`"
            )
        there.append(name)
    if not there:
        raise EnvironmentNotFound(f"no stage of pipeline {pipeline.name!r} is deployed; there is nothing to destroy")
    destroy = functools.partial(deploy.destroy, delete_data=delete_data, cancel_jobs=cancel_jobs)
    planned = [destroy(name, plan_only=True) for name in there]
    return planned if plan_only else [destroy(name, on_event=on_event) for name in there]


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
