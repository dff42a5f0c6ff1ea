"""Objects: on moto, with an object of several chunks, and on scripted replies where errors matter."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from typing import Any

import pytest
from aws_wire import SETTINGS, Reply, Wire, make_clients, reply
from botocore.exceptions import ReadTimeoutError
from botocore.response import StreamingBody
from botocore.stub import Stubber
from moto import mock_aws

from sched_plugins.aws import objects as module
from sched_plugins.aws.answers import AccessRefused
from sched_plugins.aws.clients import TRIES
from sched_plugins.aws.objects import S3Objects
from sched_plugins.core import limits
from sched_plugins.errors import InvalidInput, InvalidSettings, Refused, Unknown


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0)


@pytest.fixture
def objects() -> Iterator[S3Objects]:
    """On moto, with the output bucket."""
    with mock_aws():
        clients = make_clients()
        clients.s3.create_bucket(
            Bucket=SETTINGS.output_bucket, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"}
        )
        yield S3Objects(SETTINGS, clients)


URI = f"s3://{SETTINGS.output_bucket}/commands/ö 1/stdout"


@pytest.mark.parametrize("chunk", [1, 4, 5, 7, 20])
def test_a_text_is_found_wherever_it_lies(objects: S3Objects, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(module.limits, "OUTPUT_CHUNK", chunk)
    for before in range(chunk * 2 + 1):
        objects.put(URI, ("." * before + "Grüße" + "." * 3).encode(), {})
        assert objects.contains(URI, "Grüße") is True
        assert objects.contains(URI, "Grüsse") is False
        assert objects.contains(URI, "ße...") is True


def test_an_absent_object_is_neither_hit_nor_miss(objects: S3Objects) -> None:
    assert objects.contains(URI, "x") is None
    assert objects.tail(URI, 10) is None
    assert objects.metadata(URI) is None
    objects.put(URI, b"", {})
    assert objects.contains(URI, "x") is False
    assert objects.contains(URI, "") is True
    assert objects.tail(URI, 10) == ""


def test_the_end_of_an_object(objects: S3Objects) -> None:
    objects.put(URI, "one ü two".encode(), {})
    assert objects.tail(URI, 100) == "one ü two"
    assert objects.tail(URI, 3) == "two"
    assert objects.tail(URI, 5) == "\ufffd two"


def test_an_object_keeps_its_metadata(objects: S3Objects) -> None:
    objects.put(URI, b"body", {"sched-run-id": "run-1", "odd": "ü\n"})
    found = objects.metadata(URI)
    assert found == {"sched-run-id": "run-1", "odd": "%C3%BC%0A", "etag": "841a2d689ad86bd1611447453c22c6fc"}


def test_a_listing_is_of_the_folder_alone_and_bounded(objects: S3Objects) -> None:
    folder = f"s3://{SETTINGS.output_bucket}/out/"
    for key in ("out/", "out/a b", "out/ü/c+d", "out/z", "outer/no", "other"):
        objects.put(f"s3://{SETTINGS.output_bucket}/{key}", b"12", {})
    found = objects.listing(folder, 10)
    assert [one.key for one in found] == ["a b", "z", "ü/c+d"]
    assert {(one.size, one.etag) for one in found} == {(2, "c20ad4d76fe97759aa27a0c99bff6710")}
    assert objects.listing(folder.rstrip("/"), 10) == found
    assert [one.key for one in objects.listing(folder, 2)] == ["a b", "z"]
    assert len(objects.listing(f"s3://{SETTINGS.output_bucket}", 10)) == 6
    assert objects.listing(f"{folder}none/", 10) == []


def test_a_listing_reads_every_page(objects: S3Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PAGE", 2)
    for number in range(5):
        objects.put(f"s3://{SETTINGS.output_bucket}/out/{number}", b"", {})
    assert len(objects.listing(f"s3://{SETTINGS.output_bucket}/out/", 99)) == 5


def test_a_rejected_message_is_kept_whole(objects: S3Objects) -> None:
    body = json.dumps("ü" * 100_000, ensure_ascii=False)
    uri = objects.store_rejected("message-1", body)
    assert uri == f"s3://{SETTINGS.output_bucket}/rejected/message-1"
    assert objects.tail(uri, limits.MIB) == body


@pytest.mark.parametrize("uri", ["", "bucket/key", "https://bucket/key", "s3://", "s3:///key"])
def test_what_is_no_address_is_said_to_be_none(uri: str) -> None:
    with pytest.raises(InvalidInput, match="s3://bucket/key"):
        S3Objects(SETTINGS, make_clients()).metadata(uri)


def test_a_missing_bucket_is_not_an_absent_object(objects: S3Objects) -> None:
    with pytest.raises(Refused, match="NoSuchBucket"):
        objects.contains("s3://no-such-bucket-here/key", "x")


def test_no_output_bucket_is_named() -> None:
    objects = S3Objects(replace(SETTINGS, output_bucket=""), make_clients())
    with pytest.raises(InvalidSettings, match="SCHED_OUTPUT_BUCKET"):
        objects.store_rejected("message-1", "body")


def streamed(body: Any, length: int) -> S3Objects:
    """Objects of which one is answered with this body, said to be so long."""
    clients = make_clients()
    stubber = Stubber(clients.s3)
    stubber.add_response("get_object", {"Body": StreamingBody(body, length), "ContentLength": length})
    stubber.activate()
    return S3Objects(SETTINGS, clients)


def test_a_huge_object_is_refused_unread() -> None:
    body = BytesIO()
    with pytest.raises(Refused, match="5 GiB"):
        streamed(body, limits.MAX_SCANNED_OUTPUT + 1).contains(URI, "x")
    assert body.closed


def test_an_object_cut_short_is_no_miss() -> None:
    with pytest.raises(Unknown):
        streamed(BytesIO(b"half"), 8).contains(URI, "x")


def test_reading_ends_at_the_first_place_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.limits, "OUTPUT_CHUNK", 10)
    body = BytesIO(b"0123456789" * 1000)
    places: list[int] = []
    monkeypatch.setattr(StreamingBody, "close", lambda _: places.append(body.tell()))
    assert streamed(body, 10_000).contains(URI, "901") is True
    assert places == [20]


class Endless:
    """A body that is never held whole: so many bytes, made as they are read."""

    def __init__(self, size: int) -> None:
        self._left = size

    def read(self, size: int) -> bytes:
        given = min(size, self._left)
        self._left -= given
        return b"." * given

    def close(self) -> None:
        """Nothing to close."""


def test_a_large_object_is_never_held_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.limits, "OUTPUT_CHUNK", 64 * limits.KIB)
    objects = streamed(Endless(16 * limits.MIB), 16 * limits.MIB)
    tracemalloc.start()
    assert objects.contains(URI, "needle" * 100) is False
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 * limits.MIB


def scripted(*replies: Reply | Exception) -> tuple[S3Objects, Wire]:
    """Objects whose requests meet these replies."""
    clients = make_clients()
    return S3Objects(SETTINGS, clients), Wire(clients.s3, *replies)


def test_a_refusal_is_not_absence() -> None:
    objects, _ = scripted(*[reply("", 403)] * 2)
    with pytest.raises(AccessRefused):
        objects.metadata(URI)
    with pytest.raises(AccessRefused):
        objects.tail(URI, 10)


def test_an_empty_object_has_no_range_and_an_empty_end() -> None:
    objects, wire = scripted(reply("<Error><Code>InvalidRange</Code><Message>no</Message></Error>", 416))
    assert objects.tail(URI, 10) == ""
    assert wire.requests[0].headers["Range"] in ("bytes=-10", b"bytes=-10")


def test_an_answer_that_never_came_is_not_absence() -> None:
    objects, _ = scripted(*[ReadTimeoutError(endpoint_url="https://aws")] * TRIES)
    with pytest.raises(Unknown):
        objects.contains(URI, "x")
