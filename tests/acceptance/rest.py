"""What must be so once nothing is left to be done."""

from __future__ import annotations

from collections import defaultdict

from account import ENDED, PATIENCE, SCHEDULER, Account, eventually


def comes_to_rest(account: Account, seconds: float = PATIENCE) -> None:
    """Wait until nothing is left; then every job must have ended, and its end must have been told in one way."""

    def look() -> bool:
        account.sweep()
        return not left_over(account)

    try:
        eventually(look, seconds, every=1.0)
    except AssertionError:
        raise AssertionError(f"never at rest: {left_over(account)}") from None
    assert wrongly_told(account) == []


def left_over(account: Account) -> list[str]:
    """Whatever is still to be done, or will never be."""
    found = [f"slot {slot['slot_id']} is {slot['state']}, wake {slot.get('wake')}" for slot in account.slots()]
    found += [f"instance {worker} lives" for worker in account.alive()]
    found += [f"execution {name} runs" for name in account.executions()]
    for job in account.records().values():
        if job["status"] not in ENDED or job.get("pending"):
            found.append(f"job {job['job_id']!r} is {job['status']}, pending {job.get('pending')!r}")
    for url in account.client("sqs").list_queues().get("QueueUrls", []):
        if not url.endswith(("-finished", "-failed")) and (count := account.waiting(url)):
            found.append(f"{count} messages on {url.rpartition('/')[2]}")
    return found


def wrongly_told(account: Account) -> list[str]:
    """Ends that were told nowhere, on the wrong queue, or in more than one way."""
    good, bad = defaultdict(set), defaultdict(set)
    for url in account.client("sqs").list_queues()["QueueUrls"]:
        side = good if url.endswith("-finished") else bad if url.endswith("-failed") else None
        if side is not None:
            for message in account.told(url):
                side[message["job_id"]].add(message["event_id"])
    found = []
    for job_id, job in account.records().items():
        event_id = f"{job_id}:{job['run_id']}:{job['attempt']}:{job['status']}"
        right, wrong = (good, bad) if job["status"] == "SUCCEEDED" else (bad, good)
        # A job may have had several runs; each has one end.
        ends = [one for one in good[job_id] | bad[job_id] if one.startswith(f"{job_id}:{job['run_id']}:")]
        if ends != [event_id] or event_id not in right[job_id] or event_id in wrong[job_id]:
            found.append(f"{event_id} was told as {ends}")
    strange = (good.keys() | bad.keys()) - account.records().keys()
    return found + [f"{SCHEDULER} has no record of {job_id!r}, which was told of" for job_id in strange]
