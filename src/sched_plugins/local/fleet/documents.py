"""Documents: what a command does, its parameters, and how the one becomes the other's steps."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass, field
from typing import Any

from .wire import AwsError

SHELL_PLUGIN = "aws:runShellScript"
POWERSHELL_PLUGIN = "aws:runPowerShellScript"
#: "Default: 3600", "maximum 172800": the documents AWS-RunShellScript and AWS-RunPowerShellScript.
DEFAULT_EXECUTION_TIMEOUT = 3600
MAXIMUM_EXECUTION_TIMEOUT = 172_800
_TIMEOUT_PATTERN = "([1-9][0-9]{0,4})|(1[0-6][0-9]{4})|(17[0-1][0-9]{3})|(172[0-7][0-9]{2})|(172800)"
_REFERENCE = re.compile(r"\{\{\s*([A-Za-z0-9_.]+)\s*\}\}")


@dataclass(frozen=True)
class Step:
    """One script to run: its plugin, the names its output is filed under, and its inputs."""

    plugin: str
    name: str
    script: str
    working_directory: str
    timeout: int

    @property
    def output_path(self) -> str:
        """Folder of the step's output below ``<command-id>/<instance-id>/``."""
        return f"{self.plugin.replace(':', '')}/{self.name}"


@dataclass
class Document:
    """A command document. ``content`` is its JSON, as CreateDocument got it."""

    name: str
    content: dict[str, Any]
    owner: str
    version: int = 1
    created: float = field(default_factory=time.time)

    @property
    def parameters(self) -> dict[str, Any]:
        """Declared parameters by name."""
        declared: dict[str, Any] = self.content.get("parameters") or {}
        return declared

    @property
    def platforms(self) -> list[str]:
        """Platforms on which some step of it runs."""
        return ["Windows"] if self.name == "AWS-RunPowerShellScript" else ["Linux", "MacOS"]

    def bind(self, given: dict[str, Any]) -> dict[str, Any]:
        """Values of all declared parameters; raises ``InvalidParameters`` as SendCommand does."""
        for name in given:
            if name not in self.parameters:
                raise AwsError("InvalidParameters", f"Parameter {name} is not defined in the document {self.name}")
        bound = {}
        for name, declared in self.parameters.items():
            value = given.get(name, declared.get("default"))
            if value is None:
                raise AwsError("InvalidParameters", f"Parameter {name} is required by the document {self.name}")
            _check_value(name, declared, value)
            bound[name] = value if declared.get("type") in ("StringList", "StringMap", "MapList") else _text(value)
        return bound

    def steps(self, bound: dict[str, Any], shortest_timeout: int) -> list[Step]:
        """The scripts to run, with ``{{ name }}`` replaced, as the agent does it."""
        return [_step(plugin, name, inputs, bound, shortest_timeout) for plugin, name, inputs in _plugins(self.content)]


class Documents:
    """The documents of each account and region, and AWS's own."""

    def __init__(self) -> None:
        self._own: dict[tuple[str, str, str], Document] = {}
        self._shared = {item.name: item for item in (_script("AWS-RunShellScript"), _script("AWS-RunPowerShellScript"))}

    def find(self, account: str, region: str, name: str) -> Document:
        """A document by name or ARN; raises ``InvalidDocument`` if there is none."""
        short = name.rsplit("document/", 1)[-1]
        found = self._own.get((account, region, short)) or self._shared.get(short)
        if found is None:
            raise AwsError("InvalidDocument", f"Document with name {name} does not exist.")
        return found

    def create(self, account: str, region: str, name: str, text: str) -> Document:
        """Store a document; raises AWS's errors when it exists or its content is not understood."""
        if not re.fullmatch(r"[A-Za-z0-9_\-.]{3,128}", name):
            raise AwsError("ValidationException", f"Value '{name}' at 'name' must satisfy [a-zA-Z0-9_\\-.]{{3,128}}")
        if (account, region, name) in self._own or name in self._shared:
            raise AwsError("DocumentAlreadyExists", f"Document with same name {name} already exists")
        document = Document(name, _content(text), account)
        self._own[account, region, name] = document
        return document

    def update(self, account: str, region: str, name: str, text: str) -> Document:
        """Replace a document's content, as its next version."""
        document = self._mine(account, region, name)
        document.content = _content(text)
        document.version += 1
        return document

    def delete(self, account: str, region: str, name: str) -> None:
        """Remove a document."""
        self._mine(account, region, name)
        del self._own[account, region, name]

    def all(self, account: str, region: str) -> list[Document]:
        """The account's own documents and AWS's."""
        own = [item for key, item in self._own.items() if key[:2] == (account, region)]
        return [*own, *self._shared.values()]

    def _mine(self, account: str, region: str, name: str) -> Document:
        found = self._own.get((account, region, name))
        if found is None:
            raise AwsError("InvalidDocument", f"Document with name {name} does not exist.")
        return found


def _content(text: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except ValueError:
        content = _from_yaml(text)
    if not isinstance(content, dict) or str(content.get("schemaVersion")) not in ("1.2", "2.0", "2.2"):
        raise AwsError("InvalidDocumentContent", "The document needs schemaVersion 1.2 or 2.2 and a JSON or YAML body")
    plugins = [plugin for plugin, _, _ in _plugins(content)]
    if not plugins:
        raise AwsError("InvalidDocumentContent", "The document has no step")
    for plugin in plugins:
        if plugin not in (SHELL_PLUGIN, POWERSHELL_PLUGIN):
            raise AwsError(
                "InvalidDocumentContent",
                f"The laptop stack runs {SHELL_PLUGIN} and {POWERSHELL_PLUGIN}, and does not run {plugin}",
            )
    return content


def _from_yaml(text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise AwsError("InvalidDocumentContent", "The document is neither JSON nor YAML") from None


def _plugins(content: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """(plugin, name of the output folder, inputs) of each step, for both document schemas."""
    found: list[tuple[str, str, dict[str, Any]]] = []
    for plugin, config in (content.get("runtimeConfig") or {}).items():
        found += [
            (plugin, str(inputs.get("id", "0." + plugin)).replace(":", ""), inputs)
            for inputs in config.get("properties") or []
        ]
    return found + [
        (str(step.get("action")), str(step.get("name")), step.get("inputs") or {})
        for step in content.get("mainSteps") or []
    ]


def _step(plugin: str, name: str, inputs: dict[str, Any], bound: dict[str, Any], shortest: int) -> Step:
    commands = _replace(inputs.get("runCommand") or [], bound)
    lines = commands if isinstance(commands, list) else [commands]
    return Step(
        plugin,
        name,
        script="\n".join(_text(line) for line in lines) + "\n",
        working_directory=_text(_replace(inputs.get("workingDirectory") or "", bound)),
        timeout=_timeout(_replace(inputs.get("timeoutSeconds") or "", bound), shortest),
    )


def _timeout(value: Any, shortest: int) -> int:
    """The agent takes a timeout outside its bounds, or none, as the default."""
    try:
        seconds = int(float(_text(value)))
    except ValueError:
        return DEFAULT_EXECUTION_TIMEOUT
    return seconds if shortest <= seconds <= MAXIMUM_EXECUTION_TIMEOUT else DEFAULT_EXECUTION_TIMEOUT


def _replace(value: Any, bound: dict[str, Any]) -> Any:
    """Replace references in ``value``, then references to declared parameters in what came in.

    A string that is nothing but a reference becomes the parameter's value, lists included. The second pass
    is what the agent does too: a job's text is not safe from it.
    """
    if isinstance(value, list):
        out: list[Any] = []
        for item in value:
            replaced = _replace(item, bound)
            out.extend(replaced if isinstance(replaced, list) else [replaced])
        return out
    if not isinstance(value, str):
        return value
    whole = _REFERENCE.fullmatch(value.strip())
    if whole and whole[1] in bound:
        inner = bound[whole[1]]
        return (
            [_inline(_text(item), bound) for item in inner] if isinstance(inner, list) else _inline(_text(inner), bound)
        )
    return _inline(_inline(value, bound), bound)


def _inline(text: str, bound: dict[str, Any]) -> str:
    def value_of(match: re.Match[str]) -> str:
        return _text(bound[match[1]]) if match[1] in bound else match[0]

    return _REFERENCE.sub(value_of, text)


def _text(value: Any) -> str:
    """A parameter's value as text; a list of one, which is how SendCommand carries strings, is that one."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return value if isinstance(value, str) else json.dumps(value)


def _check_value(name: str, declared: dict[str, Any], value: Any) -> None:
    items = [str(item) for item in value] if isinstance(value, list) else [_text(value)]
    if declared.get("type", "String") == "String" and isinstance(value, list) and len(value) != 1:
        raise AwsError("InvalidParameters", f"Parameter {name} takes one value, and got {len(value)}")
    pattern, allowed = declared.get("allowedPattern"), declared.get("allowedValues")
    for item in items:
        if (pattern and not re.fullmatch(pattern, item)) or (allowed and item not in allowed):
            raise AwsError("InvalidParameters", f"Parameter {name} does not accept the value {item!r}")


def _script(name: str) -> Document:
    """AWS's document for shell or PowerShell scripts."""
    plugin = SHELL_PLUGIN if name == "AWS-RunShellScript" else POWERSHELL_PLUGIN
    content = {
        "schemaVersion": "1.2",
        "description": "Run a script.",
        "parameters": {
            "commands": {"type": "StringList", "minItems": 1},
            "workingDirectory": {"type": "String", "default": "", "maxChars": 4096},
            "executionTimeout": {
                "type": "String",
                "default": str(DEFAULT_EXECUTION_TIMEOUT),
                "allowedPattern": _TIMEOUT_PATTERN,
            },
        },
        "runtimeConfig": {
            plugin: {
                "properties": [
                    {
                        "id": f"0.{plugin}",
                        "runCommand": "{{ commands }}",
                        "workingDirectory": "{{ workingDirectory }}",
                        "timeoutSeconds": "{{ executionTimeout }}",
                    }
                ]
            }
        },
    }
    return Document(name, content, "Amazon")
