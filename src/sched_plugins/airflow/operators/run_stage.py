"""Run a stage as a task: files in, an executable, files out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import Asset, AssetAlias

from sched_plugins.airflow.exceptions import InvalidRequestException
from sched_plugins.airflow.operators.job_run import JobRunOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from sched_plugins.client import Job, Submitted


class RunStageOperator(JobRunOperator):
    """
    Start an executable in an environment with files around it, wait for it, and return the address of its results.

    The files of ``inputs`` lie in the executable's working directory; what it writes is copied to ``results_uri``.

    :param environment: The environment's stack name (templated).
    :param executable: What runs: a local file, which is uploaded by its content; an S3 address; or an absolute path
        on the worker's image (templated).
    :param inputs: S3 folders, or one of them: the results of earlier stages, say ``earlier.output``. By default those
        that the newest events of the task's inlets, or of the assets that started the DAG run, tell of (templated).
    :param input_names: Subdirectories for several inputs (templated).
    :param input_folder: A local folder whose files are uploaded, as a further input (templated).
    :param results_uri: The S3 folder of the results; by default one of the task's own in the environment's bucket
        (templated).
    :param parameters: Given to the executable as JSON in ``SCHED_PARAMETERS`` (templated).
    :param settings: Other fields of the job spec, ahead of the environment's: ``retry``, ``timeout_seconds``, …
        (templated).
    :param tags: Free labels (templated).
    :param emit_asset: Without outlets of your own, tell of the results by the asset ``s3://<the environment's
        bucket>/``: DAGs may be scheduled on it. The event's extra holds ``results_uri``, ``job_id``, ``run_id`` and
        ``metrics``; so does that of each outlet of your own.

    See :class:`~sched_plugins.airflow.operators.job_run.JobRunOperator` for the parameters about waiting and killing,
    and
    :class:`~sched_plugins.airflow.task.SchedulerTask` for those about the connection.
    """

    template_fields: Sequence[str] = (
        *JobRunOperator.template_fields, "executable", "inputs", "input_names", "input_folder", "results_uri",
        "parameters", "settings", "tags",
    )  # fmt: skip
    template_fields_renderers = {"parameters": "json", "settings": "json", "tags": "json"}

    def __init__(
        self,
        *,
        environment: str,
        executable: str,
        inputs: str | Sequence[str] | None = None,
        input_names: Sequence[str] = (),
        input_folder: str | None = None,
        results_uri: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        settings: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        emit_asset: bool = True,
        **kwargs: Any,
    ) -> None:
        if emit_asset and not kwargs.get("outlets") and isinstance(environment, str) and "{{" not in environment:
            kwargs["outlets"] = [AssetAlias(f"sched:{environment}")]
        super().__init__(environment=environment, **kwargs)
        self.executable = executable
        # Not whether they turn out to be none: a template that gives nothing is not to be taken for none asked for.
        self._inputs_by_assets = inputs is None
        self.inputs = inputs
        self.input_names = input_names
        self.input_folder = input_folder
        self.results_uri = results_uri
        self.parameters = parameters
        self.settings = settings
        self.tags = tags
        self.emit_asset = emit_asset

    def submit(self, context: Context, job_id: str, run_id: str) -> Submitted:
        """Upload what is local, then start the stage."""
        from sched_plugins.client.stage_files import local_inputs, store_inputs, stored_executable

        environment = self.hook.environment_client
        files = local_inputs(self.input_folder)
        inputs = [uri if uri.endswith("/") else f"{uri}/" for uri in self._inputs(context)]
        environment.require_stored([*inputs, *([self.executable] if self.executable.startswith("s3://") else [])])
        executable = stored_executable(environment, self.executable)
        # Of the run, so that another run of the same job, which may be live, keeps what it was given.
        folder = f"{self._folder(job_id)}_input/{run_id}/"
        names = list(self.input_names)
        if files:
            store_inputs(environment, files, str(self.input_folder), folder)
            inputs.append(folder)
            if names:
                names.append("input")
        return environment.start_stage(
            executable=executable,
            outputs=[self.planned_results(job_id)],
            job_id=job_id,
            inputs=inputs,
            input_names=names if len(inputs) > 1 else [],
            parameters=self.parameters,
            settings=self.settings,
            tags=self.tags,
            run_id=run_id,
        )

    def planned_results(self, job_id: str) -> str:
        """Get the folder that was given, or the job's own in the environment's bucket."""
        return self.results_uri or f"{self._folder(job_id)}results/"

    def _folder(self, job_id: str) -> str:
        from sched_plugins.client.stage_files import job_folder

        return job_folder(self.hook.environment_client.bucket, job_id)

    def result(self, context: Context, job: Job) -> str:
        """Return the address of the results, and tell the outlets of it."""
        uri = self._results_uri(job)
        extra: dict[str, Any] = {
            "results_uri": uri,
            "job_id": job.job_id,
            "run_id": job.run_id,
            "metrics": dict(job.metrics),
        }
        events = context.get("outlet_events")
        for outlet in self.outlets or () if events is not None else ():
            if isinstance(outlet, AssetAlias):
                bucket = uri.removeprefix("s3://").partition("/")[0]
                events[outlet].add(Asset(f"s3://{bucket}/"), extra=extra)  # type: ignore[index, arg-type]
            elif isinstance(outlet, Asset):
                events[outlet].extra = extra  # type: ignore[index]
        return uri

    def _inputs(self, context: Context) -> list[str]:
        if self._inputs_by_assets:
            return list(dict.fromkeys(_told_by_assets(context, self.inlets or ())))
        given: Any = self.inputs
        inputs: list[Any] = [given] if given is None or isinstance(given, str) else list(given)
        if not all(isinstance(uri, str) and uri for uri in inputs):
            raise InvalidRequestException(
                f"inputs is {repr(given)[:200]}: one of them is no folder's address; see what the task returned that "
                "they come from, if it ran at all"
            )
        return inputs


def _told_by_assets(context: Context, inlets: Sequence[Any]) -> Iterator[str]:
    """The results of which the assets tell that started the run; otherwise the newest event of each inlet."""
    triggering = context.get("triggering_asset_events") or {}
    found = [uri for events in triggering.values() if (uri := _newest(events))]
    if found or not inlets:
        yield from found
        return
    events = context.get("inlet_events")
    for inlet in inlets if events is not None else ():
        if uri := _newest(events[inlet]):  # type: ignore[index]
            yield uri


def _newest(events: Sequence[Any]) -> str:
    newest = max(events, key=lambda event: event.timestamp, default=None)
    return "" if newest is None else str((newest.extra or {}).get("results_uri", ""))
