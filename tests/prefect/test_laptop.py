"""What ``make prefect`` makes on its server, at the first start and at later ones."""

from __future__ import annotations

import sys
from pathlib import Path
from uuid import uuid4

from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.states import Cancelling, Completed, Running, Scheduled

from sched_plugins.prefect import ServerlessScheduler
from sched_plugins.prefect.laptop import main


@flow
def nothing() -> None: ...


def test_a_later_start_renews_the_pool_and_ends_the_runs_of_a_stack_that_has_gone(prefect_server: str) -> None:
    pool = f"laptop-{uuid4().hex[:8]}"
    assert main([pool, "sim", "box"]) == 0
    with get_client(sync_client=True) as client:
        made = client.read_work_pool(pool)
        defaults = {name: one.get("default") for name, one in made.base_job_template["variables"]["properties"].items()}
        assert made.type == "serverless-scheduler"
        assert (defaults["scheduler"], defaults["environment"], defaults["python"]) == ("sim", "box", sys.executable)
        assert defaults["env"] == {"SCHED_SCHEDULER": "sim"}

        deployment = nothing.to_deployment("once", work_pool_name=pool)
        deployment.entrypoint = f"{Path(__file__).name}:nothing"
        deployment_id = deployment.apply()
        states = (Running(), Cancelling(), Completed(), Scheduled())
        runs = [client.create_flow_run_from_deployment(deployment_id, state=state).id for state in states]
        ends = lambda: [client.read_flow_run(run).state_type for run in runs]  # noqa: E731
        assert main([pool, "other", "box"]) == 0
        assert ends() == [state.type for state in states]  # their stack runs on

        assert main([pool, "other", "box", "--new-stack"]) == 0
        assert ends() == [StateType.CRASHED, StateType.CANCELLED, StateType.COMPLETED, StateType.SCHEDULED]
        again = client.read_work_pool(pool).base_job_template["variables"]["properties"]
        assert again["scheduler"]["default"] == "other"
    block = ServerlessScheduler.load(pool)
    assert (block.scheduler, block.environment) == ("other", "box")
