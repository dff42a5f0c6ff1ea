"""What a ``pipeline.yaml`` says, checked before anything is deployed."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Annotated, Any, cast

import yaml
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, model_validator

from sched_plugins.core import limits, names
from sched_plugins.core.job import LINUX_DOCUMENT, WINDOWS_DOCUMENT
from sched_plugins.errors import InvalidPipeline, InvalidSettings

_NAME = r"^[a-z][a-z0-9-]*[a-z0-9]$"
_DOCUMENT = f"^({LINUX_DOCUMENT}|{WINDOWS_DOCUMENT})$"
_INSTANCE_TYPE = r"^[a-z][a-z0-9-]*\.[a-z0-9-]+$"


class StageDefinition(BaseModel):
    """One stage: an environment, and what it executes."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: str = Field(pattern=_NAME, max_length=20)
    """Unique in its pipeline; part of its environment's name and of its results' folder."""
    executable: str = Field(min_length=1)
    """A file beside pipeline.yaml, an S3 address, or an absolute path on the worker's image."""
    after: tuple[str, ...] = ()
    """Stages whose results this one works on. With one, its files lie in the working directory; with several,
    each one's lie in the subdirectory of its name. Several stages may follow the same one."""
    parameters: dict[str, Any] = Field(default_factory=dict)
    """Given to the executable as JSON in SCHED_PARAMETERS."""
    setup: str = ""
    """Shell text run once when a worker boots, to install what the executable needs."""
    instance_types: tuple[Annotated[str, Field(pattern=_INSTANCE_TYPE)], ...] = ()
    """EC2 instance types to choose from; empty: the template's."""
    max_workers: int = Field(default=1, ge=1, le=10_000)
    """The most workers at a time."""
    timeout_seconds: int = Field(default=3_600, ge=1, le=limits.MAX_JOB_TIMEOUT)
    """How long the executable may run."""
    retry: int = Field(default=0, ge=0, le=limits.MAX_RETRY)
    """How many more tries after a failure of its own."""
    success_string: str = ""
    """Text that its stdout must contain; blank: the exit code decides alone."""
    document: str = Field(default=LINUX_DOCUMENT, pattern=_DOCUMENT)
    """The Systems Manager document: shell script, or PowerShell on Windows workers."""
    image: str = ""
    """An AMI id or an SSM parameter's name; empty: the template's."""

    @property
    def is_local_file(self) -> bool:
        """Whether the executable is a file beside pipeline.yaml."""
        return not self.executable.startswith(("s3://", "/")) and not re.match(r"[A-Za-z]:[\\/]", self.executable)


class Pipeline(BaseModel):
    """A pipeline: stages, and which works on whose results."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: str = Field(pattern=_NAME, max_length=24)
    """Environments are named ``<name>-<stage>``."""
    description: str = ""
    """For people."""
    stages: tuple[StageDefinition, ...] = Field(min_length=1)
    """In any order."""

    _folder: Path = PrivateAttr(default=Path())

    @model_validator(mode="after")
    def _coherent(self) -> Pipeline:
        known = [stage.name for stage in self.stages]
        for name in {name for name in known if known.count(name) > 1}:
            raise ValueError(f"two stages are named {name!r}")
        for stage in self.stages:
            for name in stage.after:
                if name not in known:
                    close = difflib.get_close_matches(name, known, 1)
                    hint = f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(known)}"
                    raise ValueError(f"stage {stage.name!r} comes after {name!r}, which does not exist{hint}")
            if len(set(stage.after)) != len(stage.after):
                raise ValueError(f"stage {stage.name!r} names a stage twice under `after`")
            try:
                names.check_stack_name(self.environment(stage.name))
            except InvalidSettings as error:
                raise ValueError(str(error)) from None
        try:
            TopologicalSorter({stage.name: stage.after for stage in self.stages}).prepare()
        except CycleError as error:
            raise ValueError(f"the stages wait for each other: {' → '.join(error.args[1])}") from None
        return self

    @property
    def folder(self) -> Path:
        """Where pipeline.yaml lies."""
        return self._folder

    def environment(self, stage: str) -> str:
        """The name of a stage's environment."""
        return f"{self.name}-{stage}"

    def stage(self, name: str) -> StageDefinition:
        """The stage of that name.

        Raises:
            InvalidPipeline: there is none.
        """
        for stage in self.stages:
            if stage.name == name:
                return stage
        there = ", ".join(stage.name for stage in self.stages)
        raise InvalidPipeline(f"pipeline {self.name!r} has no stage {name!r}; there are {there}")

    def successors(self, name: str) -> tuple[str, ...]:
        """The stages that work on this one's results."""
        return tuple(stage.name for stage in self.stages if name in stage.after)

    @property
    def roots(self) -> tuple[StageDefinition, ...]:
        """The stages that come after no other."""
        return tuple(stage for stage in self.stages if not stage.after)

    def in_order(self) -> tuple[StageDefinition, ...]:
        """Every stage after those it works on; otherwise in the file's order."""
        order = list(TopologicalSorter({stage.name: stage.after for stage in self.stages}).static_order())
        return tuple(sorted(self.stages, key=lambda stage: order.index(stage.name)))

    def executable_path(self, stage: StageDefinition) -> Path:
        """The file of a stage whose executable lies beside pipeline.yaml."""
        return self._folder / stage.executable


def load(path: str | Path) -> Pipeline:
    """Read and check a pipeline file, and that the executables beside it exist.

    Args:
        path: the YAML file, or the folder that holds a ``pipeline.yaml``.

    Raises:
        InvalidPipeline: names the stage, the field, its value and the rule.
    """
    file = Path(path)
    file = file / "pipeline.yaml" if file.is_dir() else file
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InvalidPipeline(f"there is no pipeline file {str(file)!r}; give the path of a pipeline.yaml") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidPipeline(f"{str(file)!r} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise InvalidPipeline(f"{str(file)!r} is not YAML: {error}") from None
    if not isinstance(content, dict):
        held = _KINDS.get(type(content), "a single value")
        raise InvalidPipeline(f"{str(file)!r} holds {held}, not a mapping with `name` and `stages`")
    try:
        pipeline = Pipeline.model_validate(content)
    except ValidationError as error:
        raise InvalidPipeline(f"{str(file)!r}: {_explain(error, content)}") from None
    pipeline._folder = file.parent.resolve()
    for stage in pipeline.stages:
        if stage.is_local_file and not pipeline.executable_path(stage).is_file():
            raise InvalidPipeline(
                f"{str(file)!r}: stage {stage.name!r}: there is no file {stage.executable!r} beside the pipeline file"
            )
    return pipeline


_KINDS = {type(None): "nothing", list: "a list", str: "text"}
_PATTERNS = {
    _NAME: "use two or more lower-case letters, digits and hyphens, beginning with a letter, no hyphen at the end",
    _INSTANCE_TYPE: "write an instance type, such as c7i.large",
    _DOCUMENT: f"choose {LINUX_DOCUMENT} or {WINDOWS_DOCUMENT}",
}
_WORDS = {
    "string_pattern_mismatch": "has another form",
    "string_too_short": "is empty",
    "string_too_long": "is longer than {max_length} characters",
    "too_short": "is empty; give at least one",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_type": "must be a whole number",
    "string_type": "must be text",
    "dict_type": "must be a mapping of names to values",
    "tuple_type": "must be a list",
    "model_type": "must be a mapping with the fields of a stage",
}
"""What Pydantic says, by its type of error, in the words of whoever writes the file."""


def _explain(error: ValidationError, content: dict[str, Any]) -> str:
    parts = []
    items = error.errors(include_url=False)
    if len(items) > 1:
        # Stages that are wrong do not count for Pydantic: that there are none is not true then.
        items = [item for item in items if (item["loc"], item["type"]) != (("stages",), "too_short")]
    for item in items:
        where = _place(item["loc"], content)
        message = item["msg"].removeprefix("Value error, ")
        if words := _WORDS.get(item["type"]):
            message = words.format(**item.get("ctx", {}))
            if item["type"] == "string_pattern_mismatch":
                message = _PATTERNS[item["ctx"]["pattern"]]
        if item["type"] == "extra_forbidden":
            fields = StageDefinition.model_fields if "stages" in item["loc"] else Pipeline.model_fields
            close = difflib.get_close_matches(str(item["loc"][-1]), fields, 1)
            message = f"no such field{f'; did you mean {close[0]!r}?' if close else ''}"
        elif item["type"] == "missing":
            message = "is missing"
        elif isinstance(item.get("input"), str | int | float):
            message = f"{message} (got {str(item['input'])[:60]!r})"
        parts.append(f"{where}: {message}" if where else message)
    return "; ".join(parts)


def _place(location: Sequence[str | int], content: dict[str, Any]) -> str:
    steps = [str(step) for step in location]
    if len(location) >= 2 and location[0] == "stages" and isinstance(location[1], int):
        try:
            steps = [f"stage {content['stages'][location[1]]['name']!r}", *steps[2:]]
        except (KeyError, IndexError, TypeError):
            steps = [f"stage {location[1] + 1}", *steps[2:]]
    return ", ".join(steps)


def schema() -> dict[str, Any]:
    """The JSON Schema of a pipeline file, for editors; shipped as ``pipeline.schema.json``."""
    made = Pipeline.model_json_schema()
    return cast("dict[str, Any]", {"$schema": "https://json-schema.org/draft/2020-12/schema", **made})
