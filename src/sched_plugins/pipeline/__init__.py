"""Pipelines: stages chained by buckets, read from a ``pipeline.yaml``.

A pipeline is deployed as one environment a stage. It runs in two ways that give the same results: *orchestrated*
(:func:`run_orchestrated` starts each stage with its predecessors' results) and *chained*
(:func:`run_chained` makes one upload; manifests carry the run from bucket to bucket, with nobody watching).

What only reads pipeline files needs no AWS SDK: the rest is imported on use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from sched_plugins.pipeline.definition import Pipeline, StageDefinition, load, schema

if TYPE_CHECKING:
    from sched_plugins.pipeline.deployment import (
        Deployment,
        deploy_pipeline,
        destroy_pipeline,
        find_deployment,
        plan_pipeline,
    )
    from sched_plugins.pipeline.run import (
        PipelineRun,
        StageResult,
        check_run_name,
        find_run,
        follow_chained,
        new_run_name,
        run_chained,
        run_orchestrated,
        run_stage,
        stages_of,
    )

__all__ = [
    "Deployment",
    "Pipeline",
    "PipelineRun",
    "StageDefinition",
    "StageResult",
    "check_run_name",
    "deploy_pipeline",
    "destroy_pipeline",
    "find_deployment",
    "find_run",
    "follow_chained",
    "load",
    "new_run_name",
    "plan_pipeline",
    "run_chained",
    "run_orchestrated",
    "run_stage",
    "schema",
    "stages_of",
]


def __getattr__(name: str) -> Any:
    for module in ("deployment", "run"):
        if name in __all__:
            loaded = importlib.import_module(f"{__name__}.{module}")
            if hasattr(loaded, name):
                return getattr(loaded, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
