"""The job: what a submitter asks for, checked before anything happens."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from sched_plugins.core import limits, names
from sched_plugins.errors import InvalidJob

LINUX_DOCUMENT = "AWS-RunShellScript"
WINDOWS_DOCUMENT = "AWS-RunPowerShellScript"

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_DOCUMENT = re.compile(r"[A-Za-z0-9_\-.:/]{3,256}")
_S3_URI = re.compile(r"s3://[a-z0-9][a-z0-9.\-]{1,61}[a-z0-9](/.*)?", re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def _bytes_at_most(maximum: int) -> AfterValidator:
    def check(value: str) -> str:
        if len(value.encode()) > maximum:
            raise ValueError(f"is {len(value.encode()):,} bytes long; at most {maximum:,} are allowed")
        return value

    return AfterValidator(check)


def _s3_uri(value: str) -> str:
    if value and not _S3_URI.fullmatch(value):
        raise ValueError(f"{value!r} is not an S3 address of the form s3://bucket/key")
    return value


def _whole_number(value: object) -> object:
    # The original contract sends retry as a string; a bool or a float is a mistake, not a number.
    if isinstance(value, bool | float):
        raise ValueError(f"{value!r} is not a whole number")
    if isinstance(value, str):
        if not re.fullmatch(r"\s*[+-]?\d{1,9}\s*", value, re.ASCII):
            raise ValueError(f"{value!r} is not a whole number")
        return int(value)
    return value


S3Uri = Annotated[str, AfterValidator(_s3_uri)]
WholeNumber = Annotated[int, BeforeValidator(_whole_number)]


class Stage(BaseModel):
    """Files around a job: what is copied to the worker before it, and from the worker after it.

    With a stage, the executable is fetched from S3 and run in a directory of the attempt's own, and
    what it wrote is copied to ``output`` when it exits 0, otherwise to ``<output>_sched/attempts/<n>/``.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    executable: str = Field(min_length=1)
    """What to run: an S3 address, or an absolute path on the worker's image."""
    inputs: tuple[S3Uri, ...] = ()
    """S3 folders (ending in ``/``) copied into the working directory. One folder is copied flat;
    of several, each goes to the subdirectory that ``input_names`` gives it."""
    input_names: tuple[str, ...] = ()
    """Subdirectories for several inputs, in the order of ``inputs``; empty for one input."""
    output: S3Uri
    """The S3 folder (ending in ``/``) that receives what the job wrote."""
    outputs_too: tuple[S3Uri, ...] = ()
    """More S3 folders that receive the same files: the further successors of a fanned-out stage."""
    writer: str = ""
    """The environment that runs the stage; recorded in the metadata of what it writes, so that its own
    trigger ignores it."""
    stage_parameters: dict[str, Any] = Field(default_factory=dict)
    """Given to the executable as JSON in ``SCHED_PARAMETERS``, and told in the manifest."""
    overrides: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Parameters of this run of a pipeline, by stage; the manifest carries them to the next stages."""

    @field_validator("inputs", "outputs_too")
    @classmethod
    def _folders(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for uri in value:
            if not uri.endswith("/"):
                raise ValueError(f"{uri!r} is not a folder; end it with '/'")
        return value

    @field_validator("output")
    @classmethod
    def _folder(cls, value: str) -> str:
        if not value.endswith("/"):
            raise ValueError(f"{value!r} is not a folder; end it with '/'")
        return value

    @field_validator("stage_parameters", "overrides")
    @classmethod
    def _json(cls, value: dict[str, Any]) -> dict[str, Any]:
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            # Otherwise NaN would become null on its way to the job.
            raise ValueError(f"cannot be written as JSON: {error}") from None
        return value

    @model_validator(mode="after")
    def _named(self) -> Stage:
        if len(self.inputs) > 1 and len(self.input_names) != len(self.inputs):
            raise ValueError(f"{len(self.inputs)} inputs need as many input_names, got {len(self.input_names)}")
        for name in self.input_names:
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
                raise ValueError(f"input name {name!r} is not a plain directory name")
        return self


class JobSpec(BaseModel):
    """A command that must run on some machine, once, successfully, with its files.

    The first five fields are the original message contract; a client that sends just those, with
    plain SQS, is served.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    job_id: Annotated[str, Field(min_length=1), _bytes_at_most(limits.MAX_JOB_ID_BYTES)]
    """Who the job is, unique in its scheduler."""
    retry: Annotated[WholeNumber, Field(ge=0, le=limits.MAX_RETRY)]
    """How many more tries a job gets that ended through its own fault."""
    job_success_string: str = ""
    """Text that stdout must contain; blank (empty or white space) means that the exit code decides alone."""
    ssm_document: str
    """The Systems Manager document that runs the job."""
    commands: tuple[str, ...]
    """The lines of the script, for the two standard documents."""
    timeout_seconds: Annotated[WholeNumber, Field(ge=1, le=limits.MAX_JOB_TIMEOUT)] = limits.DEFAULT_JOB_TIMEOUT
    """How long the executable itself may run, in seconds; 169,200 (47 h) unless given."""
    working_directory: Annotated[str, _bytes_at_most(1024)] = ""
    """An absolute directory on the worker; empty means a fresh one of the attempt's own."""
    environment: dict[str, str] = Field(default_factory=dict)
    """Environment variables of the job."""
    parameters: dict[str, list[str]] = Field(default_factory=dict)
    """Parameters for a document other than the two standard ones."""
    results_uri: S3Uri = ""
    """Where the results are, for those who look for them."""
    group_id: Annotated[str, _bytes_at_most(limits.MAX_GROUP_ID_BYTES)] = ""
    """A label shared by jobs that belong together."""
    tags: dict[str, str] = Field(default_factory=dict)
    """Free labels."""
    stage: Stage | None = None
    """Files around the job; with it ``commands`` is empty and the stage's executable runs."""
    schema_: Annotated[Literal[1], Field(alias="schema")] = 1
    """Version of this contract."""

    @field_validator("job_id", "group_id")
    @classmethod
    def _printable(cls, value: str) -> str:
        if _CONTROL.search(value):
            raise ValueError(f"{value!r} contains a control character")
        return value

    @field_validator("ssm_document")
    @classmethod
    def _document(cls, value: str) -> str:
        if not _DOCUMENT.fullmatch(value):
            raise ValueError(f"{value!r} is not the name of a Systems Manager document")
        return value

    @field_validator("environment")
    @classmethod
    def _variables(cls, value: dict[str, str]) -> dict[str, str]:
        if len(value) > limits.MAX_ENVIRONMENT_VARIABLES:
            raise ValueError(f"has {len(value)} variables; at most {limits.MAX_ENVIRONMENT_VARIABLES} are allowed")
        for name, text in value.items():
            if not _VARIABLE.fullmatch(name):
                raise ValueError(f"{name!r} is not a variable name ([A-Za-z_][A-Za-z0-9_]*)")
            if "\x00" in text:
                raise ValueError(f"the value of {name!r} contains a null character")
        return value

    @field_validator("tags")
    @classmethod
    def _tags(cls, value: dict[str, str]) -> dict[str, str]:
        if len(value) > limits.MAX_TAGS:
            raise ValueError(f"has {len(value)} tags; at most {limits.MAX_TAGS} are allowed")
        return value

    @field_validator("working_directory")
    @classmethod
    def _absolute(cls, value: str) -> str:
        if value and not (value.startswith("/") or re.match(r"[A-Za-z]:[\\/]", value)):
            raise ValueError(f"{value!r} is not an absolute path")
        return value

    @model_validator(mode="after")
    def _something_to_run(self) -> JobSpec:
        if self.stage is None and self.is_wrapped and not any(line.strip() for line in self.commands):
            raise ValueError("commands is empty; give at least one command, or a stage with an executable")
        if self.stage is not None and not self.is_wrapped:
            raise ValueError(f"a stage needs {LINUX_DOCUMENT} or {WINDOWS_DOCUMENT}, not {self.ssm_document!r}")
        if self.stage is not None and self.commands:
            raise ValueError("a job with a stage runs the stage's executable; leave commands empty")
        if any("\x00" in line for line in self.commands):
            raise ValueError("commands contains a null character")
        return self

    @property
    def is_wrapped(self) -> bool:
        """Whether the job runs inside the scheduler's wrapper (the two standard documents)."""
        return self.ssm_document in (LINUX_DOCUMENT, WINDOWS_DOCUMENT)

    @property
    def execution_timeout(self) -> int:
        """Seconds after which Systems Manager ends the whole command, staging included."""
        return self.timeout_seconds + limits.STAGING_ALLOWANCE

    @property
    def success_string(self) -> str:
        """The text to seek, or empty when the exit code decides alone."""
        return self.job_success_string if self.job_success_string.strip() else ""

    @classmethod
    def restore(cls, fields: Mapping[str, Any]) -> JobSpec:
        """The spec from fields that were checked when they were stored; nothing is checked again.

        A rejected message has no valid spec, so its record holds only a job id; what is missing is empty.
        """
        stage = fields.get("stage")
        known: dict[str, Any] = {
            "ssm_document": "",
            # Given here, because pydantic inspects and copies a field's default anew at each construction.
            **_PLAIN_DEFAULTS,
            "environment": {},
            "parameters": {},
            "tags": {},
            **{name: fields[name] for name in cls.model_fields if name in fields},
        }
        known |= {
            "commands": tuple(fields.get("commands", ())),
            "retry": int(fields.get("retry", 0)),
            "timeout_seconds": int(fields.get("timeout_seconds", limits.DEFAULT_JOB_TIMEOUT)),
            "stage": Stage.model_validate(stage) if stage else None,
        }
        return cls.model_construct(**known)

    def to_plain(self) -> dict[str, Any]:
        """The spec as JSON types; fields at their defaults are left out, the original five never are."""
        plain = self.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        plain.setdefault("job_success_string", self.job_success_string)
        return plain


_PLAIN_DEFAULTS = {
    name: info.default
    for name, info in JobSpec.model_fields.items()
    if not info.is_required() and info.default_factory is None
}


def parse_spec(fields: Mapping[str, Any]) -> JobSpec:
    """Check the fields of a job.

    Raises:
        InvalidJob: names every field that breaks the contract, its value and the rule.
    """
    try:
        spec = JobSpec.model_validate(dict(fields))
    except ValidationError as error:
        raise InvalidJob(_explain(error)) from None
    try:
        size = len(json.dumps(spec.to_plain(), ensure_ascii=False, allow_nan=False).encode())
    except UnicodeEncodeError:
        raise InvalidJob("the job contains text that is not valid Unicode (a lone surrogate)") from None
    except ValueError as error:
        raise InvalidJob(f"the job's parameters cannot be written as JSON: {error}") from None
    if size > limits.MAX_SPEC_BYTES:
        raise InvalidJob(
            f"the job is {size:,} bytes long; at most {limits.MAX_SPEC_BYTES:,} are allowed. "
            "Put long scripts and data in S3 and let a short command fetch them."
        )
    return spec


def _explain(error: ValidationError) -> str:
    parts = []
    for item in error.errors(include_url=False, include_context=False):
        where = ".".join(str(step) for step in item["loc"] if step != "schema_") or "job"
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "missing":
            message = "is missing"
        given = item.get("input")
        shown = f" (got {str(given)[:80]!r})" if isinstance(given, str | int | float | bool) else ""
        parts.append(f"{where}: {message}{shown if str(given)[:80] not in message else ''}")
    return names.clip("; ".join(parts), limits.MAX_REASON_BYTES)
