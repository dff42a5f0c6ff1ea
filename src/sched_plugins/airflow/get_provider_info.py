"""What the provider tells Airflow of itself. Read at every start: it imports nothing but more of the same."""

from __future__ import annotations

from typing import Any, Final

from sched_plugins.airflow.executors.options import config_section

_HERE: Final = "sched_plugins.airflow"
_NAME: Final = "Serverless scheduler"

UI_FIELD_BEHAVIOUR: Final[dict[str, Any]] = {
    "hidden-fields": ["host", "schema", "port"],
    "relabeling": {"login": "AWS Access Key ID", "password": "AWS Secret Access Key"},
    "placeholders": {
        "login": "empty: boto3 finds credentials itself",
        "password": "",
        "extra": '{\n  "config_kwargs": {"retries": {"mode": "standard"}},\n  "assume_role_kwargs": {}\n}',
    },
}
_TEXT: Final = {"type": ["string", "null"]}
_CONN_FIELDS: Final = {
    "scheduler": {"label": "Scheduler", "description": "The scheduler's stack name.", "schema": _TEXT},
    "region_name": {"label": "AWS region", "description": "Where the scheduler is.", "schema": _TEXT},
    "role_arn": {"label": "Role", "description": "The ARN of a role to assume.", "schema": _TEXT},
    "endpoint_url": {
        "label": "Endpoint",
        "description": "Where every AWS service answers, of a laptop stack say.",
        "schema": _TEXT,
    },
}


def get_provider_info() -> dict[str, Any]:
    """Tell the provider's metadata."""
    return {
        "package-name": "sched-plugins",
        "name": _NAME,
        "description": "Run jobs on a decoupled serverless scheduler on AWS.",
        "integrations": [{"integration-name": _NAME, "external-doc-url": "https://aws.amazon.com/", "tags": ["aws"]}],
        "hooks": _modules("hooks.scheduler"),
        "operators": _modules(
            "operators.submit_job", "operators.submit_jobs", "operators.run_stage", "operators.cancel_job"
        ),
        "sensors": _modules("sensors.job", "sensors.finished_queue", "sensors.queue_drained"),
        "triggers": _modules("triggers.job", "triggers.finished_job", "triggers.queue_drained"),
        "queues": [f"{_HERE}.queues.finished_job.SchedulerMessageQueueProvider"],
        "connection-types": [
            {
                "connection-type": "sched",
                "hook-class-name": f"{_HERE}.hooks.scheduler.SchedulerHook",
                "hook-name": _NAME,
                "ui-field-behaviour": UI_FIELD_BEHAVIOUR,
                "conn-fields": _CONN_FIELDS,
            }
        ],
        "extra-links": [
            f"{_HERE}.links.scheduler.{name}"
            for name in ("JobItemLink", "ResultsLink", "OutputLink", "WorkerExecutionLink")
        ],
        "plugins": [{"name": "sched", "plugin-class": f"{_HERE}.plugin.SchedulerPlugin"}],
        "executors": [f"{_HERE}.executors.scheduler_executor.SchedulerExecutor"],
        "cli": [f"{_HERE}.executors.cli.commands"],
        "config": {
            "sched": {"description": "The serverless scheduler.", "options": _options()},
            **{name: _formatted(section) for name, section in config_section().items()},
        },
    }


def _modules(*names: str) -> list[dict[str, Any]]:
    return [{"integration-name": _NAME, "python-modules": [f"{_HERE}.{name}" for name in names]}]


def _formatted(section: dict[str, Any]) -> dict[str, Any]:
    """The section with the braces of its defaults doubled: Airflow fills these in as format strings."""
    options = {
        name: {**option, "default": str(option["default"]).replace("{", "{{").replace("}", "}}")}
        for name, option in section["options"].items()
    }
    return {**section, "options": options}


def _options() -> dict[str, Any]:
    def option(description: str, kind: str, default: str, example: str | None = None) -> dict[str, Any]:
        return {
            "description": description, "type": kind, "default": default, "example": example, "version_added": "0.1.0",
        }  # fmt: skip

    return {
        "default_scheduler": option(
            "Stack name of the scheduler where neither the task nor its connection names one.", "string", "", "sim"
        ),
        "job_id_prefix": option(
            "What the ids of this Airflow's jobs begin with. Give each Airflow that shares a scheduler one of its own.",
            "string",
            "airflow",
            "airflow-production",
        ),
        "longest_watch_interval": option(
            "Seconds between two looks of a triggerer at the jobs of a scheduler, at most. However many tasks wait, a "
            "look costs four queries.",
            "float",
            "3.0",
        ),
        "settle_seconds": option(
            "Seconds for which a task has to have been deferred before a trigger resumes it, since Airflow 3.3 fails "
            "tasks that are resumed before its scheduler has heard of the deferral. -1: [workers] "
            "min_heartbeat_interval and three more.",
            "float",
            "-1",
        ),
    }
