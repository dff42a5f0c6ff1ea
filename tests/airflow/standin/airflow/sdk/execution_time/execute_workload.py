"""Stands in for Airflow's supervisor in tests of many tasks: it takes 0.1 s of CPU to start and not 4.

It speaks with the real execution API, with the workload's own token, and appends what it ran to a file.
"""

from __future__ import annotations

import base64
import json
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from urllib.request import Request, urlopen

[_, option, path] = sys.argv
assert option == "--json-path"
workload = json.loads(Path(path).read_text())
ti = workload["ti"]
token = workload["token"]


def patch(what: str, body: dict) -> str:
    """One call of the execution API; a token that it gave in exchange."""
    url = f"{os.environ['AIRFLOW__CORE__EXECUTION_API_SERVER_URL']}task-instances/{ti['id']}/{what}"
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
    with urlopen(Request(url, json.dumps(body).encode(), headers, method="PATCH"), timeout=60) as reply:
        return reply.headers.get("Refreshed-API-Token") or token


def now() -> str:
    """The time, as the API takes it."""
    return datetime.now(UTC).isoformat()


claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
start = {"state": "running", "hostname": "standin", "unixname": "standin", "pid": os.getpid(), "start_date": now()}
token = patch("run", start)
line = {"index": ti["map_index"], "try": ti["try_number"], "lifetime": claims["exp"] - claims["iat"]}
line |= {"age": time.time() - claims["iat"]}
record = os.open(os.environ["STANDIN_RECORD"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
os.write(record, json.dumps(line).encode() + b"\n")
time.sleep(float(os.environ.get("STANDIN_SECONDS", "0")))
patch("state", {"state": "success", "end_date": now()})
