"""Service limits and the scheduler's own bounds, each with its source.

Sizes are in bytes and times in seconds unless the name says otherwise. "AWS" names the
service's quota page or API reference; "own" marks a bound this project chose, and why.
"""

from __future__ import annotations

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB

# Job contract (own): small enough that a record with its history stays under DynamoDB's item
# limit and a wrapped command under Systems Manager's document limit.
MAX_SPEC_BYTES: Final = 64 * KIB
MAX_JOB_ID_BYTES: Final = 1200  # own: s3:// + bucket (63) + key (1,024), under DynamoDB's 2,048-byte key
MAX_RUN_ID_BYTES: Final = 128  # own: an SQS message id is 36, a digest 64
MAX_RETRY: Final = 1000  # own
MAX_GROUP_ID_BYTES: Final = 256  # own
MAX_TAGS: Final = 50  # own, as EC2
MAX_ENVIRONMENT_VARIABLES: Final = 200  # own

# AWS Systems Manager, AWS-RunShellScript document: executionTimeout is at most 172,800 s (48 h).
MAX_EXECUTION_TIMEOUT: Final = 172_800
# own: the time left for copying files in and out after the job's own timeout.
STAGING_ALLOWANCE: Final = 3_600
MAX_JOB_TIMEOUT: Final = MAX_EXECUTION_TIMEOUT - STAGING_ALLOWANCE
DEFAULT_JOB_TIMEOUT: Final = MAX_JOB_TIMEOUT
# AWS Systems Manager, SendCommand: TimeoutSeconds (delivery) is at least 30.
DELIVERY_TIMEOUT: Final = 60
MAX_COMMENT_CHARACTERS: Final = 100  # AWS, SendCommand
# AWS, GetCommandInvocation: StandardOutputContent and StandardErrorContent are cut here.
API_STDOUT_CHARACTERS: Final = 24_000
API_STDERR_CHARACTERS: Final = 8_000
# AWS document names: [a-zA-Z0-9_\-.:/]{3,128}; an ARN of a shared document may be longer.
MAX_DOCUMENT_NAME: Final = 256
LEASE_MARGIN: Final = 300  # own: after delivery + execution, nothing can still be running
DELIVERY_MARGIN: Final = 60  # own: how long after the delivery timeout an unseen command is awaited
OUTPUT_ABSENT_PATIENCE: Final = 600  # own: how long an S3 object of stdout may be missing
MAX_SCANNED_OUTPUT: Final = 5 * GIB  # own: the largest stdout searched for a success string
OUTPUT_CHUNK: Final = 8 * MIB  # own: one ranged read while searching

# AWS SQS: a message is at most 1 MiB; ten entries a batch; attributes count towards the size.
MAX_MESSAGE_BYTES: Final = MIB
SQS_BATCH: Final = 10
MAX_FINISHED_MESSAGE_BYTES: Final = 200 * KIB  # own contract
MAX_SQS_WAIT: Final = 20  # AWS, ReceiveMessage long poll
MAX_VISIBILITY: Final = 43_200  # AWS SQS: 12 h in all
# AWS EventBridge, PutEvents: 10 entries and 256 KiB a request (1 MiB since 2026 in some regions).
EVENTS_BATCH: Final = 10
MAX_EVENT_BYTES: Final = 256 * KIB

# AWS DynamoDB, "Quotas": an item is at most 400 KB, which is 409,600 bytes, names of attributes included; 100 actions
# a transaction, 100 keys a BatchGetItem.
MAX_ITEM_BYTES: Final = 400 * KIB
DYNAMODB_BATCH_GET: Final = 100

# Record history (own)
MAX_OUTPUT_TAIL: Final = 4 * KIB
MAX_REASON_BYTES: Final = 1_000
MAX_METRICS_BYTES: Final = 4 * KIB
KEPT_ATTEMPTS: Final = 50
KEPT_RUN_IDS: Final = 20
REJECTED_BODY_BYTES: Final = 64 * KIB
REJECTED_HEAD_BYTES: Final = 4 * KIB
INDEX_SHARDS: Final = 4  # own: 4 × 1,000 writes a second a partition (AWS DynamoDB)

# AWS Step Functions, Standard: 25,000 events an execution, 256 KiB a state, names of 80 characters.
MAX_HISTORY_EVENTS: Final = 25_000
EVENTS_A_ROUND: Final = 12  # own: an upper bound of what one NextJob and its Choice record
EVENTS_A_RETRY: Final = 6  # own: what one retried task adds
RENEW_AT_EVENTS: Final = 20_000  # own: leaves room for a round with every retry
MAX_EXECUTION_NAME: Final = 80
MAX_STATE_BYTES: Final = 256 * KIB

# Rules of the scheduler (own)
MAX_LOSSES: Final = 5  # the sixth ends the job
BAD_STREAK: Final = 3  # uncharged or sub-second failures of different jobs that retire a worker
FAST_FAILURE: Final = 1.0
PENDING_PATIENCE: Final = 120  # the sweep re-sends an effect older than this
REQUEUE_AFTER: Final = 6 * 3600  # default age at which a QUEUED job's message is sent again
READY_PATIENCE: Final = 900  # how long a worker's agent may take to answer
# own: a free slot's execution gives a sign sooner; the claim function's timeout (300) and the retire function's (60),
# and the longest pause before a task is tried again (60), with as much again for slow starts
CLAIM_PATIENCE: Final = 600
SIGN_INTERVAL: Final = 60  # own: such a sign is written at most so often
UNSEEN_INSTANCE_PATIENCE: Final = 600  # EC2 may not know an instance just launched (eventual consistency)
# own: two answers of EC2 that lack an instance, so far apart, prove that it is gone (EC2 API, "eventual consistency")
MISSING_PATIENCE: Final = 60
