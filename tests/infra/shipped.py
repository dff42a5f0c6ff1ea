"""The shipped templates as the tests read them: short tags written out, as after packaging."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from sched_plugins.deploy import template as templates
from sched_plugins.deploy.template import Kind

INFRA = Path(__file__).resolve().parents[2] / "infra"
KINDS: tuple[Kind, ...] = ("scheduler", "environment")
MACHINE = INFRA / "statemachine" / "worker.asl.yaml"


@cache
def template(kind: Kind) -> dict[str, Any]:
    """A template as it is in the repository."""
    return templates.load(kind)


def packaged(kind: Kind) -> dict[str, Any]:
    """A template as it is deployed: with the state machine's definition in it."""
    return templates.located(template(kind), {"Bucket": "code-bucket", "Key": "code.zip"}, INFRA)


@cache
def machine() -> dict[str, Any]:
    """The worker state machine."""
    loaded: dict[str, Any] = yaml.safe_load(MACHINE.read_text())
    return loaded


def of_type(kind: Kind, type_: str) -> dict[str, dict[str, Any]]:
    """Properties of a template's resources of one type, by logical name."""
    found = template(kind)["Resources"].items()
    return {name: one.get("Properties", {}) for name, one in found if one["Type"] == type_}


@dataclass(frozen=True)
class Statement:
    """One statement of a policy, and where it is."""

    where: str
    effect: str
    actions: tuple[str, ...]
    resources: tuple[Any, ...]
    condition: Any
    principal: Any


def statements(kind: Kind) -> Iterator[Statement]:
    """Every statement of every policy of a template, trust and resource policies included."""
    for name, resource in template(kind)["Resources"].items():
        properties = resource.get("Properties", {})
        documents = [properties[key] for key in ("PolicyDocument", "AssumeRolePolicyDocument") if key in properties]
        documents += [policy["PolicyDocument"] for policy in properties.get("Policies", [])]
        for document in documents:
            # A document is text where a key depends on the stack's name.
            plain = json.loads(document["Fn::Sub"]) if "Fn::Sub" in document else document
            for each in plain["Statement"]:
                one = each["Fn::If"][1] if "Fn::If" in each else each
                yield Statement(
                    f"{name}.{one.get('Sid', '')}",
                    one["Effect"],
                    _several(one["Action"]),
                    _several(one.get("Resource", [])),
                    one.get("Condition"),
                    one.get("Principal"),
                )


def _several(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, list) else (value,)
