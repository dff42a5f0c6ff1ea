"""The worker of work pools of the type ``serverless-scheduler``: each flow run is a job.

:mod:`.worker` is the worker, :mod:`.run_flow` what its jobs start with on their machines, where nothing of Prefect is
to be imported before it is needed: so nothing is imported here.
"""
