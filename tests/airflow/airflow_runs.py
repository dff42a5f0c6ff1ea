"""Running DAGs of tests in Airflow's own way, without a scheduler."""

from __future__ import annotations

import gc
import warnings
from typing import Any


def run_of(dag: Any) -> Any:
    """A run of a DAG, as ``airflow dags test`` makes it, once it is over."""
    register(dag)
    run = dag.test()
    # The search for DAG files leaves a directory open, which nobody hears of if it is collected here.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "unclosed scandir iterator", ResourceWarning)
        gc.collect()
    return run


def register(dag: Any) -> None:
    """Write a DAG into the metadata database, as the DAG processor does."""
    from airflow.models.dagbundle import DagBundleModel
    from airflow.models.serialized_dag import SerializedDagModel
    from airflow.serialization.definitions.dag import SerializedDAG
    from airflow.serialization.serialized_objects import LazyDeserializedDAG
    from airflow.utils.session import create_session

    with create_session() as session:
        if session.get(DagBundleModel, "dags-folder") is None:
            session.add(DagBundleModel(name="dags-folder"))
            session.flush()
        lazy = LazyDeserializedDAG.from_dag(dag)
        SerializedDAG.bulk_write_to_db("dags-folder", None, [lazy], session=session)
        SerializedDagModel.write_dag(lazy, bundle_name="dags-folder", session=session)


def xcom(run: Any, task_id: str, key: str = "return_value", map_index: int = -1) -> Any:
    """The value that a task of a run has handed on."""
    return run.get_task_instance(task_id, map_index=map_index).xcom_pull(
        task_ids=task_id, key=key, map_indexes=None if map_index < 0 else map_index
    )
