"""The job contract: what is accepted, what is refused, and what the refusal says."""

from __future__ import annotations

from typing import Any

import pytest
from rule_records import spec

from sched_plugins.core import limits
from sched_plugins.core.job import WINDOWS_DOCUMENT, JobSpec, parse_spec
from sched_plugins.errors import InvalidJob

ORIGINAL: dict[str, Any] = {
    "job_id": "jobId_0", "retry": "3", "job_success_string": " ", "ssm_document": "AWS-RunShellScript",
    "commands": ["cd /scratch", "./run.sh"],
}  # fmt: skip
STAGE: dict[str, Any] = {
    "executable": "s3://bucket/run.sh",
    "inputs": ["s3://bucket/case/"],
    "output": "s3://bucket/case/",
}


def test_the_original_five_fields_are_a_job() -> None:
    job = parse_spec(ORIGINAL)
    assert (job.retry, job.success_string, job.timeout_seconds) == (3, "", limits.DEFAULT_JOB_TIMEOUT)


@pytest.mark.parametrize("field", ["job_id", "retry", "ssm_document", "commands"])
def test_a_missing_field_is_named(field: str) -> None:
    with pytest.raises(InvalidJob, match=rf"{field}: is missing"):
        parse_spec({name: value for name, value in ORIGINAL.items() if name != field})


def test_a_missing_success_string_means_that_the_exit_code_decides() -> None:
    assert parse_spec({name: value for name, value in ORIGINAL.items() if "success" not in name}).success_string == ""


@pytest.mark.parametrize("text", ["", " ", "\t\n"])
def test_a_blank_success_string_means_that_the_exit_code_decides(text: str) -> None:
    assert spec(job_success_string=text).success_string == ""


def test_a_success_string_keeps_its_spaces() -> None:
    assert spec(job_success_string=" ok ").success_string == " ok "


@pytest.mark.parametrize(("given", "retry"), [(0, 0), ("3", 3), (" 3 ", 3), ("+3", 3), (1000, 1000)])
def test_retry_may_be_a_number_or_its_text(given: object, retry: int) -> None:
    assert spec(retry=given).retry == retry


@pytest.mark.parametrize("given", [-1, "-1", "three", "", "3.0", 3.0, True, None, 1001, "٣", [3]])
def test_any_other_retry_is_refused(given: object) -> None:
    with pytest.raises(InvalidJob, match="retry"):
        spec(retry=given)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("job_id", ""),
        ("job_id", "a\x00b"),
        ("job_id", "line\x1bfeed"),
        ("job_id", "é" * limits.MAX_JOB_ID_BYTES),
        ("commands", []),
        ("commands", ["  "]),
        ("commands", ["a\x00b"]),
        ("commands", "./run.sh"),
        ("ssm_document", "no"),
        ("ssm_document", "Run Shell"),
        ("timeout_seconds", 0),
        ("timeout_seconds", 3 * 86_400),
        ("timeout_seconds", 1.5),
        ("working_directory", "scratch"),
        ("environment", {"1A": "x"}),
        ("environment", {"A-B": "x"}),
        ("environment", {"A": "x\x00"}),
        ("environment", {f"A{number}": "" for number in range(limits.MAX_ENVIRONMENT_VARIABLES + 1)}),
        ("tags", {str(number): "" for number in range(limits.MAX_TAGS + 1)}),
        ("results_uri", "https://bucket/key"),
        ("results_uri", "s3://UPPER/key"),
        ("group_id", "g" * (limits.MAX_GROUP_ID_BYTES + 1)),
        ("schema", 2),
    ],
)  # fmt: skip
def test_a_value_that_breaks_the_contract_is_refused_by_field(field: str, value: object) -> None:
    with pytest.raises(InvalidJob, match=field):
        spec(**{field: value})


@pytest.mark.parametrize("path", ["/scratch/a b", "C:\\work", "D:/work"])
def test_an_absolute_directory_of_either_kind_is_accepted(path: str) -> None:
    assert spec(working_directory=path).working_directory == path


def test_a_refusal_is_short_whatever_was_sent() -> None:
    with pytest.raises(InvalidJob) as caught:
        spec(retry="x" * 100_000, timeout_seconds="y" * 100_000)
    assert len(str(caught.value).encode()) <= limits.MAX_REASON_BYTES


@pytest.mark.parametrize(("size", "fits"), [(limits.MAX_SPEC_BYTES - 1000, True), (limits.MAX_SPEC_BYTES, False)])
def test_a_spec_is_at_most_64_kib(size: int, fits: bool) -> None:
    if fits:
        spec(commands=["x" * size])
    else:
        with pytest.raises(InvalidJob, match="at most 65,536"):
            spec(commands=["x" * size])


def test_a_lone_surrogate_is_refused() -> None:
    with pytest.raises(InvalidJob, match="Unicode"):
        spec(commands=["\ud800"])


def test_a_number_that_json_lacks_is_refused() -> None:
    with pytest.raises(InvalidJob, match="JSON"):
        spec(commands=[], stage=STAGE | {"stage_parameters": {"x": float("nan")}})


@pytest.mark.parametrize(
    "changes",
    [
        {"executable": ""},
        {"inputs": ["s3://bucket/case"]},
        {"output": "s3://bucket/case"},
        {"output": "file:///case/"},
        {"inputs": ["s3://a-bucket/x/", "s3://b-bucket/y/"]},
        {"inputs": ["s3://a-bucket/x/", "s3://b-bucket/y/"], "input_names": ["a", "../b"]},
        {"outputs_too": ["s3://bucket/case"]},
    ],
)
def test_a_stage_that_breaks_the_contract_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidJob, match="stage"):
        spec(commands=[], stage=STAGE | changes)


def test_a_stage_and_commands_exclude_each_other() -> None:
    with pytest.raises(InvalidJob, match="leave commands empty"):
        spec(stage=STAGE)


def test_a_stage_needs_a_standard_document() -> None:
    with pytest.raises(InvalidJob, match="a stage needs"):
        spec(commands=[], stage=STAGE, ssm_document="My-Document")


@pytest.mark.parametrize(("document", "wrapped"), [(WINDOWS_DOCUMENT, True), ("My-Document", False)])
def test_only_the_standard_documents_are_wrapped(document: str, wrapped: bool) -> None:
    assert spec(ssm_document=document).is_wrapped is wrapped


def test_the_execution_timeout_leaves_time_for_the_files_and_stays_within_the_service() -> None:
    assert spec(timeout_seconds=60).execution_timeout == 60 + limits.STAGING_ALLOWANCE
    assert spec(timeout_seconds=limits.MAX_JOB_TIMEOUT).execution_timeout == limits.MAX_EXECUTION_TIMEOUT


def test_a_rejected_message_has_a_spec_of_its_id_alone() -> None:
    job = JobSpec.restore({"job_id": "rejected/1"})
    assert (job.job_id, job.commands, job.retry, job.environment) == ("rejected/1", (), 0, {})


def test_the_plain_form_has_the_original_fields_and_no_defaults() -> None:
    plain = parse_spec(ORIGINAL).to_plain()
    assert plain == ORIGINAL | {"retry": 3}
