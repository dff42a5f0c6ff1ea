"""A pipeline file as a group of tasks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from airflow.sdk import TaskGroup

from sched_plugins.airflow.exceptions import translated
from sched_plugins.airflow.operators.run_stage import RunStageOperator


class PipelineTaskGroup(TaskGroup):
    """
    One task for each stage of a ``pipeline.yaml``, each working on the results of those it comes after.

    Use :meth:`from_yaml`. The pipeline must be deployed: ``sched deploy pipeline FILE --scheduler NAME``.
    """

    stages: dict[str, RunStageOperator]
    """The tasks, by stage."""

    @classmethod
    def from_yaml(
        cls,
        path: str | Path,
        *,
        group_id: str | None = None,
        parameters: Mapping[str, Mapping[str, Any]] | None = None,
        input_folder: str | None = None,
        stage_arguments: Mapping[str, Mapping[str, Any]] | None = None,
        prefix_group_id: bool = True,
        **kwargs: Any,
    ) -> PipelineTaskGroup:
        """
        Make the group from a pipeline file.

        :param path: The file, or the folder that holds a ``pipeline.yaml``.
        :param group_id: The group's id; by default the pipeline's name.
        :param parameters: Parameters by stage, ahead of the file's (templated).
        :param input_folder: A local folder with the first stages' input files (templated).
        :param stage_arguments: Arguments of single stages' tasks, by stage: ``retries``, ``outlets``, …
        :param prefix_group_id: Whether the task ids begin with the group's.
        :param kwargs: Arguments of every stage's task.
        :raises InvalidRequestException: The file, or a stage's name, is wrong.
        """
        from sched_plugins.pipeline import load

        chosen, arguments = parameters or {}, stage_arguments or {}
        with translated():
            pipeline = load(path)
            for name in (*chosen, *arguments):
                pipeline.stage(name)
        group = cls(group_id=group_id or pipeline.name, tooltip=pipeline.description, prefix_group_id=prefix_group_id)
        group.stages = {}
        with group:
            for stage in pipeline.in_order():
                local = pipeline.executable_path(stage)
                files = {"input_folder": input_folder} if input_folder and not stage.after else {}
                settings: dict[str, Any] = {
                    "inputs": [group.stages[name].output for name in stage.after],
                    "input_names": list(stage.after) if len(stage.after) > 1 else [],
                    "parameters": dict(chosen.get(stage.name, {})) or None,
                    **files,
                    **kwargs,
                    **arguments.get(stage.name, {}),
                }
                group.stages[stage.name] = RunStageOperator(
                    task_id=stage.name,
                    environment=pipeline.environment(stage.name),
                    executable=str(local) if stage.is_local_file else stage.executable,
                    **settings,
                )
        return group
