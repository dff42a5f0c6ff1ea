"""The ``sched`` command: what it prints where, and its exit codes."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from cli_runner import BUCKET, populated, sched
from client_stack import ClientStack, service

from sched_plugins import __version__
from sched_plugins.cli import jobs, output
from sched_plugins.cli.main import app
from sched_plugins.cli.output import Output
from sched_plugins.client import Status
from sched_plugins.deploy import template
from sched_plugins.errors import InvalidInput


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch) -> Iterator[ClientStack]:
    with populated(monkeypatch) as found:
        yield found


def commands(group: Any, *words: str) -> Iterator[tuple[str, ...]]:
    """The words of every command below a typer group."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, *words, name)
        else:
            yield (*words, name)


ALL = sorted(commands(typer.main.get_command(app)))


def test_the_commands_are_there() -> None:
    names = {" ".join(words) for words in ALL}
    expected = {
        "submit", "upload", "status", "list", "wait", "cancel", "logs", "results", "workers", "queues", "attach",
        "deploy scheduler", "deploy environment", "deploy pipeline", "destroy", "package", "local up", "local down",
        "local status", "local env", "local logs", "local interrupt", "pipeline validate", "pipeline run",
        "pipeline status",
    }  # fmt: skip
    assert expected <= names


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_every_command_explains_itself_and_has_the_common_options(words: tuple[str, ...]) -> None:
    told = sched(*words, "--help")
    assert (told.code, told.err) == (0, "")
    for option in ("--json", "--debug"):
        assert option in told.out
    for option in ("--region", "--profile", "--endpoint-url"):
        assert (option in told.out) is (words[0] != "local"), "`sched local` asks nothing of AWS"


def test_help_loads_nothing_heavy() -> None:
    program = (
        "import sys\n"
        "from sched_plugins.cli.main import app\n"
        "try: app(['--help'], prog_name='sched')\n"
        "except SystemExit: pass\n"
        "heavy = {'boto3', 'botocore', 'pydantic', 'rich', 'yaml', 'asyncio', 'ministack'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "Exit codes: 0 succeeded" in " ".join(ran.stdout.split())
    assert ran.stderr.strip() == "[]"


def test_the_version_is_told() -> None:
    assert sched("--version").out == f"sched {__version__}\n"


def test_an_error_is_a_document_too(stack: ClientStack) -> None:
    ran = sched("--json", "status", "-s", "sim", "nope")
    assert ran.document["error"]["type"] == "JobNotFound"
    assert "'nope'" in ran.document["error"]["message"]
    assert ran.err.startswith("error: no job")


def test_documents_hold_what_was_asked_for(stack: ClientStack) -> None:
    status = sched("status", "-s", "sim", "bad", "--json").document
    assert (status["job_id"], status["status"], status["exit_code"]) == ("bad", "FAILED", 3)
    assert [job["job_id"] for job in sched("list", "-s", "sim", "--state", "failed", "--json").document] == ["bad"]
    both = sched("wait", "-s", "sim", "good", "nope", "--json").document
    assert (both[0]["status"], both[1]["error"]["type"]) == ("SUCCEEDED", "JobNotFound")
    late = sched("wait", "-s", "sim", "idle", "good", "--timeout", "1", "--json").document
    assert (late[0]["error"]["type"], late[1]["status"]) == ("WaitTimeout", "SUCCEEDED")
    told = sched("logs", "-s", "sim", "good", "--json").document
    assert told == {"job_id": "good", "stream": "stdout", "attempts": [{"attempt": 1, "text": "hello\n"}]}


def test_a_result_goes_to_stdout_and_what_is_said_to_stderr(stack: ClientStack) -> None:
    ran = sched("submit", "-s", "sim", "--job-id", "new", "--", "echo", "hi")
    assert ran.out == "new\n"
    assert "sched wait new -s sim" in ran.err
    assert sched("logs", "-s", "sim", "good").out == "hello\n"
    assert sched("wait", "-s", "sim", "bad").out.startswith("bad FAILED")


def test_a_table_in_a_pipe_has_whole_lines_and_no_colours(stack: ClientStack) -> None:
    long_id = "s3://bucket/" + "deep/" * 40 + "run.sh"
    stack.client.submit({"job_id": long_id, "commands": ["x"]})
    ran = sched("list", "-s", "sim")
    lines = ran.out.splitlines()
    assert lines[0].split() == ["JOB", "STATUS", "RETRIES", "EXIT", "WORKER", "SUBMITTED", "RAN"]
    assert any(line.startswith(f"{long_id}  QUEUED") for line in lines)
    assert "\x1b" not in ran.out
    assert all(line == line.rstrip() for line in lines)


def test_nothing_from_a_job_moves_the_cursor(stack: ClientStack) -> None:
    stack.end("idle", Status.FAILED, status_reason="\x1b[2Jboo\x07")
    for line in ("status -s sim idle", "wait -s sim idle"):
        ran = sched(*line.split())
        assert "?[2Jboo?" in ran.out
        assert "\x1b" not in ran.out + ran.err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["echo", "Hello World", "$HOME"], ["echo 'Hello World' '$HOME'"]),
        (["cd /scratch && ./run.sh"], ["cd /scratch && ./run.sh"]),
        (["one\ntwo"], ["one", "two"]),
        (["--flag"], ["--flag"]),
    ],
)
def test_words_become_commands(stack: ClientStack, words: list[str], expected: list[str]) -> None:
    sched("submit", "-s", "sim", "--job-id", "new", "--", *words)
    assert list(stack.client.get("new").spec.commands) == expected


def test_words_for_windows_are_quoted_as_powershell_wants(stack: ClientStack) -> None:
    document = "AWS-RunPowerShellScript"
    sched("submit", "-s", "sim", "--job-id", "new", "--document", document, "--", "C:\\a b\\x.exe", "it's")
    assert stack.client.get("new").spec.commands == ("& 'C:\\a b\\x.exe' 'it''s'",)


def test_options_may_follow_the_command_words_only_as_words(stack: ClientStack) -> None:
    sched("submit", "-s", "sim", "--job-id", "new", "aws", "s3", "ls", "--region", "x")
    assert stack.client.get("new").spec.commands == ("aws s3 ls --region x",)


def test_every_field_of_a_job_has_an_option(stack: ClientStack, tmp_path: Path) -> None:
    script = tmp_path / "job.sh"
    script.write_text("first\nsecond\n")
    line = [
        "submit", "-s", "sim", "--queue", "other", "--job-id", "new", "--retry", "2", "--success-string", "ok",
        "--timeout-seconds", "60", "--env", "A=1=2", "--working-directory", "/tmp", "--results-uri", "s3://bucket/r/",
        "--group", "g", "--tag", "k=v", "--script", str(script), "--run-id", "key",
    ]  # fmt: skip
    ran = sched(*line)
    assert ran.code == 0, ran.err
    job = stack.client.get("new")
    spec = job.spec
    assert (job.queue, job.run_id) == ("other", "key")
    assert (spec.retry, spec.job_success_string, spec.timeout_seconds) == (2, "ok", 60)
    assert (spec.environment, spec.working_directory, spec.tags) == ({"A": "1=2"}, "/tmp", {"k": "v"})
    assert (spec.results_uri, spec.group_id, spec.commands) == ("s3://bucket/r/", "g", ("first", "second"))
    assert "was submitted before" in sched(*line).err


def test_a_document_of_ones_own_gets_its_parameters(stack: ClientStack) -> None:
    sched("submit", "-s", "sim", "--job-id", "new", "--document", "Mine", "--parameter", "a=1", "--parameter", "a=2")
    spec = stack.client.get("new").spec
    assert (spec.ssm_document, spec.parameters, spec.commands) == ("Mine", {"a": ["1", "2"]}, ())


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("jobs.json", '[{"job_id": "f1", "commands": ["x"]}, {"job_id": "f2", "commands": ["y"], "retry": "3"}]'),
        ("jobs.jsonl", '{"job_id": "f1", "commands": ["x"]}\n\n{"job_id": "f2", "commands": ["y"], "retry": 3}\n'),
        ("jobs.yaml", "jobs:\n- {job_id: f1, commands: [x]}\n- {job_id: f2, commands: [y], retry: 3}\n"),
    ],
)
def test_jobs_from_a_file(stack: ClientStack, tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    ran = sched("submit", "-s", "sim", "--group", "g", "--file", str(tmp_path / name))
    assert (ran.code, ran.out) == (0, "f1\nf2\n")
    found = stack.client.get_many(["f1", "f2"])
    assert [found[one].spec.retry for one in ("f1", "f2")] == [0, 3]
    assert {job.spec.group_id for job in found.values()} == {"g"}


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.json", "no", "is neither JSON nor JSON lines"),
        ("a.json", "[]", "holds no jobs"),
        ("a.json", "[1]", "job 1 of"),
        ("a.yaml", "{", "is not YAML"),
        ("a.json", '{"commands": ["x"], "colour": "red"}', "colour: is no field of a job"),
    ],
)
def test_a_file_that_holds_no_jobs(stack: ClientStack, tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text)
    ran = sched("submit", "-s", "sim", "--file", str(tmp_path / name))
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.err


def test_jobs_from_stdin_and_one_that_is_refused(stack: ClientStack) -> None:
    text = json.dumps([{"job_id": "f1", "commands": ["x"]}, {"job_id": "idle", "commands": ["other"]}])
    ran = sched("submit", "-s", "sim", "--file", "-", stdin=text)
    assert (ran.code, ran.out) == (1, "f1\n")
    assert "error: 'idle' was not accepted: job 'idle' is QUEUED with another spec" in ran.err
    assert "1 of 2 jobs accepted" in ran.err


def test_submit_and_wait_shows_the_output_and_tells_by_its_exit_code(stack: ClientStack) -> None:
    def starts() -> None:
        stack.change("new", status=Status.RUNNING, worker_id="i-1")

    def ends() -> None:
        stack.end("new", Status.FAILED, output="what it wrote\n", exit_code=3, status_reason="exit code 3",
                  attempts=stack.attempts("new", ""))  # fmt: skip

    stack.clock.then = [starts, ends]
    ran = sched("submit", "-s", "sim", "--job-id", "new", "--wait", "--", "x")
    assert (ran.code, ran.out) == (1, "what it wrote\n")
    assert [line.split(":")[0] for line in ran.err.splitlines()] == [
        "new is QUEUED", "queue 'sim-job-queue' has no workers, and no environment that starts some, so its jobs wait",
        "new is RUNNING on i-1", "new FAILED",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "line", ["wait -s sim idle --timeout 3", "submit -s sim --wait --wait-timeout 3 -- x", "status -s sim idle c1",
             "workers -s sim", "wait -s sim idle c1 --timeout 3"],
)  # fmt: skip
def test_a_queue_that_nothing_serves_is_told_once(stack: ClientStack, line: str) -> None:
    ran = sched(*line.split())
    told = [one for one in ran.err.splitlines() if one.startswith("queue 'sim-job-queue' has no workers")]
    assert len(told) == 1, ran.err
    assert "sched deploy environment NAME" in told[0]
    assert "sched attach" in told[0]


def test_the_run_before_an_upload_is_not_taken_for_its_own(stack: ClientStack, tmp_path: Path) -> None:
    (tmp_path / "case").mkdir()
    (tmp_path / "case" / "run.sh").write_text("x")
    job_id = f"s3://{BUCKET}/case/run.sh"
    stack.client.submit({"job_id": job_id, "commands": ["x"]})
    stack.end(job_id, worker_id="i-old")
    stack.clock.then = [
        lambda: stack.client.submit({"job_id": job_id, "commands": ["x"]}),
        lambda: stack.end(job_id, worker_id="i-new"),
    ]
    ran = sched("upload", str(tmp_path / "case"), "--executable", "run.sh", "-e", "env", "--wait")
    assert (ran.code, "i-old" in ran.err, f"{job_id} is QUEUED" in ran.err) == (0, False, True), ran.err


def test_a_job_that_never_came_is_told_from_one_that_goes_on(stack: ClientStack) -> None:
    err = sched("wait", "-s", "sim", "idle", "nojob", "--may-come", "--timeout", "2").err
    assert "1 of the jobs had not ended ('idle'); they go on" in err
    assert "1 of the jobs did not exist yet ('nojob'). Check the ids" in err


@pytest.mark.parametrize("text", ["jobs: [{job_id: f1, commands: [x]}]", '{"job_id": "f1", "commands": ["x"]}'])
def test_stdin_may_be_yaml_or_json(stack: ClientStack, text: str) -> None:
    assert sched("submit", "-s", "sim", "--file", "-", stdin=text).out == "f1\n"


@pytest.mark.parametrize("text", ["[]", "no", "{"])
def test_a_stdin_without_jobs_is_told_as_such_with_what_it_should_hold(stack: ClientStack, text: str) -> None:
    ran = sched("submit", "-s", "sim", "--file", "-", stdin=text)
    assert ran.code == 2
    assert "stdin" in ran.err
    assert "give one job, a list of jobs" in ran.err


def test_that_nothing_was_written_is_said(stack: ClientStack) -> None:
    for words, said in (
        (("idle",), "job 'idle' has written nothing to stdout so far; the job is QUEUED"),
        (("good", "--stderr"), "job 'good' has written nothing to stderr; the job is SUCCEEDED"),
    ):
        ran = sched("logs", "-s", "sim", *words)
        assert (ran.code, ran.out, ran.err.strip()) == (0, "", said)


@pytest.mark.parametrize("line", ["status good -s sim", "deploy scheduler sim", "pipeline run ."])
def test_an_endpoint_that_is_none_and_a_missing_region_are_told(
    line: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "run.sh").touch()
    (tmp_path / "pipeline.yaml").write_text("name: line\nstages: [{name: one, executable: run.sh}]\n")
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    ran = sched(*line.split())
    assert ran.code == 2
    for word in ("AWS_REGION", "AWS_DEFAULT_REGION", 'eval "$(sched local env)"'):
        assert word in ran.err
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "notaurl")
    ran = sched(*line.split())
    assert (ran.code, "'notaurl' is no endpoint; write --endpoint-url" in ran.err) == (2, True), ran.err
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    ran = sched(*line.split())
    assert (ran.code, 'eval "$(sched local env)"' in ran.err) == (1, True), ran.err


def test_queues_tell_of_those_in_which_jobs_wait_for_nobody(stack: ClientStack) -> None:
    assert "has no workers" not in sched("queues", "-e", "env").err
    sqs = service("sqs")
    sqs.send_message(QueueUrl=sqs.get_queue_url(QueueName="sim-job-queue")["QueueUrl"], MessageBody="x")
    assert sched("queues", "-s", "sim").err.count("queue 'sim-job-queue' has no workers") == 1
    assert [one["name"] for one in sched("queues", "-e", "env", "--json").document] == ["env-job-queue"]


def test_upload_and_wait(stack: ClientStack, tmp_path: Path) -> None:
    (tmp_path / "case").mkdir()
    for name in ("run.sh", "in.dat"):
        (tmp_path / "case" / name).write_text("x")
    job_id = f"s3://{BUCKET}/case/run.sh"
    ran = sched("upload", str(tmp_path / "case"), "--executable", "run.sh", "-e", "env")
    assert (ran.code, ran.out) == (0, f"{job_id}\n")
    assert f"sched wait --may-come {job_id} -e env" in ran.err
    stack.clock.then = [
        lambda: stack.client.submit({"job_id": job_id, "commands": ["x"]}),
        lambda: stack.end(job_id),
    ]
    ran = sched("upload", str(tmp_path / "case"), "--executable", "run.sh", "-e", "env", "--wait", "--json")
    assert (ran.code, ran.document["status"]) == (0, "SUCCEEDED")


def test_results_are_listed_as_they_are_stored(stack: ClientStack, tmp_path: Path) -> None:
    for key in ("r/a.txt", "r/../b", "r/_sched/SUCCEEDED.json"):
        service("s3").put_object(Bucket=BUCKET, Key=key, Body=b"x")
    stack.client.submit({"job_id": "new", "commands": ["x"], "results_uri": f"s3://{BUCKET}/r/"})
    ran = sched("results", "-s", "sim", "new", "--to", str(tmp_path / "got"))
    assert ran.out == f"{tmp_path}/got/a.txt\n"
    assert "left out 'r/../b'" in ran.err
    assert (tmp_path / "got" / "a.txt").read_bytes() == b"x"


def test_ctrl_c_while_waiting_says_that_the_job_goes_on(stack: ClientStack) -> None:
    def pressed() -> None:
        raise KeyboardInterrupt

    for line in ("wait -s sim idle", "logs -f -s sim idle", "submit --wait -s sim -- x"):
        stack.clock.then = [pressed]
        ran = sched(*line.split())
        assert (ran.code, ran.exception) == (130, None)
        assert "interrupted; " in ran.err
        assert "goes on" in ran.err
        assert "sched cancel" in ran.err


def test_a_bug_is_one_line_unless_it_is_to_be_found(stack: ClientStack, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("sched_plugins.client.SchedulerClient.get_many", broken)
    ran = sched("status", "-s", "sim", "good")
    assert (ran.code, ran.err) == (
        1,
        "error: unexpected ZeroDivisionError: oops. This is a bug; --debug shows where it is.\n",
    )
    assert isinstance(sched("status", "-s", "sim", "good", "--debug").exception, ZeroDivisionError)


def test_a_name_comes_from_the_option_before_the_variable(stack: ClientStack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCHED_SCHEDULER", "other")
    assert sched("status", "good", "-s", "sim").code == 0
    assert "'other'" in sched("status", "good").err
    monkeypatch.setenv("SCHED_ENVIRONMENT", "env")
    assert sched("status", "good").code == 0, "an environment knows its scheduler"
    assert sched("list", "--json").document == []
    assert len(sched("list", "-s", "sim", "--json").document) > 1, "an option goes ahead of either variable"


def test_common_options_stand_before_or_after_the_command(stack: ClientStack, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str | None, ...]] = []

    def scheduler(name: str) -> Any:
        names = ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_PROFILE", "AWS_ACCESS_KEY_ID")
        seen.append(tuple(os.environ.get(one) for one in names))
        return SimpleNamespace(get_many=lambda job_ids: {})

    monkeypatch.setattr("sched_plugins.cli.clients.scheduler", scheduler)
    sched("--region", "eu-west-3", "status", "-s", "sim", "good", "--endpoint-url", "http://x")
    sched("--region", "eu-west-3", "status", "-s", "sim", "good", "--region", "eu-west-2", "--profile", "p")
    assert seen[0][:4] == ("eu-west-3", "eu-west-3", "http://x", None)
    assert seen[0][4], "the keys of the environment stay"
    assert seen[1] == ("eu-west-2", "eu-west-2", "http://x", "p", None), "but do not go ahead of a profile"


# Deploying


class Deploying:
    """Takes the place of what deploys."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from sched_plugins import deploy

        self.calls: list[tuple[str, Any, dict[str, Any]]] = []
        self._deploy = deploy
        for name in ("deploy_scheduler", "deploy_environment"):
            monkeypatch.setattr(deploy, name, self._taking(name))

    def _taking(self, called: str) -> Any:
        def take(name: str, parameters: Any = None, **options: Any) -> Any:
            self.calls.append((name, parameters, options))
            change = self._deploy.Change("Add", "JobQueue", "AWS::SQS::Queue")
            options["on_plan"]((change,))
            now = datetime(2026, 1, 1, tzinfo=UTC)
            for resource, type_, status in (
                ("JobQueue", "AWS::SQS::Queue", "CREATE_COMPLETE"),
                ("Alarm", "AWS::CloudWatch::Alarm", "CREATE_FAILED"),
                (name, "AWS::CloudFormation::Stack", "CREATE_COMPLETE"),
            ):
                options["on_event"](self._deploy.StackEvent(name, resource, type_, status, "", "q", now))
            kind: Any = called.removeprefix("deploy_")
            outcome: Any = "planned" if options["plan_only"] else "created"
            return self._deploy.Deployment(name, kind, outcome, (change,), {"SchedulerName": "sim"})

        return take


def test_every_parameter_of_a_template_is_an_option() -> None:
    from sched_plugins.deploy import template_parameters

    for kind in ("scheduler", "environment"):
        told = sched("deploy", kind, "--help").out
        for parameter in template_parameters(kind):  # type: ignore[arg-type]
            assert f"{parameter.option} " in told


@pytest.mark.parametrize("kind", ["scheduler", "environment"])
def test_a_package_is_written_where_the_templates_look_for_it(
    kind: template.Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "infra").mkdir()
    assert sched("package").code == 0
    code = template.load(kind)["Globals"]["Function"]["CodeUri"]
    assert (tmp_path / "infra" / code / "sched_plugins" / "functions").is_dir()


def test_parameters_reach_the_deployment(stack: ClientStack, monkeypatch: pytest.MonkeyPatch) -> None:
    deploying = Deploying(monkeypatch)
    ran = sched(
        "deploy", "environment", "env", "-s", "sim", "--max-workers", "8", "--trigger-suffix=.go", "--instance-types",
        "m5.large", "--instance-types", "c5.large", "--tag", "k=v", "--architecture", "arm64", "--plan", "--json",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    [(name, parameters, options)] = deploying.calls
    assert (name, options["scheduler"], options["tags"], options["plan_only"]) == ("env", "sim", {"k": "v"}, True)
    assert parameters == {
        "--max-workers": "8", "--trigger-suffix": ".go", "--instance-types": ["m5.large", "c5.large"],
    }  # fmt: skip
    assert options["target"].architecture == "arm64"
    assert (ran.document["outcome"], ran.document["changes"][0]["resource"]) == ("planned", "JobQueue")


def test_a_deployment_shows_its_plan_its_steps_and_its_outputs(
    stack: ClientStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    Deploying(monkeypatch)
    assert "Add     JobQueue  AWS::SQS::Queue" in sched("deploy", "scheduler", "sim", "--plan").out
    ran = sched("deploy", "scheduler", "sim")
    assert "sim: creating 1 resources" in ran.err
    assert "SchedulerName  sim" in ran.out
    assert "JobQueue" not in ran.err, "in a pipe only what matters is told"
    assert "CREATE_FAILED  sim/Alarm (AWS::CloudWatch::Alarm)" in ran.err
    assert "CREATE_COMPLETE  sim/sim (AWS::CloudFormation::Stack)" in ran.err
    assert "scheduler sim: created" in ran.err
    assert ran.err.splitlines()[-1].startswith("  sched deploy environment NAME --scheduler sim ")
    ran = sched("deploy", "environment", "env", "-s", "sim")
    assert ran.err.splitlines()[-1] == "  sched upload FOLDER --executable NAME --environment env"
    assert "sched upload" not in sched("deploy", "environment", "env", "-s", "sim", "--json").err


def test_a_parameter_that_takes_one_value_is_not_given_twice(
    stack: ClientStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    Deploying(monkeypatch)
    ran = sched("deploy", "environment", "env", "-s", "sim", "--max-workers", "1", "--max-workers", "2")
    assert ran.code == 2
    assert "--max-workers was given 2 times" in ran.err


# Output


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("columns", [30, 60, 200])
def test_a_narrow_terminal_folds_and_cuts_nothing(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(sys, "stdout", Terminal())
    Output(as_json=False).table(("JOB", "STATUS"), [("s3://bucket/a-long-folder-name/run.sh", "SUCCEEDED")])
    told = sys.stdout.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, told.splitlines())) <= columns
    left = "".join(line[: columns - 10].strip().removesuffix("SUCCEEDED").strip() for line in told.splitlines()[1:])
    assert "s3://bucket/a-long-folder-name/run.sh" in left.replace(" ", "")
    assert "…" not in told
    assert "\x1b[3" not in told


def test_markup_in_a_name_is_shown_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "stdout", Terminal())
    Output(as_json=False).table(("JOB",), [("[red]job[/red]",)])
    assert "[red]job[/red]" in sys.stdout.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("seconds", "told"), [(0.26, "0.3 s"), (59, "59.0 s"), (61, "1 min 01 s"), (3600 * 5 + 61, "5 h 01 min")]
)
def test_durations(seconds: float, told: str) -> None:
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    assert output.duration(begin, begin + timedelta(seconds=seconds)) == told
    assert output.duration(None, begin) == ""


@pytest.mark.parametrize(
    ("count", "told"), [(0, "0 bytes"), (1023, "1023 bytes"), (1024, "1.0 KiB"), (5 << 40, "5120.0 GiB")]
)
def test_sizes(count: int, told: str) -> None:
    assert output.size(count) == told


def test_moments() -> None:
    assert jobs.moment("") is None
    begin = jobs.moment("2h")
    assert begin is not None
    assert timedelta(hours=2) <= datetime.now(UTC) - begin < timedelta(hours=2, minutes=1)
    assert jobs.moment("2026-01-31T08:00+00:00") == datetime(2026, 1, 31, 8, tzinfo=UTC)
    with pytest.raises(InvalidInput):
        jobs.moment("2 weeks")


@pytest.mark.parametrize("live", ["working", "redrawing"])
def test_a_result_does_not_run_into_what_is_being_redrawn(monkeypatch: pytest.MonkeyPatch, live: str) -> None:
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(sys, "stderr", terminal)
    shown = Output(as_json=False)
    with shown.working("[waiting]") if live == "working" else shown.redrawing(lambda: "drawn"):
        shown.line("the result")
        shown.say("a message")
    told = terminal.getvalue()
    for line in ("the result\n", "a message\n"):
        before = told[: told.index(line)]
        assert before.endswith(("\n", "\x1b[2K")), repr(before[-20:])
    assert ("[waiting]" in told) is (live == "working")
