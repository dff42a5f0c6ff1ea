"""The wrapper of the shell document, really run by a shell."""

from __future__ import annotations

import os
import random
import signal
import stat
import subprocess
import time
from pathlib import Path

import pytest
from wrapped import BASH, Worker, as_sh, contents, context, end_of, is_alive, pids, reaped, spec_fields, unpacked, until

from sched_plugins.core import wrapper
from sched_plugins.core.job import parse_spec
from sched_plugins.core.wrapper import codes

LEFTOVERS = (
    # in the job's session; in a session of its own; in the job's session with an empty environment and its own group
    "(echo $$ >/dev/null; exec sh -c 'echo $$ >\"$OUT/child\"; exec sleep 300') >/dev/null 2>&1 &",
    "setsid sh -c 'echo $$ >\"$OUT/session\"; exec sleep 300' >/dev/null 2>&1 &",
    'env -i bash -c \'set -m; sh -c "echo \\$\\$ >$0/bare; exec sleep 300" & wait\' "$OUT" >/dev/null 2>&1 &',
    # in a session of its own with an empty environment, but in the group of one that has not emptied its own
    "setsid sh -c 'env -i sh -c \"echo \\$\\$ >$OUT/grouped; exec sleep 300\" & wait' >/dev/null 2>&1 &",
    'for name in child session bare grouped; do while [ ! -s "$OUT/$name" ]; do sleep 0.02; done; done',
)
NAMES = ("child", "session", "bare", "grouped")


@pytest.fixture(params=["sh", "bash"])
def worker(request: pytest.FixtureRequest, tmp_path: Path) -> Worker:
    """On Amazon Linux and Red Hat, /bin/sh is Bash; on Debian and Ubuntu it is dash."""
    shell = as_sh(tmp_path / "shell", BASH) if request.param == "bash" else None
    return Worker(tmp_path / "worker", shell)


@pytest.fixture
def out(worker: Worker) -> Path:
    """Where a job's processes leave their ids."""
    folder = worker.root / "out"
    folder.mkdir()
    worker.environment["OUT"] = str(folder)
    return folder


def test_output_is_the_jobs_byte_for_byte_and_its_exit_code_is_kept(worker: Worker) -> None:
    ended = worker.run(r"printf 'a\000b\377 no newline'", r"printf 'e\376' >&2", "exit 7")
    assert (ended.code, ended.stdout, ended.stderr) == (7, b"a\0b\xff no newline", b"e\xfe")


def test_an_attempt_leaves_nothing_but_its_marker(worker: Worker) -> None:
    assert worker.run("echo x >here; touch 'in the way'; chmod 0 .").code == 0
    assert list(worker.work.iterdir()) == []
    (marker,) = (worker.state / "attempts").iterdir()
    assert marker.name == context().key
    assert [file.name for file in marker.iterdir()] == ["ended"]
    assert stat.S_IMODE(marker.stat().st_mode) == 0o700


def test_the_directory_is_fresh_private_and_the_working_directory(worker: Worker) -> None:
    first = worker.run("pwd; ls -A; stat -c %a .; touch left")
    second = worker.run("pwd; ls -A; stat -c %a .", at=context(attempt=2))
    assert first.stdout.split() == [f"{worker.work}/sched-{context().key}".encode(), b"700"]
    assert second.stdout.split() == [f"{worker.work}/sched-{context(attempt=2).key}".encode(), b"700"]


def test_a_given_working_directory_is_made_used_and_kept(worker: Worker) -> None:
    folder = worker.root / "given it's" / "deep"
    ended = worker.run("pwd; echo kept >file", working_directory=str(folder))
    assert ended.stdout.decode() == f"{folder}\n"
    assert (folder / "file").read_text() == "kept\n"


def test_a_working_directory_that_cannot_be_made_is_said(worker: Worker) -> None:
    (worker.root / "file").touch()
    ended = worker.run("echo ran", working_directory=str(worker.root / "file" / "below"))
    assert (ended.code, ended.stdout) == (wrapper.NOT_PREPARED, b"")
    assert ended.trailer is not None
    assert ended.trailer.exit_code is None
    assert "file/below could not be made" in ended.trailer.reason


def test_a_second_start_is_refused_and_runs_nothing(worker: Worker, out: Path) -> None:
    assert worker.run('echo ran >>"$OUT/log"').code == 0
    again = worker.run('echo ran >>"$OUT/log"')
    assert again.code == wrapper.ALREADY_STARTED
    assert b"was started on this worker before" in again.stderr
    assert (out / "log").read_text() == "ran\n"


def test_another_attempt_run_or_job_is_no_second_start(worker: Worker) -> None:
    others = [context(), context(attempt=2), context(run_id="other"), context(job_id="other")]
    assert [worker.run("true", at=other).code for other in others] == [0, 0, 0, 0]


def test_a_second_start_ends_the_first_which_still_runs(worker: Worker, out: Path) -> None:
    with reaped(worker.start(*LEFTOVERS, 'echo $$ >"$OUT/job"', "sleep 300", 'touch "$OUT/end"')) as first:
        processes = pids(out, *NAMES, "job")
        again = worker.run("echo ran")
        assert (again.code, again.stdout) == (wrapper.ALREADY_STARTED, b"")
        assert not any(map(is_alive, processes))
        assert end_of(first).code == 128 + signal.SIGKILL
    assert not (out / "end").exists()
    until(lambda: not list(worker.work.iterdir()), "the first start's directory is removed")


def test_a_second_start_after_a_reboot_removes_what_the_first_left(worker: Worker, out: Path) -> None:
    with reaped(worker.start('echo $$ >"$OUT/job"', "sleep 300")), reaped(stranger()) as other:
        pids(out, "job")
        os.killpg(guard_of(worker), signal.SIGKILL)
        (marker,) = (worker.state / "attempts").iterdir()
        (marker / "session").write_text(f"{other.pid} another-boot\n")
        assert worker.run("echo ran").code == wrapper.ALREADY_STARTED
        assert is_alive(other.pid)
    assert list(worker.work.iterdir()) == []


def guard_of(worker: Worker) -> int:
    """The guard's process group; its command line names the worker's directory."""
    return next(
        int(path.parent.name)
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if bytes(worker.root) in contents(path) and b"\0guard\0" in contents(path)
    )


def stranger() -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sleep", "300"], process_group=0)


def test_the_same_attempt_of_another_scheduler_on_this_machine_is_let_alone(tmp_path: Path, worker: Worker) -> None:
    other = Worker(tmp_path / "other", environment={"OUT": str(tmp_path)})
    with reaped(other.start('echo $$ >"$OUT/job"', "sleep 0.5; echo done")) as process:
        pids(tmp_path, "job")
        assert worker.run("true").code == 0
        assert worker.run("true").code == wrapper.ALREADY_STARTED
        assert end_of(process).stdout == b"done\n"


def test_a_job_that_starts_attempts_of_its_own_is_not_ended_by_them(worker: Worker) -> None:
    worker.environment["SCHED_ATTEMPT_KEY"] = "outer-1-"
    with reaped(subprocess.Popen(["sleep", "300"], env=worker.environment, process_group=0)) as outer:
        assert worker.run("true").code == 0
        assert worker.run("true").code == wrapper.ALREADY_STARTED
        assert is_alive(outer.pid)


def test_a_first_start_overtaken_before_its_job_ran_does_not_run_it(worker: Worker) -> None:
    worker.change = lambda text: text.replace("main()", ': >"$dir/over"\nmain()')
    ended = worker.run("echo ran")
    assert (ended.code, ended.stdout) == (wrapper.ALREADY_STARTED, b"")


def test_a_start_after_its_time_runs_nothing(worker: Worker) -> None:
    ended = worker.run("echo ran", at=context(start_by=int(time.time()) - 5))
    assert (ended.code, ended.stdout) == (wrapper.STARTED_TOO_LATE, b"")
    assert b"too late" in ended.stderr


@pytest.mark.parametrize("code", [194, 137, codes.RESERVED[0], codes.RESERVED[-1]])
def test_a_code_with_another_meaning_is_remapped_and_told(worker: Worker, code: int) -> None:
    ended = worker.run(f"exit {code}")
    assert ended.code == wrapper.EXIT_REMAPPED
    assert ended.trailer == wrapper.Trailer(exit_code=code)


def test_a_windows_reboot_code_is_the_linux_one_in_a_shell(worker: Worker) -> None:
    assert worker.run("exit 3010 || exit 194").trailer == wrapper.Trailer(exit_code=194)


def test_a_job_killed_by_a_signal_is_told_from_one_the_agent_stopped(worker: Worker) -> None:
    ended = worker.run("kill -KILL $$")
    assert ended.code == wrapper.EXIT_REMAPPED
    assert ended.stderr.startswith(b"\nsched-trailer: ")
    assert ended.trailer == wrapper.Trailer(exit_code=137)
    assert worker.run("kill -SEGV $$", at=context(attempt=2)).code == 139


def test_metrics_come_with_the_trailer_whatever_the_exit_code(worker: Worker) -> None:
    metrics = {"cells": 930, "dräg": 5.5795, "text": 'a"b\\c'}
    for code in (0, 3):
        ended = worker.run(
            "cat >\"$SCHED_METRICS\" <<'END'", '{"cells": 930,', '"dräg": 5.5795, "text": "a\\"b\\\\c"}', "END",
            f"exit {code}", at=context(attempt=code + 1),
        )  # fmt: skip
        assert ended.code == code
        assert ended.trailer == wrapper.Trailer(exit_code=code, metrics=metrics)


def test_metrics_that_are_too_long_or_no_object_are_left_out(worker: Worker) -> None:
    long = worker.run('printf \'{"x":"%4100d"}\' 0 >"$SCHED_METRICS"')
    assert long.trailer == wrapper.Trailer(exit_code=0)
    assert b"at most 4096" in long.stderr
    text = worker.run('echo text >"$SCHED_METRICS"', at=context(attempt=2))
    assert text.trailer == wrapper.Trailer(exit_code=0)


def test_a_jobs_own_trailer_does_not_hide_the_wrappers(worker: Worker) -> None:
    ended = worker.run("echo 'sched-trailer: eyJleGl0X2NvZGUiOjB9' >&2", "exit 194")
    assert ended.trailer == wrapper.Trailer(exit_code=194)


def test_the_jobs_variables(worker: Worker) -> None:
    values = {"A": "", "B": 'it\'s "$HOME" `id`\\', "C": "two\nlines\n", "OPTIND": "no", "UID": "x", "_": "y"}
    ended = worker.run(
        "#!/usr/bin/env -S printenv -0 SCHED_JOB_ID SCHED_RUN_ID SCHED_ATTEMPT SCHED_QUEUE A B C OPTIND UID _",
        environment=values | {"SCHED_JOB_ID": "mine", "SCHED_ATTEMPT_KEY": "mine"},
    )
    assert ended.stdout.decode().split("\0")[:-1] == ["job", "run", "1", "queue", *values.values()]


def test_the_jobs_environment_does_not_reach_the_wrapper(worker: Worker) -> None:
    ended = worker.run("exit 3", environment={"PATH": "/nowhere", "IFS": "/", "LD_PRELOAD": "", "TMPDIR": "/nowhere"})
    assert (ended.code, ended.stderr) == (3, b"")
    assert list(worker.work.iterdir()) == []


def test_an_almost_empty_environment_is_enough(tmp_path: Path) -> None:
    worker = Worker(tmp_path / "worker")
    worker.environment = {"SCHED_STATE_DIR": str(worker.state), "SCHED_WORK_DIR": str(worker.work)}
    assert worker.run("echo ran").stdout == b"ran\n"


def test_stdin_is_empty_and_interrupts_are_not_ignored(worker: Worker) -> None:
    ended = worker.run("cat", "grep SigIgn /proc/self/status")
    ignored = int(ended.stdout.split()[1], 16)  # whoever started the tests may ignore others
    assert [number for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM) if ignored >> (number - 1) & 1] == []


def test_a_job_that_ends_before_its_guard_has_begun_leaves_the_guard_alone(worker: Worker) -> None:
    worker.change = lambda text: text.replace("detached /bin/sh", "sleep 0.5; detached /bin/sh")
    ended = worker.run("echo ran")
    assert (ended.code, ended.stdout, ended.stderr) == (0, b"ran\n", b"")


def test_the_scripts_own_interpreter_runs_it(worker: Worker) -> None:
    ended = worker.run("#!/usr/bin/env -S bash -u", 'a=(1 2 3); echo "${a[1]}"', 'echo "$none"')
    assert ended.stdout == b"2\n"
    assert ended.code == 1


def test_what_the_job_leaves_running_is_killed_when_it_ends(worker: Worker, out: Path) -> None:
    ended = worker.run(*LEFTOVERS, "exit 4")
    assert ended.code == 4
    assert not any(map(is_alive, pids(out, *NAMES)))


def test_a_job_that_holds_its_output_open_does_not_hang_the_command(worker: Worker) -> None:
    assert worker.run("setsid sleep 300 &", "echo done").stdout == b"done\n"


def soon(text: str) -> str:
    return text.replace('sleep "$limit"', "sleep 0.3").replace("sleep 10\n", "sleep 0.5\n")


def test_a_timeout_ends_the_whole_tree_and_says_so(worker: Worker, out: Path) -> None:
    worker.change = soon
    ended = worker.run(*LEFTOVERS, 'echo $$ >"$OUT/job"', "sleep 300", "exit 0", timeout_seconds=1)
    assert ended.code == wrapper.TIMED_OUT
    assert ended.trailer is not None
    assert ended.trailer.reason == "the job ran longer than its timeout of 1 s"
    assert not any(map(is_alive, pids(out, *NAMES, "job")))


def test_a_timeout_lets_a_process_finish_but_not_for_ever(worker: Worker, out: Path) -> None:
    worker.change = soon
    save = "trap 'sleep 0.2; echo saved; exit 0' TERM; while :; do sleep 0.02; done"
    graceful = worker.run(save, timeout_seconds=1)
    assert (graceful.code, graceful.stdout) == (wrapper.TIMED_OUT, b"saved\n")
    deaf = worker.run("trap '' TERM", 'echo $$ >"$OUT/job"', "sleep 300", timeout_seconds=1, at=context(attempt=2))
    assert deaf.code == wrapper.TIMED_OUT
    assert not any(map(is_alive, pids(out, "job")))


def test_a_command_told_to_end_kills_the_tree_at_once(worker: Worker, out: Path) -> None:
    with reaped(worker.start(*LEFTOVERS, "trap '' TERM", 'echo $$ >"$OUT/job"', "sleep 300")) as process:
        processes = pids(out, *NAMES, "job")
        os.killpg(process.pid, signal.SIGTERM)
        ended = end_of(process)
    assert ended.trailer is not None
    assert "told to end" in ended.trailer.reason
    assert not any(map(is_alive, processes))
    assert list(worker.work.iterdir()) == []


def test_a_command_killed_as_the_agent_kills_leaves_nothing(worker: Worker, out: Path) -> None:
    with reaped(worker.start(*LEFTOVERS, "trap '' TERM HUP", 'echo $$ >"$OUT/job"', "sleep 300")) as process:
        processes = pids(out, *NAMES, "job")
        os.killpg(process.pid, signal.SIGKILL)
        until(lambda: not any(map(is_alive, processes)), "the job's processes are gone")
    until(lambda: not list(worker.work.iterdir()), "the directory is gone")
    (marker,) = (worker.state / "attempts").iterdir()
    until(lambda: not (marker / "script").exists(), "the script is gone")


def test_no_guard_outlives_its_attempt(worker: Worker) -> None:
    worker.run("true")
    mine = [path for path in Path("/proc").glob("[0-9]*/cmdline") if bytes(worker.root) in contents(path)]
    assert mine == []


def test_without_setsid_perl_makes_the_session(worker: Worker, out: Path) -> None:
    worker.change = lambda text: text.replace("[ -x /usr/bin/setsid ]", "false").replace("command -v setsid", "false")
    ended = worker.run(*LEFTOVERS, "ps -o sid= -p $$", "echo $$", "exit 5")
    sid, pid = ended.stdout.split()
    assert sid == pid
    assert ended.code == 5
    assert not any(map(is_alive, pids(out, *NAMES)))


def test_without_a_place_for_markers_nothing_runs(worker: Worker) -> None:
    (worker.root / "file").touch()
    worker.environment["SCHED_STATE_DIR"] = str(worker.root / "file" / "state")
    ended = worker.run("echo ran")
    assert (ended.code, ended.stdout) == (wrapper.NOT_PREPARED, b"")
    assert b"no marker could be made" in ended.stderr


def test_without_gzip_nothing_runs(worker: Worker) -> None:
    tools = worker.root / "tools"
    tools.mkdir()
    for name in ("mkdir", "date", "base64"):
        (tools / name).symlink_to(f"/usr/bin/{name}")
    (tools / "sh").symlink_to("/bin/sh")
    worker.environment["PATH"] = str(tools)
    ended = worker.run("echo ran")
    assert (ended.code, ended.stdout) == (wrapper.NOT_PREPARED, b"")
    assert b"could not be unpacked" in ended.stderr


def test_a_marker_is_found_wherever_it_was_made(tmp_path: Path) -> None:
    worker = Worker(tmp_path / "worker")
    (tmp_path / "home").mkdir()
    for name in ("HOME", "TMPDIR"):
        worker.environment[name] = str(tmp_path / "home")
    del worker.environment["SCHED_STATE_DIR"]
    later = tmp_path / "var-lib"
    worker.change = lambda text: text.replace("/var/lib/sched", str(later / "sched"))
    later.touch()
    assert worker.run("echo ran").stdout == b"ran\n"
    assert (tmp_path / "home/.sched/attempts" / context().key).is_dir()
    later.unlink()
    later.mkdir()
    assert worker.run("echo ran").code == wrapper.ALREADY_STARTED


def test_two_starts_at_once_run_the_job_at_most_once(worker: Worker, out: Path) -> None:
    starts = [worker.start('echo ran >>"$OUT/log"; sleep 0.2') for _ in range(4)]
    codes = sorted(end_of(start).code for start in starts)
    log = (out / "log").read_text() if (out / "log").exists() else ""
    assert log in ("", "ran\n")
    assert codes.count(wrapper.ALREADY_STARTED) >= 3


def test_the_largest_job_fits_and_runs(worker: Worker) -> None:
    text = "".join(random.Random(1).choices([chr(i) for i in range(35, 0x24F) if i not in (39, 92, 127)], k=35_000))
    ended = worker.run(f"x='{text}'", 'printf %s "$x"')
    assert ended.stdout.decode() == text


def test_the_script_is_one_a_shell_accepts(worker: Worker) -> None:
    lines = wrapper.command_parameters(parse_spec(spec_fields(commands=["true"])), context())["commands"]
    checked = subprocess.run(["sh", "-n"], input=unpacked(lines), text=True, capture_output=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")
