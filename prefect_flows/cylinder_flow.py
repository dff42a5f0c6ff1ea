"""The cylinder-flow pipeline as a Prefect flow: four stages, each a job on the scheduler.

``make demo`` runs this file on the laptop stack. With ``--scheduler NAME`` it runs on a scheduler that is deployed
already, on AWS or on a laptop stack that is up. Copy the flow for a pipeline of your own: only ``PIPELINE`` and
the report know what is computed.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PIPELINE = HERE.parent / "pipelines" / "cylinder_flow"
STATE = Path(os.environ.get("SCHED_LOCAL_STATE", HERE.parent / ".sched-local"))

# Before Prefect is imported: its database beside the stack's state, and nothing sent anywhere.
os.environ.setdefault("PREFECT_HOME", str(STATE / "prefect"))
Path(os.environ["PREFECT_HOME"]).mkdir(parents=True, exist_ok=True)
# A failed stage is told of once, at the end. Prefect's own log, with its tracebacks, is for a server that keeps it.
os.environ.setdefault("PREFECT_LOGGING_LEVEL", "WARNING" if os.environ.get("PREFECT_API_URL") else "CRITICAL")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("PREFECT_SERVER_MEMOIZE_BLOCK_AUTO_REGISTRATION", "false")
os.environ.setdefault("DO_NOT_TRACK", "1")

from prefect import flow, task  # noqa: E402
from prefect.client.orchestration import get_client  # noqa: E402
from prefect.settings import PREFECT_API_URL, temporary_settings  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.markup import escape  # noqa: E402
from rich.table import Table  # noqa: E402

from sched_plugins import pipeline as pipelines  # noqa: E402
from sched_plugins.client import EnvironmentClient  # noqa: E402
from sched_plugins.core.record import JobRecord  # noqa: E402
from sched_plugins.errors import LaptopStackError, SchedulerError  # noqa: E402
from sched_plugins.local import lifecycle  # noqa: E402

console = Console(soft_wrap=True, highlight=False)
STARTED = time.monotonic()


def say(text: str) -> None:
    """One line of progress, with the seconds since the start."""
    console.print(f"[dim]{time.monotonic() - STARTED:6.1f} s[/dim]  {text}")


def show(stage: str, job: JobRecord) -> None:
    """One line for a change of a stage's job."""
    where = f" on {job.worker_id}" if job.worker_id else ""
    why = f": {job.status_reason}" if job.status_reason else ""
    say(escape(f"{stage:<12} {job.status}{where}{why}"))


@task(task_run_name="{stage}")
def run_stage(deployment: pipelines.Deployment, run: str, stage: str, parameters: dict[str, Any]) -> str:
    """Start a stage with its predecessors' results and wait for it; the results' address."""
    result = pipelines.run_stage(deployment, run, stage, parameters=parameters, on_change=show)
    return result.results_uri


@task
def follow_chained(run: pipelines.PipelineRun) -> None:
    """Watch a chained run to its end. Nothing here starts a stage: the manifests do."""
    for _ in pipelines.follow_chained(run, on_change=show):
        pass


@flow(name="cylinder-flow")
def cylinder_flow(reynolds: float = 20, mode: str = "orchestrated", results: str = "demo-results") -> dict[str, Any]:
    """Run the pipeline once and fetch what its last stage wrote.

    Args:
        reynolds: the Reynolds number; 20 is the published benchmark.
        mode: ``orchestrated`` (this flow starts each stage) or ``chained`` (one upload starts all).
        results: local folder for the pictures and results.json.
    """
    deployment = pipelines.find_deployment(pipelines.load(PIPELINE))
    parameters = {"preprocess": {"reynolds": reynolds}}
    name = pipelines.new_run_name()
    if mode == "chained":
        run = pipelines.run_chained(deployment, run=name, parameters=parameters)
        say(f"one upload: {run.job_id('preprocess')}")
        follow_chained(run)
    else:
        run = pipelines.PipelineRun(deployment, name, chained=False)
        for stage in deployment.pipeline.in_order():
            run_stage(deployment, name, stage.name, parameters.get(stage.name, {}))
    return fetch(run, Path(results))


@task
def fetch(run: pipelines.PipelineRun, folder: Path) -> dict[str, Any]:
    """Download the last stage's results and add what each stage took to results.json."""
    last = run.deployment.pipeline.in_order()[-1].name
    EnvironmentClient(run.deployment.pipeline.environment(last)).results(run.job_id(last), folder)
    report: dict[str, Any] = json.loads((folder / "results.json").read_text())
    report["mode"] = "chained" if run.chained else "orchestrated"
    report["stages"] = pipelines.stages_of(run)
    (folder / "results.json").write_text(json.dumps(report, indent=2) + "\n")
    return report


def print_report(report: dict[str, Any], folder: Path) -> None:
    """The table at the end: computed and published values, and the time of each stage."""
    reference, error = report["reference"] or {}, report["relative_error"] or {}
    values = Table(title=f"Flow around a cylinder, Re = {report['reynolds']:g}")
    for heading in ("quantity", "computed", "published", "relative error"):
        values.add_column(heading, justify="left" if heading == "quantity" else "right")
    for key, label in (
        ("drag_coefficient", "drag coefficient"),
        ("lift_coefficient", "lift coefficient"),
        ("pressure_difference", "pressure difference"),
    ):
        published = f"{reference[key]:.9f}" if key in reference else "–"
        deviation = f"{100 * abs(error[key]):.6f} %" if key in error else "–"
        values.add_row(label, f"{report[key]:.9f}", published, deviation)
    stages = Table(title="Stages")
    for heading in ("stage", "status", "worker", "waited", "ran"):
        stages.add_column(heading, justify="right" if heading in ("waited", "ran") else "left")
    for stage in report["stages"]:
        waited, ran = f"{stage['waited_seconds']:.1f} s", f"{stage['ran_seconds']:.1f} s"
        stages.add_row(stage["name"], stage["status"], stage["worker_id"], waited, ran)
    console.print(values)
    console.print(stages)
    pictures = ", ".join(sorted(path.name for path in folder.glob("*.png")))
    console.print(f"{folder}/results.json; pictures: {pictures}")


@contextmanager
def laptop_stack(scheduler: str) -> Iterator[None]:
    """A laptop stack with the pipeline deployed; taken down at the end, whatever happens, unless it ran before."""
    from sched_plugins import deploy

    with ExitStack() as cleanup:
        say("starting the laptop stack")
        stack = cleanup.enter_context(lifecycle.running(STATE))
        if stack.already_running:
            say(f"it runs already; {scheduler} stays in it: `sched local down` ends all")
        os.environ.update(lifecycle.environment(stack))
        say(f"deploying scheduler {scheduler}")
        deploy.deploy_scheduler(scheduler)
        say("deploying one environment a stage")
        pipelines.deploy_pipeline(pipelines.load(PIPELINE), scheduler)
        yield


@contextmanager
def prefect_server() -> Iterator[Callable[[], None]]:
    """A Prefect server of its own on loopback, unless PREFECT_API_URL names one.

    A process of its own starts while the stack is being deployed; inside this one it would hold everything up. Yields a
    function that waits until the server answers.
    """
    if os.environ.get("PREFECT_API_URL"):
        yield lambda: None
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [
        sys.executable,
        "-m",
        "prefect",
        "server",
        "start",
        "--host",
        "127.0.0.1",
        "--port",
        port,
        "--no-services",
    ]
    url = f"http://127.0.0.1:{port}/api"
    with (STATE / "prefect" / "server.log").open("w") as log:
        server = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, "PREFECT_API_URL": url},
        )
    try:
        with temporary_settings({PREFECT_API_URL: url}):
            yield lambda: wait_for(url, server)
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def wait_for(url: str, server: subprocess.Popen[bytes]) -> None:
    """Wait until the server answers, at most two minutes."""
    with get_client(sync_client=True) as client:
        for _ in range(480):
            if client.api_healthcheck() is None:
                return
            if server.poll() is not None:
                break
            time.sleep(0.25)
    log = STATE / "prefect" / "server.log"
    said = log.read_text(errors="replace").strip()[-2000:]
    raise LaptopStackError(f"the Prefect server at {url} did not start; {log} ends with:\n{said}")


def main() -> int:
    """Run the flow; 0 if every stage succeeded."""
    parser = argparse.ArgumentParser(description="Run the cylinder-flow pipeline.")
    parser.add_argument("--mode", choices=["orchestrated", "chained"], default="orchestrated")
    parser.add_argument("--reynolds", type=float, default=20.0)
    parser.add_argument("--results", type=Path, default=Path("demo-results"))
    parser.add_argument("--scheduler", default="", help="a deployed scheduler; empty: a laptop stack of its own")
    options = parser.parse_args()
    for ending in (signal.SIGTERM, signal.SIGHUP):
        # As Ctrl-C does: unwind, so that the stack and the Prefect server are taken down.
        signal.signal(ending, lambda number, _: sys.exit(128 + number))
    try:
        with ExitStack() as stack:
            wait_for_prefect = stack.enter_context(prefect_server())
            if not options.scheduler:
                stack.enter_context(laptop_stack("sched-demo"))
            wait_for_prefect()
            report = cylinder_flow(options.reynolds, options.mode, str(options.results))
    except SchedulerError as error:
        console.print(f"[red]{type(error).__name__}[/red]: {escape(str(error))}")
        if not options.scheduler and lifecycle.status(STATE) is None:
            console.print(
                "The demo's stack is down, its logs too. One that was up before (`sched local up`) would stay."
            )
        return 1
    print_report(report, options.results)
    say("done")
    return 0


if __name__ == "__main__":
    sys.exit(main())
