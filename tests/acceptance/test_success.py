"""What counts as success: the exit code, and the success string in the whole of stdout and nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from account import Account, Trio

NEEDLE = "ALL-DONE-4711"
LINES = 3_000


@pytest.fixture(scope="module")
def starts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file to which the job that asks for a reboot adds a line at each start."""
    return tmp_path_factory.mktemp("success") / "starts"


@pytest.fixture(scope="module")
def queue(account: Account) -> Trio:
    return account.trio("success")


@pytest.fixture(scope="module")
def jobs(account: Account, queue: Trio, starts: Path) -> dict[str, dict[str, Any]]:
    """All jobs of this module, ended, by their ids."""
    long = f"i=0; while [ $i -lt {LINES} ]; do echo line $i of many; i=$((i + 1)); done"
    needle = {"job_success_string": NEEDLE}
    scripts: dict[str, dict[str, Any]] = {
        "success/comes-last": needle | {"commands": [long, f"echo {NEEDLE}"]},
        # Over a line's end, and written in two steps.
        "success/in-pieces": needle | {"commands": [long, f"printf %s {NEEDLE[:5]}; sleep 0.2; echo {NEEDLE[5:]}"]},
        "success/never-comes": needle | {"commands": [long, "echo end"]},
        f"success/{NEEDLE}": needle | {"commands": ["echo only the id has it"]},
        "success/in-commands": needle | {"commands": [f": {NEEDLE}", "echo only the commands have it"]},
        "success/in-stderr": needle | {"commands": [f"echo {NEEDLE} >&2", "echo only stderr has it"]},
        "success/in-all-but-stdout": needle | {"commands": [f": {NEEDLE}", f"echo {NEEDLE} >&2"]},
        "success/exit-7": needle | {"commands": [f"echo {NEEDLE}", "exit 7"]},
        "success/exit-194": {"commands": [f"echo started >> {starts}", "exit 194"]},
    }
    for job_id, fields in scripts.items():
        # A second, because a machine on which three jobs in a row fail at once counts as broken and is given up.
        account.send(queue, job_id=job_id, **(fields | {"commands": ["sleep 1", *fields["commands"]]}))
    account.launch(queue, 3)
    return account.ended(*scripts)


@pytest.mark.parametrize("job_id", ["success/comes-last", "success/in-pieces"])
def test_output_beyond_what_the_api_shows_counts(
    account: Account, queue: Trio, jobs: dict[str, dict[str, Any]], job_id: str
) -> None:
    job = jobs[job_id]
    assert (job["status"], job.get("status_reason", "")) == ("SUCCEEDED", "")
    bucket, _, key = job["stdout_uri"].removeprefix("s3://").partition("/")
    whole = account.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read().decode()
    assert len(whole) > 24_000
    assert whole.endswith(f"line {LINES - 1} of many\n{NEEDLE}\n")
    assert account.told_of(queue.finished, job_id)["status"] == "SUCCEEDED"


@pytest.mark.parametrize("where", ["never-comes", NEEDLE, "in-commands", "in-stderr", "in-all-but-stdout"])
def test_a_success_string_anywhere_else_does_not_count(
    account: Account, queue: Trio, jobs: dict[str, dict[str, Any]], where: str
) -> None:
    job = jobs[f"success/{where}"]
    assert (job["status"], job["exit_code"]) == ("FAILED", 0)
    assert job["status_reason"] == f"exit code 0, but stdout does not contain '{NEEDLE}'"
    assert account.told_of(queue.failed, f"success/{where}")["status"] == "FAILED"


def test_a_success_string_does_not_make_up_for_an_exit_code(jobs: dict[str, dict[str, Any]]) -> None:
    job = jobs["success/exit-7"]
    assert (job["status"], job["exit_code"], job["status_reason"]) == ("FAILED", 7, "exit code 7")


def test_a_job_that_exits_194_runs_once_and_keeps_its_exit_code(jobs: dict[str, dict[str, Any]], starts: Path) -> None:
    job = jobs["success/exit-194"]
    assert (job["status"], job["exit_code"], job["attempt"]) == ("FAILED", 194, 1)
    assert starts.read_text() == "started\n"
