"""``sched submit``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sched_plugins.cli.command import EnvironmentName, SchedulerName, Shell, check_used_with, command
from sched_plugins.cli.exit_codes import ExitCode, of_error, worst
from sched_plugins.cli.following import follow_to_end
from sched_plugins.cli.output import told
from sched_plugins.cli.waiting import wait_for
from sched_plugins.errors import InvalidInput

if TYPE_CHECKING:
    from sched_plugins.client import Submitted

# As in core.job, which takes long to load.
LINUX_DOCUMENT, WINDOWS_DOCUMENT = "AWS-RunShellScript", "AWS-RunPowerShellScript"


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "submit", context_settings={"allow_interspersed_args": False})(submit)


Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="-- COMMAND",
        help="What to run. One word is a line of script as it is; several stay those words, whatever is in them.",
        show_default=False,
    ),
]


def _option(metavar: str, text: str, minimum: int | None = None) -> Any:
    return typer.Option(metavar=metavar, help=text, min=minimum)


def submit(
    shell: Shell,
    words: Words = None,
    scheduler: SchedulerName = None,
    environment: EnvironmentName = None,
    queue: Annotated[str, _option("NAME", "Job queue, instead of the scheduler's own.")] = "",
    job_id: Annotated[str | None, _option("ID", "Who the job is; made up if left out.")] = None,
    retry: Annotated[int | None, _option("N", "How many more tries after a failure; none by default.", 0)] = None,
    success_string: Annotated[str, _option("TEXT", "Text that stdout must contain.")] = "",
    timeout_seconds: Annotated[
        int | None, _option("N", "How long it may run (at most and by default 47 h).", 1)
    ] = None,
    document: Annotated[str, _option("NAME", "Systems Manager document that runs it; the shell's by default.")] = "",
    parameter: Annotated[list[str] | None, _option("NAME=VALUE", "Of a document of your own; repeatable.")] = None,
    env: Annotated[list[str] | None, _option("NAME=VALUE", "Variable; repeatable.")] = None,
    working_directory: Annotated[str, _option("PATH", "Absolute directory on the worker.")] = "",
    results_uri: Annotated[str, _option("S3", "Where its results will be.")] = "",
    group: Annotated[str, _option("NAME", "Label shared by jobs that belong together.")] = "",
    tag: Annotated[list[str] | None, _option("KEY=VALUE", "Free label; repeatable.")] = None,
    script: Annotated[Path | None, _option("FILE", "Take the script from a file.")] = None,
    file: Annotated[Path | None, _option("FILE", "Jobs as JSON, JSON lines or YAML; '-' reads stdin.")] = None,
    run_id: Annotated[str, _option("KEY", "Idempotency key: submitting again with it changes nothing.")] = "",
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Show its output and wait for its end.")] = False,
    wait_timeout: Annotated[float | None, _option("SECONDS", "With --wait: how long to wait.", 0)] = None,
) -> int:
    """Submit a job, or with --file many; print their ids.

    sched submit -s sim --retry 3 --success-string Done -- ./solve --steps 100

    sched submit -s sim --wait -- 'cd /scratch && ./run.sh'
    """
    check_used_with("--wait-timeout", wait_timeout, "--wait", used=wait)
    if job_id == "":
        raise InvalidInput("--job-id is empty; give an id, or leave the option out to have one made up")
    if parameter and file is None and document in ("", LINUX_DOCUMENT, WINDOWS_DOCUMENT):
        raise InvalidInput(
            "--parameter is for a Systems Manager document of your own (--document NAME); a command gets its values "
            "as words, or as variables (--env NAME=VALUE)"
        )
    fields: dict[str, Any] = {
        "job_id": job_id, "retry": retry, "job_success_string": success_string, "ssm_document": document,
        "timeout_seconds": timeout_seconds, "parameters": _parameters(parameter), "environment": pairs("--env", env),
        "working_directory": working_directory, "results_uri": results_uri, "group_id": group,
        "tags": pairs("--tag", tag),
    }  # fmt: skip
    given = {name: value for name, value in fields.items() if value not in ("", None, {})}
    listed = _jobs(given, words or [], script, file)
    if run_id and len(listed) > 1:
        raise InvalidInput(f"--run-id is the key of one submission, but {str(file)!r} holds {len(listed)} jobs")
    client = shell.jobs(scheduler, environment)
    answers = client.submit_many(listed, run_ids=[run_id] if run_id else None, queue=queue)
    if file is None and answers[0].error is not None:
        raise answers[0].error
    if not wait:
        where = f"-e {client.name}" if hasattr(client, "bucket") else f"-s {client.scheduler}"
        return _report(shell, answers, where, single=file is None)
    if file is None:
        return follow_to_end(shell, client, answers[0].run, wait_timeout)
    codes = [_refused(shell, answer) for answer in answers]
    accepted = [answer.run for answer in answers if answer.error is None]
    return worst([*codes, ExitCode(wait_for(shell, client, accepted, wait_timeout, single=False))])


def _jobs(given: dict[str, Any], words: list[str], script: Path | None, file: Path | None) -> list[dict[str, Any]]:
    """The jobs to submit. Of jobs from a file the options fill in what a job does not say."""
    if file is None:
        document = given.get("ssm_document", "")
        commands = _commands(words, script, document)
        if not any(line.strip() for line in commands) and document in ("", LINUX_DOCUMENT, WINDOWS_DOCUMENT):
            raise InvalidInput("there is nothing to run; give a command (-- COMMAND…), --script FILE or --file FILE")
        return [{**given, "commands": commands}]
    if words or script:
        raise InvalidInput("--file gives whole jobs; leave the command and --script out")
    from sched_plugins.cli.job_files import read_jobs

    return read_jobs(file, given)


def _refused(shell: Shell, answer: Submitted) -> ExitCode:
    if answer.error is None:
        return ExitCode.SUCCEEDED
    shell.output.complain(f"{answer.job_id!r} was not accepted: {answer.error}")
    return of_error(answer.error)


def _report(shell: Shell, answers: list[Submitted], where: str, *, single: bool) -> int:
    documents = [plain(answer) for answer in answers]
    shell.output.document(documents[0] if single else documents)
    codes = [_refused(shell, answer) for answer in answers]
    for answer in answers:
        if answer.error is None:
            shell.output.line(answer.job_id)
            if answer.outcome != "accepted":
                shell.output.say(f"{answer.job_id!r} was submitted before and is {answer.status} (run {answer.run_id})")
    if single and not shell.output.as_json:
        quoted = shlex.quote(answers[0].job_id)
        shell.output.say(f"  sched status {quoted} {where}\n".rstrip())
        shell.output.say(f"  sched logs --follow {quoted} {where}")
        shell.output.say(f"  sched wait {quoted} {where}")
    elif not shell.output.as_json:
        accepted = sum(answer.error is None for answer in answers)
        shell.output.say(f"{accepted} of {len(answers)} jobs accepted; `sched list {where}` shows them")
    return worst(codes)


def plain(answer: Submitted) -> dict[str, Any]:
    """One answer as JSON types."""
    known: dict[str, Any] = {"job_id": answer.job_id, "run_id": answer.run_id}
    if answer.error is not None:
        return {**known, **told(answer.error)}
    return {**known, "outcome": str(answer.outcome), "status": answer.status}


def _commands(words: list[str], script: Path | None, document: str) -> list[str]:
    if words and script:
        raise InvalidInput("give a command or --script, not both")
    if script is not None:
        try:
            return script.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInput(f"cannot read --script {str(script)!r}: {error}") from None
    if not words:
        return []
    if len(words) == 1:
        return words[0].split("\n")
    if document == WINDOWS_DOCUMENT:
        return ["& " + " ".join("'" + word.replace("'", "''") + "'" for word in words)]
    return [shlex.join(words)]


def pairs(option: str, values: list[str] | None) -> dict[str, str]:
    """``NAME=VALUE`` (of tags: ``KEY=VALUE``) options as a mapping.

    Raises:
        InvalidInput: one has no ``=``.
    """
    found: dict[str, str] = {}
    for value in values or []:
        name, separator, text = value.partition("=")
        if not separator or not name:
            form = "KEY=VALUE" if option == "--tag" else "NAME=VALUE"
            raise InvalidInput(f"{option} {value!r} is not of the form {form}")
        found[name] = text
    return found


def _parameters(values: list[str] | None) -> dict[str, list[str]]:
    """Parameters of a document; one that is repeated has several values."""
    found: dict[str, list[str]] = {}
    for value in values or []:
        for name, text in pairs("--parameter", [value]).items():
            found.setdefault(name, []).append(text)
    return found
