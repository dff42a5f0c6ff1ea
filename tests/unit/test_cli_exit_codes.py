"""Command lines, their exit codes and what they say: wrong names, wrong states, and no stack running."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_runner import populated, sched
from client_stack import ClientStack


@pytest.fixture(scope="module")
def shared() -> Iterator[ClientStack]:
    """One for all lines: none changes a job that another one names."""
    with pytest.MonkeyPatch.context() as monkeypatch, populated(monkeypatch) as found:
        yield found


CASES = [
    # command line, exit code, what is said
    ("status -s sim good", 0, ""),
    ("status -s sim bad", 0, ""),
    ("status -s sim nope", 4, "no job has the id 'nope'; `sched list` shows the ids"),
    ("status -s sim good nope", 4, "no job has the id 'nope'"),
    ("status good", 2, "no scheduler is named; give --scheduler NAME, or set SCHED_SCHEDULER"),
    ("status -s Sim good", 2, "'Sim' cannot be a stack name"),
    ("status -s other good", 4, "no scheduler 'other' in region eu-west-1 (no table 'other-job-monitoring')"),
    ("status -e none good", 4, "no environment 'none' in region eu-west-1"),
    ("status -e env -s other good", 2, "environment 'env' belongs to scheduler 'sim', not 'other'"),
    ("status -s sim", 2, "Missing argument"),
    ("status -s sim ''", 2, "a job id cannot be empty"),
    ("wait -s sim good", 0, ""),
    ("wait -s sim bad", 1, ""),
    ("wait -s sim gone", 5, ""),
    ("wait -s sim nope", 4, "no job has the id 'nope'"),
    ("wait -s sim idle --timeout 2", 3, "after 2 s 1 of the jobs had not ended ('idle'); they go on"),
    ("wait -s sim good bad gone", 1, ""),
    ("wait -s sim good gone", 5, ""),
    ("wait -s sim good nope", 4, "no job has the id 'nope'"),
    ("wait -s sim good --run-id other", 4, "job 'good' knows no run 'other'"),
    ("wait -s sim good bad --run-id x", 2, "--run-id is a run of one job, but 2 are named"),
    ("wait -s sim nope --may-come --timeout 1", 3, "('nope')"),
    ("cancel -s sim c1", 0, ""),
    ("cancel -s sim c2 --wait", 0, ""),
    ("cancel -s sim good", 0, ""),
    ("cancel -s sim nope", 4, "no job has the id 'nope'"),
    ("cancel -s sim c3 nope", 4, "no job has the id 'nope'"),
    ("cancel -s other idle", 4, "no scheduler 'other'"),
    ("list -s sim", 0, ""),
    ("list -e env", 0, "no jobs"),
    ("list -s sim --queue other-job-queue", 0, "no jobs"),
    ("list -s sim --queue none", 4, "no queue 'none' in region eu-west-1; `sched queues --scheduler sim` shows"),
    ("list -e env --queue none", 4, "`sched queues --scheduler sim` shows those that there are"),
    ("submit -s sim --queue none --job-id lost -- echo hi", 4, "there is no queue 'none'"),
    ("status -s sim lost", 4, "no job has the id 'lost'"),
    ("workers -s sim --queue none", 4, "there is no queue 'none'"),
    ("workers -e env --queue none", 4, "there is no queue 'none'"),
    ("workers -e env --queue env-job-queue", 0, "no workers"),
    ("queues -e env", 0, ""),
    ("queues -s env", 4, "'env' is an environment of scheduler 'sim'; name it with --environment"),
    ("list -s sim --state lost", 2, "--state 'lost' is no state of a job; there are queued, live, ended,"),
    ("list -s sim --since yesterday", 2, "--since 'yesterday' is neither an age"),
    ("list -s sim --limit 0", 2, "--limit"),
    ("logs -s sim good", 0, ""),
    ("logs -s sim nope", 4, "no job has the id 'nope'"),
    ("logs -s sim good --attempt 9", 4, "job 'good' has no attempt 9; it has 1"),
    ("logs -s sim idle -f --timeout 1", 3, "had not ended"),
    ("results -s sim good", 4, "job 'good' names no results folder (results_uri); `sched logs` shows what it wrote"),
    ("results -s sim idle", 4, "`sched logs` shows what it writes; it is QUEUED"),
    ("results -s sim nope", 4, "no job has the id 'nope'"),
    ("submit -s sim -- echo hi", 0, "sched logs --follow"),
    ("submit -s sim", 2, "there is nothing to run; give a command (-- COMMAND…), --script FILE or --file FILE"),
    ("submit -s sim --retry many -- x", 2, "--retry"),
    ("submit -s sim --retry -1 -- x", 2, "--retry"),
    ("submit -s sim --env A -- x", 2, "--env 'A' is not of the form NAME=VALUE"),
    ("submit -s sim --wait-timeout 3 -- x", 2, "--wait-timeout means nothing without --wait"),
    ("submit -s sim --wait --wait-timeout -3 -- x", 2, "--wait-timeout"),
    ("submit -s sim --parameter a=b -- x", 2, "--parameter is for a Systems Manager document of your own"),
    ("submit -s sim --job-id '' -- x", 2, "--job-id is empty"),
    ("submit -s sim --tag A -- x", 2, "--tag 'A' is not of the form KEY=VALUE"),
    ("upload . --executable run.sh -e env --wait-timeout 3", 2, "means nothing without --wait"),
    ("cancel -s sim idle --timeout 3", 2, "means nothing without --wait"),
    ("logs -s sim idle --timeout 3", 2, "means nothing without --follow"),
    ("logs -s sim bad --follow", 0, ""),
    ("cancel -s sim gone --wait", 0, ""),
    ("submit -s sim --timeout-seconds 259200 -- x", 2, "timeout_seconds:"),
    ("submit -s sim --job-id idle -- other", 1, "'idle' is QUEUED with another spec"),
    ("submit -s sim --file none.json", 2, "cannot read --file 'none.json'"),
    ("submit -s sim --file none.json -- x", 2, "leave the command"),
    ("submit -s sim --script none.sh", 2, "cannot read --script 'none.sh'"),
    ("submit -s other -- x", 4, "no scheduler 'other' in region eu-west-1. Deploy it with `sched deploy scheduler"),
    ("submit -s sim --wait --wait-timeout 1 -- x", 3, "(`sched logs --follow`), wait for it (`sched wait`), or cancel"),
    ("upload none --executable run.sh -e env", 2, "'none' is not a folder"),
    ("upload . --executable run.sh", 2, "no environment is named; give --environment NAME, or set SCHED_ENVIRONMENT"),
    ("upload . -e env", 2, "Missing option '--executable'"),
    ("upload . --executable run.sh -e none", 4, "no environment 'none'"),
    ("workers -s sim", 0, "no workers"),
    ("workers -s other", 4, "no scheduler 'other'"),
    ("queues -s other", 4, "no scheduler 'other'"),
    ("attach -s sim worker", 2, "'worker' is not the id of an instance"),
    ("attach -s sim i-1", 4, "there is no instance 'i-1' in region eu-west-1"),
    ("destroy sim", 2, "destroying 'sim' needs --yes where nobody can be asked"),
    ("destroy sim pipeline.yaml --yes", 2, "a pipeline is `sched destroy pipeline FILE`"),
    ("destroy pipeline none.yaml --yes", 2, "none.yaml"),
    ("deploy environment env", 2, "no scheduler is named"),
    ("deploy scheduler sim --no-such-parameter 1", 2, "No such option"),
    ("deploy scheduler sim --requeue-after-seconds", 2, "option --requeue-after-seconds needs a value"),
    ("deploy scheduler sim --architecture sparc", 2, "sparc"),
    ("deploy pipeline none.yaml -s sim", 2, "none.yaml"),
    ("pipeline validate none.yaml", 2, "none.yaml"),
    ("pipeline run none.yaml --timeout -1", 2, "--timeout"),
    ("local status", 1, ""),
    ("local env", 1, "no laptop stack is running for"),
    ("local interrupt i-1", 1, "Start one with `sched local up`"),
    ("local down", 0, ""),
    ("local logs", 4, "there is no log yet"),
    ("sumbit", 2, "Did you mean 'submit'"),
    ("", 2, "Usage: sched"),
]  # fmt: skip


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, so that no stack of this checkout is found."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SCHED_LOCAL_STATE", raising=False)
    return tmp_path


def split(line: str) -> list[str]:
    return ["" if word == "''" else word for word in line.split()]


@pytest.mark.parametrize(("line", "code", "said"), CASES, ids=[line or "nothing" for line, _, _ in CASES])
def test_exit_codes_and_messages(shared: ClientStack, elsewhere: Path, line: str, code: int, said: str) -> None:
    ran = sched(*split(line))
    assert (ran.code, ran.exception) == (code, None), ran.err
    assert said in (ran.err if line else ran.out + ran.err)
    assert "Traceback" not in ran.err
    if ran.err.startswith("error: "):
        assert ran.err.count("\n") == 1, "an error is one line"


JSON_LINES = [line for line, code, _ in CASES if line and code != 2] + [
    "list -s sim --group good", "queues -s sim", "status -s sim good bad",
]  # fmt: skip


@pytest.mark.parametrize("line", JSON_LINES)
def test_json_is_one_document_on_stdout(shared: ClientStack, elsewhere: Path, line: str) -> None:
    words = split(line)
    at = words.index("--") if "--" in words else len(words)
    ran = sched(*words[:at], "--json", *words[at:])
    assert ran.document is not None
    assert ran.code == sched(*words).code or words[0] in ("cancel", "submit", "local")
