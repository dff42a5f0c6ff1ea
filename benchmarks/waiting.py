"""What waiting costs: triggers of this package beside the amazon provider's, and the waits of the Prefect tasks.

    python benchmarks/waiting.py [--waiting 1 100 1000 10000] [--window 125] [--json FILE]
    python benchmarks/waiting.py --kinds await_for_job wait_for_job wait_for_jobs [--window 40]

An endpoint in a process of its own plays DynamoDB, Batch and SQS, counts the calls, and works out DynamoDB's read
units. For each kind and number, a fresh process starts the triggers as a triggerer does, waits until all of them are
looked for, and then measures for a window, in which a job ends every two seconds: calls and read units a minute, CPU
of the process, the median delay until the trigger fires, and the longest time for which the event loop ran nothing
else. The kinds take turns. `BatchJobTrigger` polls every 30 s, as `BatchOperator` tells it to, `SqsSensorTrigger`
every 60 s: both are their defaults. Beyond 1,000 the peers' calls are extrapolated, since each of their triggers
polls for itself. Of the Prefect tasks the waiting itself is measured, without Prefect's engine: `await_for_job` in
coroutines, `wait_for_job` in a thread each, `wait_for_jobs` for all jobs in one thread.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from waiting_endpoint import serve
from waiting_kinds import starter_of

OWN = ("JobTrigger", "await_for_job", "wait_for_job", "wait_for_jobs")
KINDS = (*OWN, "BatchJobTrigger", "SqsSensorTrigger")
DEFAULT_KINDS = ("JobTrigger", "BatchJobTrigger", "SqsSensorTrigger")
PEERS_MEASURED_TO = 1_000
END_EVERY = 2.0
GROUPS_OF_STARTS = 100


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--waiting", type=int, nargs="+", default=[1, 100, 1_000, 10_000])
    parser.add_argument("--kinds", nargs="+", default=list(DEFAULT_KINDS), choices=KINDS)
    parser.add_argument("--window", type=float, default=125.0, help="seconds; SqsSensorTrigger looks every 61")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
        return 0
    if options.one:
        print(json.dumps(asyncio.run(measured(options.one[0], int(options.one[1]), options.window))))
        return 0
    figures = [
        figure
        for waiting in options.waiting
        for kind in options.kinds
        if (figure := run(kind, waiting, options.window)) is not None
    ]
    show(extrapolated(figures, options.waiting))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


def run(kind: str, waiting: int, window: float) -> dict[str, Any] | None:
    """Measure one kind with one number, in processes of their own; None where it is extrapolated."""
    if kind not in OWN and waiting > PEERS_MEASURED_TO:
        return None
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    me = [sys.executable, __file__]
    with tempfile.TemporaryDirectory(prefix="sched-waiting-") as home:
        variables = {
            **os.environ, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_REGION": "eu-west-1",
            "AWS_DEFAULT_REGION": "eu-west-1", "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x",
            # What is measured is the watching, and not how long a task has to have been deferred at least.
            "AIRFLOW__SCHED__SETTLE_SECONDS": "0",
            "AIRFLOW_HOME": home, "AIRFLOW__CORE__LOAD_EXAMPLES": "False", "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR",
        }  # fmt: skip
        server = subprocess.Popen([*me, "--serve", str(port)], env=variables)
        try:
            wait_for(port)
            command = [*me, "--one", kind, str(waiting), "--window", str(window)]
            done = subprocess.run(command, env=variables, stdout=subprocess.PIPE, text=True, check=True)
        finally:
            server.terminate()
            server.wait()
    figure: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"{kind} × {waiting:,}: {figure['calls_a_minute']:,.0f} calls a minute", file=sys.stderr)
    return figure


def wait_for(port: int) -> None:
    """Wait until the endpoint answers."""
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), 0.2).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise TimeoutError("the endpoint did not start")


def extrapolated(figures: list[dict[str, Any]], numbers: list[int]) -> list[dict[str, Any]]:
    """The figures, with the peers' calls beyond what was measured in proportion to the largest number that was."""
    all_ = list(figures)
    for kind in dict.fromkeys(figure["kind"] for figure in figures):
        known = {figure["waiting"]: figure for figure in figures if figure["kind"] == kind}
        for number in numbers:
            if number not in known:
                most = max(known)
                calls = known[most]["calls_a_minute"] * number / most
                all_.append({"kind": kind, "waiting": number, "calls_a_minute": calls, "extrapolated": True})
    return sorted(all_, key=lambda figure: (figure["waiting"], KINDS.index(figure["kind"])))


def show(figures: list[dict[str, Any]]) -> None:
    """Print the table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Waiting in one process")
    headings = (
        "waiting",
        "what waits",
        "calls/min",
        "read units/min",
        "CPU",
        "median delay",
        "longest block",
        "memory",
    )
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "what waits" else "right")
    for one in figures:
        if one.get("extrapolated"):
            cells = [f"{one['calls_a_minute']:,.0f} (extrapolated)", "–", "–", "–", "–"]
        else:
            delay = f"{one['median_delay']:.1f} s" if one["median_delay"] is not None else "none seen"
            cells = [f"{one['calls_a_minute']:,.0f}", f"{one['units_a_minute']:,.0f}", f"{one['cpu']:.1%}", delay,
                     f"{1000 * one['longest_block']:.0f} ms", f"{one['memory_mib']:.0f} MiB"]  # fmt: skip
        table.add_row(f"{one['waiting']:,}", one["kind"], *cells)
    Console(width=120).print(table)


# The measured process


async def measured(kind: str, waiting: int, window: float) -> dict[str, Any]:
    """Start the triggers, let it settle, and measure."""
    starter = starter_of(kind)
    fired: dict[int, float] = {}
    tasks = []
    for number in range(waiting):
        tasks.append(starter(number, fired))
        if number % GROUPS_OF_STARTS == 0:
            await asyncio.sleep(0)
    await asyncio.to_thread(settled, kind, waiting)
    before, begun, cpu = await asyncio.to_thread(counts), time.monotonic(), time.process_time()
    block = asyncio.create_task(longest_block(window))
    ended: dict[int, float] = {}
    spare = 1 if waiting == 1 else max(1, int(window / END_EVERY) - 2)
    for number in range(min(spare, waiting)):
        await asyncio.sleep(window / 2 if waiting == 1 else END_EVERY)
        ended[number] = time.time()
        await asyncio.to_thread(control, f"end/{number}")
    await asyncio.sleep(max(0.0, window - (time.monotonic() - begun)))
    minutes, used = (time.monotonic() - begun) / 60, time.process_time() - cpu
    after = await asyncio.to_thread(counts)
    longest = await block  # Before the end: ten thousand cancellations at once are not waiting any more.
    for task in tasks:
        task.cancel()
    await asyncio.gather(*[task for task in tasks if isinstance(task, asyncio.Task)], return_exceptions=True)
    delays = [fired[number] - moment for number, moment in ended.items() if number in fired]
    return {
        "kind": kind,
        "waiting": waiting,
        "calls_a_minute": (after["calls"] - before["calls"]) / minutes,
        "units_a_minute": (after["units"] - before["units"]) / minutes,
        "cpu": used / (60 * minutes),
        "median_delay": statistics.median(delays) if delays else None,
        "seen": f"{len(delays)} of {len(ended)}",
        "longest_block": longest,
        "memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


async def longest_block(seconds: float) -> float:
    """The longest time for which the loop did not come round, beyond a nap's."""
    nap, longest, end = 0.005, 0.0, time.monotonic() + seconds
    while time.monotonic() < end:
        before = time.monotonic()
        await asyncio.sleep(nap)
        longest = max(longest, time.monotonic() - before - nap)
    return longest


def settled(kind: str, waiting: int) -> None:
    """Wait until every trigger has been looked for once."""
    deadline = time.monotonic() + 180
    while counts()["looked_for"] < waiting and time.monotonic() < deadline:
        time.sleep(0.2)
    time.sleep(3 if kind in OWN else 0)


def control(path: str) -> Any:
    """Tell the endpoint something."""
    with urllib.request.urlopen(f"{os.environ['AWS_ENDPOINT_URL']}/_/{path}") as answer:
        return json.loads(answer.read())


def counts() -> dict[str, float]:
    """What the endpoint has counted."""
    return dict(control("counts"))


if __name__ == "__main__":
    sys.exit(main())
