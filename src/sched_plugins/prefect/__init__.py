"""Prefect for a serverless scheduler: blocks, tasks, a work pool's worker and a task runner.

::

    from prefect import flow
    from sched_plugins.prefect import run_job

    @flow
    def hello() -> None:
        run_job("echo hello", scheduler="sim")

Nothing is imported before it is used: a job that runs one task does not wait for the rest.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from sched_plugins.prefect.artifacts import (
        acreate_image_artifacts,
        acreate_job_links,
        acreate_job_table,
        create_image_artifacts,
        create_job_links,
        create_job_table,
    )
    from sched_plugins.prefect.automations import acreate_recommended_automations, create_recommended_automations
    from sched_plugins.prefect.blocks.job import SchedulerJob, SchedulerJobRun
    from sched_plugins.prefect.blocks.scheduler import ServerlessScheduler
    from sched_plugins.prefect.bridge import abridge_finished_queue, bridge_finished_queue
    from sched_plugins.prefect.cancellation import cancel_jobs
    from sched_plugins.prefect.events import emit_job_event
    from sched_plugins.prefect.exceptions import JobRunCancelled, JobRunFailed, JobWaitTimeout
    from sched_plugins.prefect.progress import BatchProgress
    from sched_plugins.prefect.records import JobHandle, JobResult
    from sched_plugins.prefect.task_runner import SchedulerTaskRunner
    from sched_plugins.prefect.tasks.batches import (
        BatchResult,
        SubmittedJobs,
        asubmit_jobs,
        await_for_jobs,
        submit_jobs,
        wait_for_jobs,
    )
    from sched_plugins.prefect.tasks.jobs import (
        acancel_job,
        ajob_logs,
        arun_job,
        asubmit_job,
        await_for_job,
        cancel_job,
        job_logs,
        run_job,
        submit_job,
        wait_for_job,
    )
    from sched_plugins.prefect.tasks.pipelines import arun_pipeline, run_pipeline
    from sched_plugins.prefect.tasks.stages import arun_stage, run_stage
    from sched_plugins.prefect.worker.decorators import serverless_scheduler
    from sched_plugins.prefect.worker.worker import SchedulerWorker

_HERE: Final = {
    "artifacts": (
        "acreate_image_artifacts", "acreate_job_links", "acreate_job_table", "create_image_artifacts",
        "create_job_links", "create_job_table",
    ),
    "automations": ("acreate_recommended_automations", "create_recommended_automations"),
    "blocks.job": ("SchedulerJob", "SchedulerJobRun"),
    "blocks.scheduler": ("ServerlessScheduler",),
    "bridge": ("abridge_finished_queue", "bridge_finished_queue"),
    "cancellation": ("cancel_jobs",),
    "events": ("emit_job_event",),
    "exceptions": ("JobRunCancelled", "JobRunFailed", "JobWaitTimeout"),
    "progress": ("BatchProgress",),
    "records": ("JobHandle", "JobResult"),
    "task_runner": ("SchedulerTaskRunner",),
    "tasks.batches": (
        "BatchResult", "SubmittedJobs", "asubmit_jobs", "await_for_jobs", "submit_jobs", "wait_for_jobs",
    ),
    "tasks.jobs": (
        "acancel_job", "ajob_logs", "arun_job", "asubmit_job", "await_for_job", "cancel_job", "job_logs", "run_job",
        "submit_job", "wait_for_job",
    ),
    "tasks.pipelines": ("arun_pipeline", "run_pipeline"),
    "tasks.stages": ("arun_stage", "run_stage"),
    "worker.decorators": ("serverless_scheduler",),
    "worker.worker": ("SchedulerWorker",),
}  # fmt: skip
_MODULES: Final = {name: module for module, names in _HERE.items() for name in names}

__all__ = [
    "BatchProgress",
    "BatchResult",
    "JobHandle",
    "JobResult",
    "JobRunCancelled",
    "JobRunFailed",
    "JobWaitTimeout",
    "SchedulerJob",
    "SchedulerJobRun",
    "SchedulerTaskRunner",
    "SchedulerWorker",
    "ServerlessScheduler",
    "SubmittedJobs",
    "abridge_finished_queue",
    "acancel_job",
    "acreate_image_artifacts",
    "acreate_job_links",
    "acreate_job_table",
    "acreate_recommended_automations",
    "ajob_logs",
    "arun_job",
    "arun_pipeline",
    "arun_stage",
    "asubmit_job",
    "asubmit_jobs",
    "await_for_job",
    "await_for_jobs",
    "bridge_finished_queue",
    "cancel_job",
    "cancel_jobs",
    "create_image_artifacts",
    "create_job_links",
    "create_job_table",
    "create_recommended_automations",
    "emit_job_event",
    "job_logs",
    "run_job",
    "run_pipeline",
    "run_stage",
    "serverless_scheduler",
    "submit_job",
    "submit_jobs",
    "wait_for_job",
    "wait_for_jobs",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    # For `prefect block register --module sched_plugins.prefect`, which looks for blocks among the members.
    return __all__
