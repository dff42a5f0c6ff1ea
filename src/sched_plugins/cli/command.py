"""How a command is declared: a function whose first parameter is its :class:`Shell`.

::

    @command(app)
    def status(shell: Shell, job: Annotated[str, typer.Argument()], scheduler: SchedulerName = None) -> int | None:
        '''Show a job.'''

The decorator adds the options that every command has (``--json``, ``--debug``) and those of every command that asks
AWS (``--region``, ``--profile``, ``--endpoint-url``), turns the package's errors into one line and an exit code, and
takes what the function returns as the exit code (None: 0).
"""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sched_plugins.cli.exit_codes import ExitCode, of_error
from sched_plugins.cli.output import Output
from sched_plugins.errors import InvalidInput, SchedulerError, SchedulerNotFound

if TYPE_CHECKING:
    from sched_plugins.client import EnvironmentClient, SchedulerClient

SCHEDULER_VARIABLE, ENVIRONMENT_VARIABLE = "SCHED_SCHEDULER", "SCHED_ENVIRONMENT"

SchedulerName = Annotated[
    str | None,
    typer.Option("--scheduler", "-s", metavar="NAME", help=f"The scheduler.  [env var: {SCHEDULER_VARIABLE}]"),
]
EnvironmentName = Annotated[
    str | None,
    typer.Option("--environment", "-e", metavar="NAME", help=f"The environment.  [env var: {ENVIRONMENT_VARIABLE}]"),
]

PARAMETERS = "sched_plugins.parameters"
"""Where a command class that has options of its own leaves them in typer's context (its ``meta``)."""

_COMMON: dict[str, Any] = {
    "region": Annotated[str | None, typer.Option("--region", metavar="NAME", help="AWS region.")],
    "profile": Annotated[
        str | None, typer.Option("--profile", metavar="NAME", help="Profile of the AWS configuration.")
    ],
    "endpoint_url": Annotated[
        str | None, typer.Option("--endpoint-url", metavar="URL", help="Where AWS answers, as a laptop stack does.")
    ],
    "as_json": Annotated[
        bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else there.")
    ],
    "debug": Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")],
}
_VARIABLES = {
    "region": ("AWS_REGION", "AWS_DEFAULT_REGION"),
    "profile": ("AWS_PROFILE",),
    "endpoint_url": ("AWS_ENDPOINT_URL",),
}


def check_used_with(option: str, given: object, other: str, *, used: bool) -> None:
    """Refuse an option that means nothing without another one.

    Raises:
        InvalidInput: it is given, and the other one is not.
    """
    if given is not None and not used:
        raise InvalidInput(f"{option} means nothing without {other}; add that, or leave it out")


class Shell:
    """What a command works with: its output, and the clients of the scheduler or environment that it names."""

    def __init__(self, *, as_json: bool, debug: bool) -> None:
        self.output = Output(as_json=as_json)
        self.debug = debug
        self.on_interrupt = ""
        """What Ctrl-C means to whoever presses it now; empty: the command just ends."""
        self._named = ""
        self.parameters: dict[str, Any] = {}
        """Template parameters that were given as options, by option name."""

    def jobs(self, scheduler: str | None, environment: str | None) -> SchedulerClient | EnvironmentClient:
        """The client of the environment, or else of the scheduler, that options or variables name.

        An option goes ahead of a variable, and an environment, which knows its scheduler, ahead of a scheduler.

        Raises:
            InvalidInput: nothing names one, or the environment is another scheduler's.
        """
        environment = environment or (None if scheduler else os.environ.get(ENVIRONMENT_VARIABLE))
        if environment:
            client = self.environment(environment)
            if scheduler and client.scheduler != scheduler:
                raise InvalidInput(
                    f"environment {environment!r} belongs to scheduler {client.scheduler!r}, not {scheduler!r}"
                )
            return client
        return self.scheduler(scheduler)

    def scheduler(self, name: str | None) -> SchedulerClient:
        """The client of the scheduler that the option or the variable names.

        Raises:
            InvalidInput: neither does.
        """
        from sched_plugins.cli import clients

        name = name or os.environ.get(SCHEDULER_VARIABLE)
        if not name:
            raise InvalidInput(f"no scheduler is named; give --scheduler NAME, or set {SCHEDULER_VARIABLE}")
        self._named = name
        return clients.scheduler(name)

    def explained(self, error: SchedulerError) -> SchedulerError:
        """The error itself, or a better one: what was named as a scheduler may be an environment."""
        from sched_plugins.cli import clients

        if not isinstance(error, SchedulerNotFound) or not self._named:
            return error
        try:
            owner = clients.environment(self._named).scheduler
        except SchedulerError:
            return error
        return SchedulerNotFound(
            f"{self._named!r} is an environment of scheduler {owner!r}; name it with --environment {self._named}"
        )

    def environment(self, name: str | None) -> EnvironmentClient:
        """The client of the environment that the option or the variable names.

        Raises:
            InvalidInput: neither does.
        """
        from sched_plugins.cli import clients

        name = name or os.environ.get(ENVIRONMENT_VARIABLE)
        if not name:
            raise InvalidInput(f"no environment is named; give --environment NAME, or set {ENVIRONMENT_VARIABLE}")
        return clients.environment(name)


def command(
    app: typer.Typer, name: str | None = None, *, aws: bool = True, **settings: Any
) -> Callable[[Callable[..., Any]], Any]:
    """Declare a function as a command of ``app``; ``aws``: it asks AWS; ``settings`` are typer's."""
    common_options = {key: value for key, value in _COMMON.items() if aws or key not in _VARIABLES}

    def declare(function: Callable[..., int | None]) -> Callable[..., int | None]:
        own = inspect.signature(function, eval_str=True)
        context = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
        parameters = [context, *list(own.parameters.values())[1:]]
        parameters += [
            inspect.Parameter(
                key,
                inspect.Parameter.KEYWORD_ONLY,
                annotation=annotation,
                default=False if key in ("as_json", "debug") else None,
            )
            for key, annotation in common_options.items()
        ]

        @functools.wraps(function)
        def run(context: typer.Context, **values: Any) -> None:
            common = {key: values.pop(key, None) for key in _COMMON}
            shell = _shell(common, context.find_root().params)
            shell.parameters = context.meta.get(PARAMETERS, {})
            raise typer.Exit(_carry_out(function, shell, values))

        run.__signature__ = own.replace(parameters=parameters, return_annotation=None)  # type: ignore[attr-defined]
        run.__annotations__ = {one.name: one.annotation for one in parameters}
        app.command(name, **settings)(run)
        return function

    return declare


def _shell(common: Mapping[str, Any], before: Mapping[str, Any]) -> Shell:
    """The shell of a command. ``before`` holds the common options as they were given before the command's name."""
    _set_variables({key: common[key] or before.get(key) for key in _VARIABLES})
    return Shell(
        as_json=bool(common["as_json"] or before.get("as_json")), debug=bool(common["debug"] or before.get("debug"))
    )


def _carry_out(function: Callable[..., int | None], shell: Shell, values: Mapping[str, Any]) -> int:
    try:
        return int(function(shell, **values) or ExitCode.SUCCEEDED)
    except SchedulerError as error:
        if shell.debug:
            raise
        shell.output.error(shell.explained(error))
        return of_error(error)
    except BrokenPipeError:
        raise  # Whoever read our output has gone (`sched list | head`); typer ends us quietly.
    except Exception as error:
        if shell.debug:
            raise
        bug = f"unexpected {type(error).__name__}: {error}. This is a bug; --debug shows where it is."
        shell.output.error(SchedulerError(bug))
        return ExitCode.FAILED
    except KeyboardInterrupt:
        sys.stderr.write("\n")
        shell.output.say(f"interrupted{'; ' + shell.on_interrupt if shell.on_interrupt else ''}")
        return ExitCode.INTERRUPTED


def _set_variables(options: dict[str, str | None]) -> None:
    """Tell boto3 by its own variables, so that everything in this process that asks AWS asks the same one."""
    for key, value in options.items():
        if value:
            for name in _VARIABLES[key]:
                os.environ[name] = value
    if options.get("profile"):
        # Keys in the environment would go ahead of the profile that was asked for.
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
            os.environ.pop(name, None)
