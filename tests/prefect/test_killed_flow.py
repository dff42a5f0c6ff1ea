"""A flow's process is killed while its jobs run; who runs the flow run again finds them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from uuid import UUID

import pytest
from deployed import SCHEDULER, DeployedStack
from fleet_client import eventually
from prefect.client.orchestration import get_client
from prefect.flows import load_flow_from_entrypoint
from prefect.states import Pending
from prefect_stack import ENVIRONMENT

from sched_plugins.client import SchedulerClient
from sched_plugins.prefect.identity import group_id

FLOW = f"""
    import sys
    from uuid import UUID

    from prefect import flow
    from prefect.client.orchestration import get_client
    from prefect.flow_engine import run_flow

    from sched_plugins.prefect import ServerlessScheduler, run_job, submit_jobs, wait_for_jobs

    HERE = ServerlessScheduler(scheduler={SCHEDULER!r}, environment={ENVIRONMENT!r})

    @flow
    def solve(folder: str = "."):
        wait = f"echo x >> {{folder}}/begun; while ! test -e {{folder}}/go; do sleep 0.1; done"
        batch = submit_jobs([wait, wait], scheduler=HERE)
        single = run_job(wait, scheduler=HERE)
        together = wait_for_jobs(batch, scheduler=HERE)
        return [single.attempt, *(result.attempt for result in together.results)]

    if __name__ == "__main__":
        with get_client(sync_client=True) as client:
            flow_run = client.read_flow_run(UUID(sys.argv[1]))
        print(run_flow(solve, flow_run=flow_run, parameters={{"folder": sys.argv[2]}}))
"""


@pytest.mark.usefixtures("prefect_and_stack")
def test_a_killed_flow_that_is_run_again_attaches_to_its_jobs(tmp_path: Path, stack: DeployedStack) -> None:
    script = tmp_path / "solve.py"
    script.write_text(textwrap.dedent(FLOW))
    with get_client(sync_client=True) as client:
        flow_run = client.create_flow_run(load_flow_from_entrypoint(f"{script}:solve"), state=Pending())
    first = start(script, flow_run.id, tmp_path)
    begun = tmp_path / "begun"
    assert eventually(lambda: begun.exists() and len(begun.read_text().split()) == 3, 120)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    jobs = SchedulerClient(SCHEDULER).list(group=group_id(str(flow_run.id)))
    assert [str(job.status) for job in jobs] == ["RUNNING"] * 3, "nobody has cancelled them"
    second = start(script, flow_run.id, tmp_path)
    (tmp_path / "go").touch()
    told, _ = second.communicate(timeout=120)
    assert second.returncode == 0, told
    assert told.strip().splitlines()[-1] == "[1, 1, 1]"
    assert len(begun.read_text().split()) == 3, "each job ran once"
    ended = SchedulerClient(SCHEDULER).list(group=group_id(str(flow_run.id)))
    assert {job.job_id for job in ended} == {job.job_id for job in jobs}
    assert {(str(job.status), job.attempt, len(job.run_ids)) for job in ended} == {("SUCCEEDED", 1, 1)}


MAPPED = f"""
    from prefect import flow, unmapped

    from sched_plugins.prefect import ServerlessScheduler, run_job

    HERE = ServerlessScheduler(scheduler={SCHEDULER!r}, environment={ENVIRONMENT!r})

    @flow
    def solve():
        run_job.map(["sleep 300"] * 3, scheduler=unmapped(HERE), job_key=["a", "b", "c"]).wait()

    if __name__ == "__main__":
        solve()
"""


PARALLEL = f"""
    from pathlib import Path

    from prefect import flow

    from sched_plugins.pipeline.definition import Pipeline
    from sched_plugins.prefect import run_pipeline
    from sched_plugins.prefect.tasks import pipelines

    class Here(Pipeline):
        def environment(self, stage):
            return {ENVIRONMENT!r}

    @flow
    def solve():
        stages = [dict(name=name, executable="slow.sh") for name in ("aa", "bb", "cc")]
        pipeline = Here.model_validate(dict(name="parallel", stages=stages))
        pipeline._folder = Path(__file__).parent
        run_pipeline(pipeline)

    if __name__ == "__main__":
        solve()
"""


@pytest.mark.parametrize(
    ("flow", "number"),
    [(MAPPED, signal.SIGINT), (MAPPED, signal.SIGTERM), (PARALLEL, signal.SIGTERM)],
    ids=["mapped, SIGINT", "mapped, SIGTERM", "pipeline, SIGTERM"],
)
@pytest.mark.usefixtures("prefect_and_stack")
def test_a_signal_ends_the_jobs_for_which_threads_wait_and_the_flow(
    tmp_path: Path, flow: str, number: signal.Signals
) -> None:
    script = tmp_path / "solve.py"
    script.write_text(textwrap.dedent(flow))
    (tmp_path / "slow.sh").write_text("#!/bin/sh\nsleep 300\n")
    client = SchedulerClient(SCHEDULER)
    before = {job.job_id for job in client.list(limit=1000)}
    with (tmp_path / "log").open("w+") as log:
        process = subprocess.Popen([sys.executable, str(script)], stdout=log, stderr=log, cwd=tmp_path)

        def own() -> list[str]:
            return [job.job_id for job in client.list(limit=1000) if job.job_id not in before]

        try:
            assert eventually(lambda: len(own()) == 3, 60)
            process.send_signal(number)
            assert process.wait(60) != 0
        finally:
            process.kill()
            process.wait()
    assert eventually(lambda: {str(job.status) for job in client.get_many(own()).values()} == {"CANCELLED"}, 30)


def start(script: Path, flow_run_id: UUID, folder: Path) -> subprocess.Popen[str]:
    """A process that runs the flow run."""
    return subprocess.Popen(
        [sys.executable, str(script), str(flow_run_id), str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=folder,
        start_new_session=True,
    )
