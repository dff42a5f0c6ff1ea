"""Workers for tests: one is launched when a queue has messages and too few workers run."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from deployed import SCHEDULER, DeployedStack

ENVIRONMENT = "af-box"
MOST = 2
QUEUES = (f"{SCHEDULER}-job-queue", f"{ENVIRONMENT}-job-queue")


@contextmanager
def workers(stack: DeployedStack) -> Iterator[None]:
    """Launch workers for as long as the block lasts; each ends itself when its queue is empty."""
    over = threading.Event()
    launched: dict[str, list[str]] = {queue: [] for queue in QUEUES}

    def keep() -> None:
        urls = {queue: stack.queue_url(queue) for queue in QUEUES}
        while not over.wait(0.3):
            for queue, url in urls.items():
                wanted = stack.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["ApproximateNumberOfMessages"])
                running = [worker for worker in launched[queue] if stack.state(worker) == "running"]
                launched[queue] = running
                if int(wanted["Attributes"]["ApproximateNumberOfMessages"]) and len(running) < MOST:
                    launched[queue].append(stack.worker(queue))

    thread = threading.Thread(target=keep, name="workers")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
