"""The bucket of deployment artifacts: one an account and region, made when first needed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

from sched_plugins.deploy.account import Account, translated
from sched_plugins.errors import NotPermitted

_PREFIX = "sched"


def bucket_name(account: Account) -> str:
    """The artifact bucket's name."""
    return f"sched-artifacts-{account.number}-{account.region}"


class Artifacts:
    """Objects under the hash of their contents; what is there already is not sent again."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self.bucket = bucket_name(account)

    def put(self, key: str, body: Callable[[], bytes]) -> str:
        """Store ``body()`` under ``key`` unless it is there; returns the full key.

        ``body`` is called only when the object must be sent, since making it may take a second.

        Raises:
            NotPermitted: the bucket is another account's, or AWS refuses the caller.
        """
        from botocore.exceptions import ClientError

        key = f"{_PREFIX}/{key}"
        s3 = self._account.client("s3")
        owned = {"Bucket": self.bucket, "ExpectedBucketOwner": self._account.number}
        with translated(f"storing s3://{self.bucket}/{key}"):
            try:
                s3.head_object(**owned, Key=key)
                return key
            except ClientError as error:
                # Without permission to list, S3 says 403 for a missing object too: try to write it.
                if error.response["ResponseMetadata"]["HTTPStatusCode"] not in (403, 404):
                    raise
            self._ensure()
            s3.put_object(**owned, Key=key, Body=body())
        return key

    def put_text(self, name: str, suffix: str, text: str) -> str:
        """Store a text under its hash; returns the key."""
        body = text.encode()
        return self.put(f"{name}-{hashlib.sha256(body).hexdigest()}.{suffix}", lambda: body)

    def url(self, key: str) -> str:
        """The address of an object as CloudFormation takes it: path style, on AWS and on a laptop."""
        return f"{self._account.client('s3').meta.endpoint_url.rstrip('/')}/{self.bucket}/{key}"

    def _ensure(self) -> None:
        """Make the bucket if it is missing: private, encrypted, TLS only."""
        from botocore.exceptions import ClientError

        s3 = self._account.client("s3")
        owned = {"Bucket": self.bucket, "ExpectedBucketOwner": self._account.number}
        try:
            s3.head_bucket(**owned)
            return
        except ClientError as error:
            status = error.response["ResponseMetadata"]["HTTPStatusCode"]
            if status == 403:
                raise NotPermitted(
                    f"the bucket {self.bucket} belongs to another account, or you may not use it. "
                    "Ask for access to it in this account."
                ) from error
            if status != 404:
                raise
        place = {}
        if self._account.region != "us-east-1":
            place = {"CreateBucketConfiguration": {"LocationConstraint": self._account.region}}
        try:
            s3.create_bucket(Bucket=self.bucket, **place)
        except ClientError as error:
            if error.response["Error"]["Code"] != "BucketAlreadyOwnedByYou":
                raise
        s3.put_public_access_block(
            **owned,
            PublicAccessBlockConfiguration={
                "BlockPublicAcls": True,
                "IgnorePublicAcls": True,
                "BlockPublicPolicy": True,
                "RestrictPublicBuckets": True,
            },
        )
        encryption = {"Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}]}
        s3.put_bucket_encryption(**owned, ServerSideEncryptionConfiguration=encryption)
        s3.put_bucket_policy(**owned, Policy=json.dumps(self._tls_only()))

    def _tls_only(self) -> dict[str, Any]:
        arn = f"arn:{self._account.partition}:s3:::{self.bucket}"
        return {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Sid": "TlsOnly",
                    "Effect": "Deny",
                    "Principal": "*",
                    "Action": "s3:*",
                    "Resource": [arn, f"{arn}/*"],
                    "Condition": {"Bool": {"aws:SecureTransport": "false"}},
                }
            ],
        }
