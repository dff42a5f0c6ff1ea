"""What a deployment tells its functions, and what a request may say."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sched_plugins.core import limits
from sched_plugins.core.environment import Environment
from sched_plugins.deploy import template as templates
from sched_plugins.errors import InvalidJob, InvalidSettings, NotPermitted
from sched_plugins.functions import settings
from sched_plugins.functions.request import submission

NAMED = {"ENVIRONMENT_NAME": "demo", "ENVIRONMENT_BUCKET": "demo-1-drop-job-files"}
SPEC: dict[str, Any] = {
    "job_id": "a",
    "retry": 1,
    "job_success_string": " ",
    "ssm_document": "AWS-RunShellScript",
    "commands": ["true"],
}
OWN = {"SCHED_NAME": "sched", "SCHED_QUEUE": "demo-job-queue", **NAMED}
WHOLE = {"SCHED_NAME": "sched"}


def template_variables() -> dict[str, str]:
    """The environment template's variables, its parameters at their defaults."""
    template = templates.load("environment")
    defaults = {parameter.name: parameter.default or "" for parameter in templates.parameters(template)}
    found = {}
    for name, value in template["Globals"]["Function"]["Environment"]["Variables"].items():
        parameter = value["Fn::Join"][1]["Ref"] if "Fn::Join" in value else value.get("Ref")
        found[name] = defaults.get(parameter, "")
    return found | NAMED


def test_the_templates_defaults_are_those_of_the_rules() -> None:
    assert settings.environment(template_variables()) == Environment("demo", "demo-1-drop-job-files")


def test_every_field_of_an_environment_can_be_set() -> None:
    variables = NAMED | {
        "TRIGGER_SUFFIX": "_sched/SUCCEEDED.json",
        "COMMAND_TYPE": "AWS-RunPowerShellScript",
        "RETRY": "0",
        "SUCCESS_STRING": "all 'good' \"here\"",
        "WORKING_DIRECTORY": "/data",
        "TIMEOUT_SECONDS": "60",
        "OUTPUT_BUCKETS": "one, two",
        "OUTPUT_PREFIX": "results/",
        "STAGE_NAME": "mesh",
        "STAGE_EXECUTABLE": "s3://b/run.sh",
        "STAGE_PARAMETERS": '{"n": 1}',
        "FAN_IN": "a,b",
    }
    assert set(variables) <= set(template_variables())
    assert settings.environment(variables) == Environment(
        "demo", "demo-1-drop-job-files", "_sched/SUCCEEDED.json", "AWS-RunPowerShellScript", 0,
        "all 'good' \"here\"", "/data", 60, ("one", "two"), "results/", "mesh", "s3://b/run.sh", {"n": 1}, ("a", "b"),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({}, "ENVIRONMENT_NAME"),
        (NAMED | {"RETRY": "three"}, "RETRY"),
        (NAMED | {"STAGE_PARAMETERS": "{"}, "STAGE_PARAMETERS"),
        (NAMED | {"STAGE_PARAMETERS": "[1]"}, "STAGE_PARAMETERS"),
    ],
)
def test_a_variable_that_cannot_be_read_is_named(variables: dict[str, str], named: str) -> None:
    with pytest.raises(InvalidSettings, match=named):
        settings.environment(variables)


def test_a_wait_is_never_longer_than_sqs_allows() -> None:
    assert settings.empty_queue_wait({}) == 5
    assert settings.empty_queue_wait({"EMPTY_QUEUE_WAIT_SECONDS": "60"}) == limits.MAX_SQS_WAIT
    assert settings.requeue_after({}) == limits.REQUEUE_AFTER


def test_a_plain_job_goes_to_the_schedulers_queue() -> None:
    asked = submission(SPEC | {"run_id": "r"}, WHOLE)
    assert (asked.queue, asked.run_id, asked.spec.job_id, asked.keep) == ("sched-job-queue", "r", "a", False)
    assert submission(SPEC | {"run_id": "r", "queue": "x-job-queue"}, WHOLE).queue == "x-job-queue"
    assert submission(SPEC | {"run_id": "r"}, OWN).queue == "demo-job-queue"


STAGE = {"executable": "/opt/run", "outputs": ["s3://demo-1-drop-job-files/out/"]}


@pytest.mark.parametrize(
    ("entry", "named"),
    [
        ("text", "a job is an object"),
        (SPEC, "run_id: is missing"),
        (SPEC | {"run_id": 7}, "run_id: is missing"),
        (SPEC | {"run_id": "x" * 129}, "at most 128 bytes"),
        (SPEC | {"run_id": "a\nb"}, "printable"),
        (SPEC | {"run_id": "upload-1"}, "uploads"),
        (SPEC | {"run_id": "r", "queue": 3}, "queue: 3"),
        (SPEC | {"run_id": "r", "colour": "red"}, "^colour:"),
        (SPEC | {"run_id": "r", "attempt": 1}, "^attempt:"),
        ({"run_id": "r", "job_id": "a", "stage_job": "x"}, "^stage_job"),
        ({"run_id": "r", "job_id": "a", "stage_job": {"executable": "x"}}, r"stage_job\.outputs"),
        ({"run_id": "r", "job_id": "a", "stage_job": STAGE | {"outputs": []}}, r"stage_job\.outputs"),
        ({"run_id": "r", "job_id": "a", "stage_job": STAGE | {"colour": 1}}, r"stage_job\.colour"),
        ({"run_id": "r", "job_id": "a", "retry": 1, "stage_job": STAGE}, "^retry:"),
        ({"run_id": "r", "job_id": "a", "stage_job": STAGE | {"settings": {"job_id": "b"}}}, r"settings\.job_id"),
        ({"run_id": "r", "stage_job": STAGE}, "job_id"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(entry: object, named: str) -> None:
    with pytest.raises(InvalidJob, match=named):
        submission(entry, OWN)


def test_an_unknown_field_of_a_stage_is_refused_too() -> None:
    with pytest.raises(InvalidJob, match=r"^stage\.colour:"):
        submission(SPEC | {"run_id": "r", "commands": [], "stage": {"output": "s3://b/x/", "colour": 1}}, WHOLE)


def test_only_an_environment_takes_stage_jobs() -> None:
    with pytest.raises(InvalidJob, match="only an environment"):
        submission({"run_id": "r", "job_id": "a", "stage_job": STAGE}, WHOLE)


def test_another_queue_than_the_environments_own_is_not_permitted() -> None:
    with pytest.raises(NotPermitted, match="other-job-queue"):
        submission(SPEC | {"run_id": "r", "queue": "other-job-queue"}, OWN)
    arn = "arn:aws:sqs:us-east-1:1:demo-job-queue"
    assert submission(SPEC | {"run_id": "r", "queue": arn}, OWN).queue == "demo-job-queue"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([*SPEC, "run_id", "queue", "stage", "stage_job"]), json_values))
def test_any_json_is_answered_and_never_breaks_the_batch(entry: dict[str, Any]) -> None:
    for variables in (OWN, WHOLE):
        for asked in (entry, {**SPEC, "run_id": "r", **entry}):
            try:
                submission(asked, variables)
            except (InvalidJob, NotPermitted):
                pass
