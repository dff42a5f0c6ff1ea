"""The plugin: Airflow finds the operators' links by it, in every component."""

from __future__ import annotations

from airflow.plugins_manager import AirflowPlugin

from sched_plugins.airflow.links.scheduler import JOB_LINKS


class SchedulerPlugin(AirflowPlugin):
    """Registers the extra links."""

    name = "sched"
    operator_extra_links = [link() for link in JOB_LINKS]
