"""Everything that may go wrong, at random, while jobs run."""

from __future__ import annotations

import contextlib
import random
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import psutil
from account import SCHEDULER, Account, Trio

from sched_plugins.errors import LaptopStackError
from sched_plugins.local import control
from sched_plugins.local.fleet.settings import Settings


class Chaos:
    """Takes instances away, restarts agents, kills functions, loses events and replies; and keeps up the fleet.

    Args:
        account: whose jobs suffer.
        queue: whose workers are taken away, and replaced.
        seed: of everything random here. What it meets differs from run to run all the same.
        workers: how many there should be.
        spared: functions that are not killed.
    """

    def __init__(self, account: Account, queue: Trio, seed: int, workers: int, spared: tuple[str, ...]) -> None:
        self.done: Counter[str] = Counter()
        self._account, self._queue, self._workers, self._spared = account, queue, workers, spared
        self._random = random.Random(seed)
        self._calm = threading.Event()
        self._stop = threading.Event()
        self._raging = threading.Thread(target=self._rage)
        self._keeping_up = threading.Thread(target=self._keep_up)
        self.errors: list[BaseException] = []
        self._settings: dict[str, Any] = {
            "event_drop_fraction": 0.15,
            "event_duplicate_fraction": 0.25,
            "invocation_delay_seconds": 0.3,
            "output_delay_seconds": 0.5,
            "faults": {
                "SendCommand": {"fraction": 0.1, "lost_reply": True},
                "GetCommandInvocation": {"fraction": 0.1},
                "CancelCommand": {"fraction": 0.3, "lost_reply": True},
                "DescribeInstanceInformation": {"fraction": 0.2},
            },
            "seed": seed,
        }

    def __enter__(self) -> Chaos:
        self._keeping_up.start()
        return self

    def rage(self) -> None:
        """Begin."""
        control.settings(self._account.info, **self._settings)
        self._raging.start()

    def calm(self) -> None:
        """Do no more harm, and only keep up the number of workers."""
        self._calm.set()
        defaults = Settings().as_dict()
        control.settings(self._account.info, **{name: defaults[name] for name in self._settings})

    def __exit__(self, *_: object) -> None:
        self.calm()
        self._stop.set()
        for thread in (self._raging, self._keeping_up):
            if thread.ident:
                thread.join()

    def _rage(self) -> None:
        harms: list[Callable[[], str]] = [self._interrupt, self._restart_agent, self._kill_function]
        try:
            while not self._calm.wait(self._random.uniform(0.3, 1.2)):
                [harm] = self._random.choices(harms, [2, 2, 3])
                # What was chosen may have ended meanwhile.
                with contextlib.suppress(LaptopStackError, psutil.NoSuchProcess):
                    self.done[harm()] += 1
        except Exception as error:  # noqa: BLE001 - shown by the test
            self.errors.append(error)

    def _keep_up(self) -> None:
        """What an Auto Scaling group does, and the schedule of the sweep, only faster."""
        try:
            while not self._stop.wait(2.0):
                missing = self._workers - len(self._running())
                if missing > 0:
                    self.done["launch"] += missing
                    self._account.launch(self._queue, missing)
                self.done["sweep"] += 1
                self._account.sweep()
        except Exception as error:  # noqa: BLE001 - shown by the test
            self.errors.append(error)

    def _running(self) -> list[dict[str, Any]]:
        found = control.fleet(self._account.info)["instances"]
        mine = [one for one in found if one["tags"].get(SCHEDULER) == self._queue.name]
        return [one for one in mine if one["state"] in ("pending", "running")]

    def _victim(self) -> str:
        running = self._running()
        return str(self._random.choice(running)["instance_id"]) if running else ""

    def _interrupt(self) -> str:
        control.interrupt(self._account.info, self._victim())
        return "interrupt"

    def _restart_agent(self) -> str:
        control.restart_agent(self._account.info, self._victim(), kill=self._random.random() < 0.5)
        return "restart agent"

    def _kill_function(self) -> str:
        """Kill a process in which the stack runs a function, perhaps in the middle of it."""
        found = [one for one in self._account.function_processes() if one[0] not in self._spared]
        if not found:
            return "kill nothing"
        name, process = self._random.choice(found)
        process.kill()
        return f"kill {name}"
