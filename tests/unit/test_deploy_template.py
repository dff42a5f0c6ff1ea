"""Templates: read as CloudFormation reads them, described as options, checked, and freed of local paths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from sched_plugins.deploy import template as templates
from sched_plugins.deploy.template import Kind, Parameter, checked, located, option, parameters, read, to_yaml
from sched_plugins.errors import DeployError, InvalidSettings

CODE = {"Bucket": "artifacts", "Key": "functions.zip"}
TEXT = """
AWSTemplateFormatVersion: 2010-09-09
Transform: AWS::Serverless-2016-10-31
Parameters:
  MaxWorkers: {Type: Number, Default: 8, MinValue: 1, MaxValue: 500, Description: "Most\\n  workers."}
  CommandType: {Type: String, Default: shell, AllowedValues: [shell, power-shell]}
  Versioned: {Type: String, Default: true, AllowedValues: [true, false]}
  InstanceTypes: {Type: CommaDelimitedList, Default: "c7i.large,c7a.large", AllowedPattern: "[a-z0-9-]+\\\\.[a-z0-9]+"}
  TriggerSuffix: {Type: String, AllowedPattern: "[!-~]*", MaxLength: 9, ConstraintDescription: is not a suffix}
  Token: {Type: String, NoEcho: true, Default: "", MaxLength: 3}
  PythonRuntime: {Type: String, Default: python3.13}
Globals:
  Function: {CodeUri: ../src/}
Conditions:
  Many: !Not [!Equals [!Ref MaxWorkers, 1]]
Resources:
  Plain:
    Type: AWS::Serverless::Function
    Metadata: {BuildMethod: makefile, Note: kept}
    Properties: {Handler: a.b}
  Own:
    Type: AWS::Serverless::Function
    Properties: {CodeUri: ./here, Architectures: [arm64]}
  Inline:
    Type: AWS::Serverless::Function
    Properties: {InlineCode: "pass", CodeUri: "s3://elsewhere/a.zip"}
  Raw:
    Type: AWS::Lambda::Function
    Properties: {Code: ../src, Role: !GetAtt Role.Arn}
  Machine:
    Type: AWS::Serverless::StateMachine
    Properties:
      DefinitionUri: statemachine/worker.asl.yaml
      DefinitionSubstitutions: {Arn: !GetAtt Plain.Arn}
  Role:
    Type: AWS::IAM::Role
    Condition: Many
    Properties:
      AssumeRolePolicyDocument: {Version: 2012-10-17}
      Description: !Sub
        - ${A} of ${AWS::StackName}
        - A: !Join ["-", [a, !Select [0, !Split [",", "x,y"]]]]
      Path: !If [Many, /many/, !Ref AWS::NoValue]
      Text: |
        two
        lines
"""
MACHINE = 'QueryLanguage: JSONata\nStartAt: A\nStates: {A: {Type: Pass, Output: "{% $a %} ${Arn}", End: true}}\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "t.yaml").write_text(TEXT)
    (tmp_path / "statemachine").mkdir()
    (tmp_path / "statemachine/worker.asl.yaml").write_text(MACHINE)
    return tmp_path


@pytest.fixture
def template(folder: Path) -> dict[str, Any]:
    return read(folder / "t.yaml")


def test_short_tags_are_written_out_and_dates_stay_text(template: dict[str, Any]) -> None:
    assert template["AWSTemplateFormatVersion"] == "2010-09-09"
    role = template["Resources"]["Role"]["Properties"]
    assert role["AssumeRolePolicyDocument"] == {"Version": "2012-10-17"}
    assert template["Conditions"]["Many"] == {"Fn::Not": [{"Fn::Equals": [{"Ref": "MaxWorkers"}, 1]}]}
    assert template["Resources"]["Raw"]["Properties"]["Role"] == {"Fn::GetAtt": ["Role", "Arn"]}
    join = {"Fn::Join": ["-", ["a", {"Fn::Select": [0, {"Fn::Split": [",", "x,y"]}]}]]}
    assert role["Description"] == {"Fn::Sub": ["${A} of ${AWS::StackName}", {"A": join}]}
    assert role["Path"] == {"Fn::If": ["Many", "/many/", {"Ref": "AWS::NoValue"}]}


def test_reads_the_same_from_its_own_yaml(template: dict[str, Any], tmp_path: Path) -> None:
    again = tmp_path / "again.yaml"
    again.write_text(to_yaml(template))
    assert read(again) == template
    assert "&id" not in again.read_text()


@pytest.mark.parametrize("text", ["- a list", "Resources: [", "Parameters: {}"])
def test_refuses_a_file_that_is_no_template(text: str, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(DeployError, match=r"bad\.yaml"):
        read(tmp_path / "bad.yaml")


def test_local_code_becomes_an_address_and_the_rest_stays(template: dict[str, Any], folder: Path) -> None:
    before = to_yaml(template)
    result = located(template, CODE, folder, "x86_64")
    assert to_yaml(template) == before
    properties = {name: resource["Properties"] for name, resource in result["Resources"].items()}
    assert result["Globals"]["Function"]["CodeUri"] == CODE
    assert properties["Plain"] == {"Handler": "a.b", "Architectures": ["x86_64"]}
    assert properties["Own"] == {"CodeUri": CODE, "Architectures": ["arm64"]}
    assert properties["Inline"]["CodeUri"] == "s3://elsewhere/a.zip"
    assert properties["Raw"]["Code"] == {"S3Bucket": "artifacts", "S3Key": "functions.zip"}
    assert result["Resources"]["Plain"]["Metadata"] == {"Note": "kept"}
    assert properties["Machine"] == {
        "DefinitionSubstitutions": {"Arn": {"Fn::GetAtt": ["Plain", "Arn"]}},
        "Definition": yaml.safe_load(MACHINE),
    }
    assert properties["Role"] == template["Resources"]["Role"]["Properties"]


def test_architecture_that_all_functions_share_stays(template: dict[str, Any], folder: Path) -> None:
    template["Globals"]["Function"]["Architectures"] = [{"Ref": "Architecture"}]
    result = located(template, CODE, folder, "x86_64")
    assert "Architectures" not in result["Resources"]["Plain"]["Properties"]


def test_missing_state_machine_is_named(template: dict[str, Any], folder: Path) -> None:
    (folder / "statemachine/worker.asl.yaml").unlink()
    with pytest.raises(DeployError, match=r"state machine .*worker\.asl\.yaml"):
        located(template, CODE, folder)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("MaxWorkers", "--max-workers"),
        ("AmiId", "--ami-id"),
        ("AMIId", "--ami-id"),
        ("JobSuccessString", "--job-success-string"),
        ("ExternalQueueArns", "--external-queue-arns"),
        ("OutputS3Prefix", "--output-s3-prefix"),
        ("VPC", "--vpc"),
    ],
)
def test_option_of_a_parameter(name: str, expected: str) -> None:
    assert option(name) == expected


def test_parameters_are_described_in_order(template: dict[str, Any]) -> None:
    found = {parameter.name: parameter for parameter in parameters(template)}
    assert list(found) == list(template["Parameters"])
    assert found["MaxWorkers"] == Parameter(
        "MaxWorkers", "--max-workers", "Most workers.", "8", type="Number", minimum=1, maximum=500
    )
    assert found["Versioned"].default == "true"
    assert found["Versioned"].allowed == ("true", "false")
    assert found["InstanceTypes"].is_list
    assert found["TriggerSuffix"].default is None
    assert found["Token"].secret


@pytest.mark.parametrize("kind", ["scheduler", "environment"])
def test_what_follows_from_the_deployment_is_no_option(
    kind: Kind, template: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(templates, "load", lambda _: template)
    assert [p.name for p in templates.template_parameters(kind)] == list(template["Parameters"])[:-1]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"MaxWorkers": 8}, {"MaxWorkers": "8"}),
        ({"max-workers": "500"}, {"MaxWorkers": "500"}),
        ({"max_workers": 1}, {"MaxWorkers": "1"}),
        ({"--max-workers": None}, {}),
        ({"Versioned": True}, {"Versioned": "true"}),
        ({"InstanceTypes": ["c7i.large", "m7i.xlarge"]}, {"InstanceTypes": "c7i.large,m7i.xlarge"}),
        (
            {"TriggerSuffix": ".sh", "CommandType": "power-shell"},
            {"TriggerSuffix": ".sh", "CommandType": "power-shell"},
        ),
    ],
)
def test_values_as_cloudformation_takes_them(
    values: dict[str, Any], expected: dict[str, str], template: dict[str, Any]
) -> None:
    assert checked(template, values) == expected


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"MaxWorker": 8}, r"'MaxWorker' is not a parameter of this template\. Did you mean MaxWorkers"),
        ({"trigger-sufix": 8}, "Did you mean trigger-suffix"),
        ({"zzz": 8}, "There are CommandType, InstanceTypes, MaxWorkers, "),
        ({"MaxWorkers": 0}, "--max-workers: '0' is less than 1"),
        ({"MaxWorkers": 501}, "'501' is more than 500"),
        ({"MaxWorkers": "many"}, "'many' is not a number"),
        ({"CommandType": "bash"}, "'bash' is not allowed; choose one of shell, power-shell"),
        ({"InstanceTypes": ["c7i.large", "; rm"]}, r"'c7i\.large,; rm' does not match"),
        ({"TriggerSuffix": "a b"}, "--trigger-suffix: 'a b' is not a suffix"),
        ({"TriggerSuffix": ".sh\n"}, "is not a suffix"),
        ({"Token": "geheim"}, "--token: the value is longer than 3 characters"),
    ],
)
def test_refuses_values_before_anything_is_called(
    values: dict[str, Any], message: str, template: dict[str, Any]
) -> None:
    with pytest.raises(InvalidSettings, match=message):
        checked(template, values)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("StageParameters", "{bad", "--stage-parameters: '{bad' must be a JSON object"),
        ("StageParameters", "{bad}", "--stage-parameters: '{bad}' is not JSON"),
        ("StageParameters", "[1]", "must be a JSON object"),
        ("InstanceTypes", "banana", "--instance-types: 'banana' must be instance types such as c7i.large"),
        ("InstanceTypes", ["c7i.large", "C5.large"], "must be instance types"),
        ("SubnetIds", "nope", "--subnet-ids: 'nope' must be ids of subnets"),
        ("SecurityGroupIds", "sg-1,subnet-1", "must be ids of security groups"),
    ],
)
def test_a_value_that_would_fail_later_is_refused_by_its_shape(name: str, value: Any, said: str) -> None:
    with pytest.raises(InvalidSettings) as refused:
        checked(templates.load("environment"), {name: value})
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("StageParameters", '{"a": {"b": [1]}}'),
        ("StageParameters", ' {\n"a": "}"\n}\n'),
        ("InstanceTypes", "c7i.large,c5*,m5a.*,*.xlarge,u-6tb1.metal,r*,mac2-m2.metal,p4d.24xlarge"),
        ("SubnetIds", "subnet-0a1b,subnet-2"),
        ("SubnetIds", ""),
        ("SecurityGroupIds", ["sg-0a1b"]),
        ("SecurityGroupIds", ""),
    ],
)
def test_a_value_of_the_right_shape_is_taken(name: str, value: Any) -> None:
    assert checked(templates.load("environment"), {name: value})[name] or value == ""
