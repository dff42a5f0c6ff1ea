"""The executor that runs Airflow's tasks as jobs of a scheduler.

Nothing is imported here: a worker runs :mod:`~.run_workload` of this package, and should not wait for Airflow twice.
"""
