"""The shipped templates: read, described, checked against values, and made free of local paths."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml

from sched_plugins.errors import DeployError, InvalidSettings

Kind = Literal["scheduler", "environment"]
Value = str | int | float | bool | list[str] | tuple[str, ...]

FILES: dict[Kind, str] = {
    "scheduler": "serverless-scheduler-app.yaml",
    "environment": "resource-automation.yaml",
}
#: Parameters that follow from what is deployed, and are nobody's to choose.
RUNTIME, ARCHITECTURE, SCHEDULER = "PythonRuntime", "Architecture", "SchedulerName"
DERIVED = frozenset({RUNTIME, ARCHITECTURE, SCHEDULER})
#: Parameters that hold more than a pattern can check.
_JSON_OBJECTS = frozenset({"StageParameters"})
_OBJECT = 'write an object, such as {"size": 10}'
#: Most bytes of a template within a request; a longer one is read from S3. Source: AWS CloudFormation quotas.
MAX_TEMPLATE_BODY = 51_200


@dataclass(frozen=True)
class Parameter:
    """A parameter of a template, as an option of a command.

    ``option`` is the name as a command line writes it (``MaxWorkers`` is ``--max-workers``); ``default`` is
    None where a value is required; ``allowed`` is empty where any value will do.
    """

    name: str
    option: str
    description: str
    default: str | None
    type: str = "String"
    allowed: tuple[str, ...] = ()
    pattern: str | None = None
    minimum: float | None = None
    maximum: float | None = None
    shortest: int | None = None
    longest: int | None = None
    rule: str | None = None
    secret: bool = False

    @property
    def is_list(self) -> bool:
        """Whether the parameter takes several values, joined by commas."""
        return self.type == "CommaDelimitedList" or self.type.startswith("List<")

    @property
    def is_number(self) -> bool:
        """Whether every value must be a number."""
        return self.type in ("Number", "List<Number>")

    def text(self, value: Value) -> str:
        """The value as CloudFormation takes it.

        Raises:
            InvalidSettings: the template does not allow the value.
        """
        items = [value] if not isinstance(value, list | tuple) else list(value)
        text = ",".join(str(item).lower() if isinstance(item, bool) else str(item) for item in items)
        for part in text.split(",") if self.is_list else [text]:
            if problem := self._problem(part):
                shown = "the value" if self.secret else repr(text)
                raise InvalidSettings(f"{self.option}: {shown} {self.rule or problem}")
        return text

    def _problem(self, text: str) -> str | None:
        if self.allowed and text not in self.allowed:
            return f"is not allowed; choose one of {', '.join(self.allowed)}"
        if self.pattern and not re.fullmatch(self.pattern, text):
            return f"does not match {self.pattern}"
        if self.shortest is not None and len(text) < self.shortest:
            return f"is shorter than {self.shortest} characters"
        if self.longest is not None and len(text) > self.longest:
            return f"is longer than {self.longest} characters"
        if not self.is_number:
            return None
        try:
            number = float(text)
        except ValueError:
            return "is not a number"
        if self.minimum is not None and number < self.minimum:
            return f"is less than {self.minimum:g}"
        if self.maximum is not None and number > self.maximum:
            return f"is more than {self.maximum:g}"
        return None


def template_parameters(kind: Kind) -> list[Parameter]:
    """The parameters of a template that its user may choose, in the template's order."""
    return [parameter for parameter in parameters(load(kind)) if parameter.name not in DERIVED]


def parameters(template: Mapping[str, Any]) -> list[Parameter]:
    """Every parameter of a loaded template, in the template's order."""
    return [_parameter(name, declared) for name, declared in template.get("Parameters", {}).items()]


def checked(template: Mapping[str, Any], values: Mapping[str, Value | None]) -> dict[str, str]:
    """``values`` by parameter name, checked against the template, as CloudFormation takes them.

    A name may be written as in the template or as an option (``max-workers``, ``max_workers``). None leaves
    the parameter out, so that its earlier value or its default stays.

    Raises:
        InvalidSettings: a name is unknown (close ones are named), or a value is not allowed.
    """
    known: dict[str, Parameter] = {}
    for parameter in parameters(template):
        known[parameter.name] = known[parameter.option[2:]] = parameter
    result: dict[str, str] = {}
    for name, value in values.items():
        found = known.get(name) or known.get(name.lstrip("-").replace("_", "-"))
        if found is None:
            close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
            names = sorted(parameter.name for parameter in known.values())
            hint = f"Did you mean {' or '.join(close)}?" if close else f"There are {', '.join(dict.fromkeys(names))}."
            raise InvalidSettings(f"{name!r} is not a parameter of this template. {hint}")
        if value is not None:
            result[found.name] = found.text(value)
            if found.name in _JSON_OBJECTS:
                _check_object(found, result[found.name])
    return result


def _check_object(parameter: Parameter, text: str) -> None:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise InvalidSettings(f"{parameter.option}: {text!r} is not JSON: {error}; {_OBJECT}") from None
    if not isinstance(value, dict):
        raise InvalidSettings(f"{parameter.option}: {text!r} is no JSON object; {_OBJECT}")


def load(kind: Kind) -> dict[str, Any]:
    """A shipped template, its short tags (``!Ref``) written out (``{"Ref": …}``)."""
    return read(folder() / FILES[kind])


def folder() -> Path:
    """Where the templates are: in the installed package, or ``infra/`` at the top of a checkout.

    Raises:
        DeployError: neither has them.
    """
    installed = Path(__file__).resolve().parent.parent / "infra"
    checkout = Path(__file__).resolve().parents[3] / "infra"
    for place in (installed, checkout):
        if (place / FILES["scheduler"]).is_file():
            return place
    raise DeployError(f"the templates are neither in {installed} nor in {checkout}. Install sched-plugins again.")


def read(path: Path) -> dict[str, Any]:
    """A template file as plain values.

    Raises:
        DeployError: the file cannot be read, or is not a template.
    """
    try:
        template = _load_yaml(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise DeployError(f"cannot read the template {path}: {error}") from error
    if not isinstance(template, dict) or "Resources" not in template:
        raise DeployError(f"{path} is not a CloudFormation template: it has no Resources")
    return template


def located(
    template: Mapping[str, Any], code: Mapping[str, Any], base: Path, architecture: str | None = None
) -> dict[str, Any]:
    """The template with ``code`` for every local code path, and state machines written into it.

    ``code`` holds ``Bucket`` and ``Key``, as values or as references; local paths are relative to ``base``.
    ``architecture`` is set on every function where the template itself leaves it open. The result can be
    deployed from anywhere, as after ``aws cloudformation package``.
    """
    result: dict[str, Any] = json.loads(json.dumps(template))
    common = result.get("Globals", {}).get("Function", {})
    if _is_local(common.get("CodeUri")):
        common["CodeUri"] = dict(code)
    for resource in result["Resources"].values():
        properties = resource.setdefault("Properties", {})
        if resource["Type"] == "AWS::Serverless::Function":
            if _is_local(properties.get("CodeUri")):
                properties["CodeUri"] = dict(code)
            if architecture and "Architectures" not in {**common, **properties}:
                properties["Architectures"] = [architecture]
            # Tells `sam build` how to build; means nothing to CloudFormation.
            resource.get("Metadata", {}).pop("BuildMethod", None)
        elif resource["Type"] == "AWS::Lambda::Function" and _is_local(properties.get("Code")):
            properties["Code"] = {"S3Bucket": code["Bucket"], "S3Key": code["Key"]}
        elif resource["Type"] == "AWS::Serverless::StateMachine" and _is_local(properties.get("DefinitionUri")):
            path = base / properties.pop("DefinitionUri")
            try:
                properties["Definition"] = _load_yaml(path.read_text(encoding="utf-8"))
            except (OSError, yaml.YAMLError) as error:
                raise DeployError(f"cannot read the state machine {path}: {error}") from error
    return result


def to_yaml(template: Mapping[str, Any]) -> str:
    """The template as YAML, for people."""
    return yaml.dump(dict(template), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def option(name: str) -> str:
    """A parameter's name as an option: ``MaxWorkers`` is ``--max-workers``, ``AMIId`` is ``--ami-id``."""
    return "--" + re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", name).lower()


def _parameter(name: str, declared: Mapping[str, Any]) -> Parameter:
    default = declared.get("Default")
    if isinstance(default, bool):
        default = str(default).lower()
    return Parameter(
        name=name,
        option=option(name),
        description=" ".join(str(declared.get("Description", "")).split()),
        default=None if default is None else str(default),
        type=str(declared.get("Type", "String")),
        allowed=tuple(str(v).lower() if isinstance(v, bool) else str(v) for v in declared.get("AllowedValues", ())),
        pattern=declared.get("AllowedPattern"),
        minimum=_number(declared.get("MinValue")),
        maximum=_number(declared.get("MaxValue")),
        shortest=_whole(declared.get("MinLength")),
        longest=_whole(declared.get("MaxLength")),
        rule=declared.get("ConstraintDescription"),
        secret=str(declared.get("NoEcho", "")).lower() == "true",
    )


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _whole(value: Any) -> int | None:
    return None if value is None else int(value)


def _is_local(value: Any) -> bool:
    return isinstance(value, str) and not value.startswith("s3://")


@cache
def _loader() -> Any:
    """A loader that writes CloudFormation's short tags out and leaves dates text, as CloudFormation does."""
    resolvers = {
        first: [(tag, expression) for tag, expression in found if tag != "tag:yaml.org,2002:timestamp"]
        for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    # The one in C, where PyYAML has it, takes a tenth of the time.
    base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    loader: Any = type("TemplateLoader", (base,), {"yaml_implicit_resolvers": resolvers})
    loader.add_multi_constructor("!", _intrinsic)
    return loader


def _intrinsic(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> dict[str, Any]:
    value: Any
    if isinstance(node, yaml.ScalarNode):
        value = loader.construct_scalar(node)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        value = loader.construct_mapping(node, deep=True)  # type: ignore[arg-type]
    if suffix == "GetAtt" and isinstance(value, str):
        value = value.split(".", 1)
    return {suffix if suffix in ("Ref", "Condition") else f"Fn::{suffix}": value}


def _load_yaml(text: str) -> Any:
    return yaml.load(text, Loader=_loader())  # noqa: S506 - derived from SafeLoader


class _Dumper(yaml.SafeDumper):
    """Writes several lines as a block, and never an alias, which CloudFormation does not read."""

    def ignore_aliases(self, _data: Any) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _represent_text)
