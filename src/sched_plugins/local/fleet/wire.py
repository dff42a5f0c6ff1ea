"""The wire: AWS requests as plain values, and plain values as AWS replies.

Two protocols: the query protocol with XML replies (EC2, Auto Scaling) and JSON 1.1 (Systems Manager).
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl
from xml.sax.saxutils import escape

EC2_NAMESPACE = "http://ec2.amazonaws.com/doc/2016-11-15/"
AUTO_SCALING_NAMESPACE = "http://autoscaling.amazonaws.com/doc/2011-01-01/"


@dataclass(frozen=True)
class Call:
    """One request: the service's short name, the action and its parameters as nested dicts and lists."""

    service: str
    action: str
    params: dict[str, Any]
    account: str
    region: str


@dataclass(frozen=True)
class Reply:
    """One HTTP reply."""

    status: int
    content_type: str
    body: bytes


class AwsError(Exception):
    """An error as AWS names it, so that a client raises what it would raise against AWS."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status


def parse_query(text: str) -> dict[str, Any]:
    """Parameters of the query protocol as nested values.

    ``Filter.1.Value.2=x`` and ``Names.member.1=x`` become lists; everything else stays text.
    """
    root: dict[str, Any] = {}
    for name, value in parse_qsl(text, keep_blank_values=True):
        node = root
        *parents, last = [part for part in name.split(".") if part != "member"]
        for part in parents:
            child = node.get(part)
            if not isinstance(child, dict):
                child = node[part] = {}
            node = child
        node[last] = value
    return {name: _listed(value) for name, value in root.items()}


def _listed(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if value and all(key.isdigit() for key in value):
        return [_listed(value[key]) for key in sorted(value, key=int)]
    return {key: _listed(item) for key, item in value.items()}


def listed(params: Mapping[str, Any], name: str) -> list[Any]:
    """Parameter ``name`` as a list; an absent one is empty."""
    value = params.get(name)
    return value if isinstance(value, list) else []


def flag(params: Mapping[str, Any], name: str) -> bool:
    """Parameter ``name`` as a boolean; an absent one is false."""
    return str(params.get(name, "")).lower() == "true"


def number(params: Mapping[str, Any], name: str, default: int | None = None) -> int:
    """Parameter ``name`` as an integer; raises ``ValidationError`` when it is missing or no integer."""
    value = params.get(name, default)
    try:
        return int(value)
    except (TypeError, ValueError):
        raise AwsError("ValidationError", f"{name} must be an integer, and is {value!r}") from None


def tag_list(params: Mapping[str, Any], name: str) -> dict[str, str]:
    """Tags given as ``[{"Key": …, "Value": …}]`` under ``name``."""
    return {str(tag["Key"]): str(tag.get("Value", "")) for tag in listed(params, name) if tag.get("Key")}


def to_xml(value: Any, item: str = "item") -> str:
    """Nested dicts and lists as XML: keys are element names, list members are ``item`` elements.

    None leaves an element out; a boolean becomes ``true`` or ``false``.
    """
    if isinstance(value, dict):
        return "".join(f"<{key}>{to_xml(child, item)}</{key}>" for key, child in value.items() if child is not None)
    if isinstance(value, list):
        return "".join(f"<{item}>{to_xml(child, item)}</{item}>" for child in value)
    if isinstance(value, bool):
        return "true" if value else "false"
    return escape(str(value))


def success(call: Call, result: dict[str, Any]) -> Reply:
    """``result`` as the service's success reply."""
    request_id = str(uuid.uuid4())
    if call.service == "ssm":
        return _json(200, result)
    if call.service == "ec2":
        text = (
            f'<{call.action}Response xmlns="{EC2_NAMESPACE}"><requestId>{request_id}</requestId>'
            f"{to_xml(result)}</{call.action}Response>"
        )
    else:
        text = (
            f'<{call.action}Response xmlns="{AUTO_SCALING_NAMESPACE}">'
            f"<{call.action}Result>{to_xml(result, 'member')}</{call.action}Result>"
            f"<ResponseMetadata><RequestId>{request_id}</RequestId></ResponseMetadata></{call.action}Response>"
        )
    return _xml(200, text)


def failure(service: str, error: AwsError) -> Reply:
    """``error`` as the service's error reply."""
    request_id = str(uuid.uuid4())
    if service == "ssm":
        return _json(error.status, {"__type": error.code, "message": error.message})
    shown = to_xml({"Code": error.code, "Message": error.message})
    if service == "ec2":
        text = f"<Response><Errors><Error>{shown}</Error></Errors><RequestID>{request_id}</RequestID></Response>"
    else:
        kind = "Sender" if error.status < 500 else "Receiver"
        text = (
            f'<ErrorResponse xmlns="{AUTO_SCALING_NAMESPACE}"><Error><Type>{kind}</Type>{shown}</Error>'
            f"<RequestId>{request_id}</RequestId></ErrorResponse>"
        )
    return _xml(error.status, text)


def _json(status: int, value: dict[str, Any]) -> Reply:
    return Reply(status, "application/x-amz-json-1.1", json.dumps(value).encode())


def _xml(status: int, text: str) -> Reply:
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n{text}'.encode()
    return Reply(status, "text/xml;charset=UTF-8", body)
