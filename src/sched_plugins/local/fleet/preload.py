"""A process that has imported what the scheduler's functions import, and is forked for each instance of one.

Run by path, with the functions' own code first on its path, so that nothing but the standard library is imported
from here. It talks through the socket that it was given: a message holds the program, its folder and its environment
as JSON, and carries the three standard streams; the answer is the process id. It ends when the socket does.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import sys
from pathlib import Path

#: What takes long to import. Not the handlers: they read their settings from the environment as they are imported.
MODULES = ("aws_lambda_powertools", "boto3", "sched_plugins.scheduler", "sched_plugins.aws.world")
LONGEST_MESSAGE = 1 << 20


def main() -> None:
    """Serve until the other end of the socket is closed."""
    number, code = int(sys.argv[1]), sys.argv[2]
    sys.path[0] = code
    for name in MODULES:
        # An archive that lacks one has functions that do not need it, or that say so when they start.
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    share_models()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps
    channel = socket.socket(fileno=number)
    while True:
        message, streams, _, _ = socket.recv_fds(channel, LONGEST_MESSAGE, 3)
        if not message:
            return
        child = os.fork()
        if child == 0:
            channel.close()
            become(json.loads(message), streams)
        for stream in streams:
            os.close(stream)
        channel.send(str(child).encode())


def share_models() -> None:
    """Read the descriptions of the services' APIs that every instance reads."""
    import botocore.session

    botocore.session.create_loader = functools.cache(botocore.session.create_loader)
    session = botocore.session.Session()
    for service in ("dynamodb", "sqs", "ssm", "stepfunctions", "s3"):
        session.create_client(service, region_name="us-east-1")


def become(request: dict[str, object], streams: list[int]) -> None:
    """Turn this process into the program that was asked for; does not return."""
    status = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        os.environ.clear()
        os.environ.update(request["environment"])  # type: ignore[call-overload]
        # The name that ps and top show: 15 characters, and what tells functions apart comes last.
        Path("/proc/self/comm").write_text(os.environ.get("AWS_LAMBDA_FUNCTION_NAME", "function")[-15:])
        os.chdir(str(request["folder"]))
        program = str(request["program"])
        sys.argv[:] = [program]
        sys.path[0] = str(Path(program).parent)
        runpy.run_path(program, run_name="__main__")
        status = 0
    except SystemExit as ending:
        status = ending.code if isinstance(ending.code, int) else int(bool(ending.code))
    except Exception:  # noqa: BLE001 - what the interpreter itself does with it
        sys.excepthook(*sys.exc_info())
    finally:
        for said in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                said.flush()
        os._exit(status)


if __name__ == "__main__":
    main()
