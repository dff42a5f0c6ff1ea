"""Jobs that run until a test lets them go, and what a test asks about them: what they ran, their processes, records."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import psutil
from deployed import plain
from fleet_client import FleetClient
from standalone import Standalone, eventually

from sched_plugins.core import names
from sched_plugins.local import processes
from sched_plugins.local.airflow import SCHEDULER

ENVIRONMENT = "cylinder-flow-preprocess"
"""One whose workers need no installation; none of the tests of the pipeline is harmed by more jobs."""
TASK = "job"
DAGS = f'''
from datetime import timedelta

from airflow.sdk import Param, dag
from sched_plugins.airflow.operators.submit_job import SubmitJobOperator

HELD = """
sh -c 'echo ran >> "$0/ran"; until [ -e "$0/go" ]; do sleep 0.1; done' '{{{{ params.folder }}}}'
"""


def held(dag_id, deferrable):
    @dag(dag_id=dag_id, schedule=None, params={{"folder": Param("", type="string")}})
    def made():
        SubmitJobOperator(
            task_id="{TASK}", environment="{ENVIRONMENT}", commands=HELD.strip(), deferrable=deferrable,
            retries=1, retry_delay=timedelta(seconds=1),
        )

    made()


held("held_on_worker", deferrable=False)
held("held_deferred", deferrable=True)
'''


class HeldJob:
    """A run of a DAG with one task, and the job of that."""

    def __init__(self, airflow: Standalone, dag_id: str, folder: Path) -> None:
        self.airflow = airflow
        self.dag_id = dag_id
        self.folder = folder
        self.run_id = airflow.trigger(dag_id, folder=str(folder))

    def task(self) -> dict[str, Any]:
        """The task instance."""
        return self.airflow.task(self.dag_id, self.run_id, TASK)

    def log(self) -> str:
        """The log of the task's last try."""
        return self.airflow.log(self.dag_id, self.run_id, TASK)

    def mark(self, state: str) -> None:
        """Mark the task."""
        self.airflow.mark(self.dag_id, self.run_id, TASK, state)

    def clear(self) -> None:
        """Clear the task."""
        self.airflow.clear(self.dag_id, self.run_id, TASK)

    def ended(self) -> str:
        """State of the DAG's run once it is over."""
        return self.airflow.ended(self.dag_id, self.run_id)

    def let_go(self) -> None:
        """Let the job's commands end, now and whenever they run again."""
        (self.folder / "go").touch()

    def times_run(self) -> int:
        """How often the job's commands have begun."""
        path = self.folder / "ran"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def records(self) -> list[dict[str, Any]]:
        """The records of all jobs of this run of the DAG, the oldest first."""
        dynamodb = FleetClient(self.airflow.airflow.stack).client("dynamodb")
        items = dynamodb.scan(TableName=names.job_table(SCHEDULER), ConsistentRead=True)["Items"]
        found = [one for one in map(plain, items) if one["job_id"].startswith(f"airflow/{self.dag_id}/{self.run_id}/")]
        return sorted(found, key=lambda one: str(one["submitted_at"]))

    def processes(self) -> set[tuple[int, str]]:
        """Those of the job's commands: ids and start times."""
        found = [one.pid for one in psutil.process_iter() if str(self.folder) in _command(one)]
        return {(pid, started) for pid in found if (started := processes.start_time(pid))}

    def runs(self, state: str) -> set[tuple[int, str]]:
        """Wait until the task is in this state while the job runs; the job's processes."""

        def look() -> set[tuple[int, str]]:
            task = self.task()
            assert task["state"] not in ("success", "failed"), self.log()
            return self.processes() if task["state"] == state else set()

        found: set[tuple[int, str]] = eventually(look)
        return found

    def followed(self) -> set[tuple[int, str]]:
        """Wait until a triggerer follows the job of the deferred task; the job's processes."""
        found = self.runs("deferred")
        eventually(lambda: re.search(r"trigger .+ starting", self.log()))
        return found


def _command(process: psutil.Process) -> list[str]:
    try:
        return [str(one) for one in process.cmdline()]
    except psutil.Error:
        return []


def alive(found: set[tuple[int, str]]) -> set[tuple[int, str]]:
    """Those of these processes that still run."""
    return {(pid, started) for pid, started in found if processes.is_alive(pid, started)}
