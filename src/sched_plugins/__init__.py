"""Run jobs and pipelines on a decoupled serverless scheduler, on AWS or on a laptop.

Public entry points live in :mod:`sched_plugins.client` (submit, watch, cancel, fetch),
:mod:`sched_plugins.deploy` (deploy a scheduler or an environment) and
:mod:`sched_plugins.pipeline` (chain stages). They are imported on use, not here, so that
``import sched_plugins`` costs nothing and needs neither Airflow, nor Prefect, nor AWS.
"""

from __future__ import annotations

__version__ = "0.1.0"
