"""A job in a submit request, checked strictly: what is not understood is refused, not ignored.

Either a job spec with ``run_id`` and perhaps ``queue``, or, to an environment's function, ``{"job_id", "run_id",
"stage_job": {"executable", "inputs", "input_names", "outputs", "overrides", "parameters", "settings"}}``, which gets
the environment's settings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sched_plugins.core import limits, names
from sched_plugins.core.environment import Environment, stage_spec
from sched_plugins.core.job import JobSpec, Stage, parse_spec
from sched_plugins.core.submission import UPLOAD_RUN, Submission
from sched_plugins.errors import InvalidJob, NotPermitted
from sched_plugins.functions import settings

_SPEC: Final = frozenset(info.alias or name for name, info in JobSpec.model_fields.items())
_STAGE: Final = frozenset(Stage.model_fields)
# What a stage's job has from its stage, not from a setting.
_NO_SETTING: Final = frozenset({"job_id", "commands", "stage", "tags", "results_uri"})


class _StageJob(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    executable: str
    outputs: list[str] = Field(min_length=1)
    inputs: list[str] = []
    input_names: list[str] = []
    overrides: dict[str, dict[str, Any]] = {}
    parameters: dict[str, Any] = {}
    tags: dict[str, str] = {}
    settings: dict[str, Any] = {}


def submission(entry: object, variables: Mapping[str, str]) -> Submission:
    """The submission that a job of a request asks for.

    Raises:
        InvalidJob: it breaks the contract; the message names the field.
        NotPermitted: it names a queue that this function does not serve.
    """
    if not isinstance(entry, Mapping):
        raise InvalidJob(f"a job is an object with the fields of a job spec and run_id, not {type(entry).__name__}")
    fields = dict(entry)
    run_id = _run_id(fields.pop("run_id", None))
    queue = _queue(fields.pop("queue", None), variables)
    if "stage_job" not in fields:
        _refuse_unknown(fields, _SPEC, "")
        if isinstance(fields.get("stage"), Mapping):
            _refuse_unknown(fields["stage"], _STAGE, "stage.")
        if settings.own_queue(variables) and fields.get("stage"):
            raise NotPermitted("stage: an environment's submit function takes stage_job, and sets the stage itself")
        return Submission(parse_spec(fields), run_id, queue)
    if not settings.own_queue(variables):
        raise InvalidJob("stage_job: only an environment's submit function takes it; name the environment")
    _refuse_unknown(fields, frozenset({"job_id", "stage_job"}), "")
    return Submission(_stage(fields, variables), run_id, queue)


def _stage(fields: Mapping[str, Any], variables: Mapping[str, str]) -> JobSpec:
    try:
        asked = _StageJob.model_validate(fields["stage_job"])
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(step) for step in ("stage_job", *first["loc"]))
        raise InvalidJob(f"{where}: {first['msg']}") from None
    _refuse_unknown(asked.settings, _SPEC - _NO_SETTING, "stage_job.settings.")
    here = settings.environment(variables)
    spec = stage_spec(
        here,
        job_id=fields.get("job_id", ""),
        executable=asked.executable,
        inputs=asked.inputs,
        input_names=asked.input_names,
        outputs=asked.outputs,
        overrides=asked.overrides,
        parameters=asked.parameters,
        tags=asked.tags,
        settings=asked.settings,
    )
    _check_outputs(here, asked.outputs)
    return spec


def _check_outputs(here: Environment, outputs: Sequence[str]) -> None:
    """A manifest starts the stage whose bucket it is written to, so results go to the environment's own buckets."""
    allowed = (here.bucket, *here.output_buckets)
    for uri in outputs:
        if uri.removeprefix("s3://").partition("/")[0] not in allowed:
            raise NotPermitted(
                f"stage_job.outputs: environment {here.name!r} may not write to {uri[:200]!r}; "
                f"its buckets are {', '.join(allowed)}"
            )


def _run_id(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise InvalidJob("run_id: is missing; give each submission a text of its own, and repeat it when you repeat it")
    if len(value.encode(errors="replace")) > limits.MAX_RUN_ID_BYTES or not value.isprintable():
        raise InvalidJob(f"run_id: {value[:80]!r} is not printable text of at most {limits.MAX_RUN_ID_BYTES} bytes")
    if value.startswith(UPLOAD_RUN):
        raise InvalidJob(f"run_id: {value[:80]!r} begins with {UPLOAD_RUN!r}, as those of uploads do; choose another")
    return value


def _queue(value: object, variables: Mapping[str, str]) -> str:
    if value is not None and not isinstance(value, str):
        raise InvalidJob(f"queue: {value!r} is not the name of a queue")
    own = settings.own_queue(variables)
    if own and value and names.queue_name(value) != own:
        raise NotPermitted(
            f"queue: this function submits to {own!r} alone, not to {value!r}; name the scheduler instead"
        )
    return own or value or names.job_queue(variables.get("SCHED_NAME", ""))


def _refuse_unknown(fields: Mapping[str, Any], known: frozenset[str], where: str) -> None:
    for name in fields:
        if name not in known:
            raise InvalidJob(f"{where}{name}: is not a field of a job; there are {', '.join(sorted(known))}")
