"""A DAG that runs as jobs of an environment finish, whoever started them: Airflow watches its finished queue.

It starts as well for jobs of the command line, of an upload or of another Airflow. A message is deleted from the queue
once Airflow has stored its event, so none is lost; it may come twice. Here the environment is that of the last stage.
"""

from __future__ import annotations

from typing import Any

from airflow.providers.common.messaging.triggers.msg_queue import MessageQueueTrigger
from airflow.sdk import Asset, AssetWatcher, dag, task

FINISHED = Asset(
    "cylinder_flow_finished",
    watchers=[
        AssetWatcher(
            name="finished_queue",
            trigger=MessageQueueTrigger(scheme="sched", environment="cylinder-flow-postprocess"),
        )
    ],
)


@dag(schedule=[FINISHED], tags=["cylinder-flow"])
def on_finished_job() -> None:
    """Tell of every finished flow."""

    @task
    def tell(triggering_asset_events: Any = None) -> list[dict[str, Any]]:
        """Show the messages that started this run: several, where jobs finish faster than runs start."""
        told = [event.extra["payload"] for events in triggering_asset_events.values() for event in events]
        for one in told:
            print(f"{one['job_id']}: {one['status']}")
        return told

    tell()


on_finished_job()
