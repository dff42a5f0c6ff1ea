"""Commands whose options are a template's parameters: read from the template, so that none is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import typer
from typer.core import TyperCommand

from sched_plugins.cli.command import PARAMETERS

if TYPE_CHECKING:
    from sched_plugins.deploy import Parameter
    from sched_plugins.deploy.template import Kind


class _TemplateCommand(TyperCommand):
    """A command that also takes ``--parameter-name VALUE`` for each parameter of its template."""

    kind: ClassVar[Kind]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        known = {parameter.option: parameter for parameter in self._parameters()}
        rest: list[str] = []
        given: dict[str, list[str]] = {}
        words = iter(args)
        for word in words:
            if word == "--":
                rest += [word, *words]
                break
            name, separator, value = word.partition("=")
            if name not in known:
                rest.append(word)
                continue
            if not separator:
                found = next(words, None)
                if found is None:
                    raise typer.BadParameter(f"option {name} needs a value")
                value = found
            given.setdefault(name, []).append(value)
        ctx.meta[PARAMETERS] = {name: _value(known[name], values) for name, values in given.items()}
        return super().parse_args(ctx, rest)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        super().format_options(ctx, formatter)
        rows = [(f"{one.option} {_metavar(one)}", _help(one)) for one in self._parameters()]
        if rows:
            with formatter.section("Template parameters"):
                formatter.write_dl(rows)

    def _parameters(self) -> list[Parameter]:
        from sched_plugins.deploy import template_parameters

        return template_parameters(self.kind)


class SchedulerTemplateCommand(_TemplateCommand):
    """``sched deploy scheduler``."""

    kind = "scheduler"


class EnvironmentTemplateCommand(_TemplateCommand):
    """``sched deploy environment``."""

    kind = "environment"


def _value(parameter: Parameter, values: list[str]) -> str | list[str]:
    if parameter.is_list:
        return values
    if len(values) > 1:
        raise typer.BadParameter(f"option {parameter.option} was given {len(values)} times; it takes one value")
    return values[0]


def _metavar(parameter: Parameter) -> str:
    if parameter.allowed and len(parameter.allowed) <= 4:
        return "[" + "|".join(parameter.allowed) + "]"
    return "N" if parameter.is_number else "A,B,…" if parameter.is_list else "TEXT"


def _help(parameter: Parameter) -> str:
    text = parameter.description
    if parameter.default is None:
        return f"{text}  [required]"
    return f"{text}  [default: {parameter.default}]" if parameter.default else text
