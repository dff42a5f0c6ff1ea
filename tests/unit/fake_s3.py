#!/usr/bin/env python3
"""A stand-in for s5cmd and the AWS CLI, whichever name it is called by, on a folder of files.

It knows the few calls that the wrapper makes and refuses any other. $FAKE_S3 holds a folder a bucket, and beside
it calls.jsonl, one call a line. $FAKE_S3/fail, if there, holds how often, and which calls, to fail; $FAKE_S3/slow,
how many seconds an upload takes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from fnmatch import fnmatchcase
from pathlib import Path

ROOT = Path(os.environ.get("FAKE_S3", "/nonexistent"))


def local(address: str) -> Path:
    return ROOT / address.removeprefix("s3://")


def listed(folder: str) -> list[Path]:
    return sorted(path for path in local(folder).rglob("*") if path.is_file())


def copy(source: str, target: str, *, whole: bool, exclude: list[str], metadata: dict[str, str]) -> None:
    if target.startswith("s3://"):
        slow = ROOT / "slow"
        time.sleep(float(slow.read_text()) if slow.exists() else 0)
        files = [path for path in Path(source).rglob("*") if path.is_file()] if whole else [Path(source)]
        for path in files:
            to = local(target) / path.relative_to(source)
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, to)
            with (ROOT / "metadata.jsonl").open("a") as log:
                log.write(json.dumps([target + path.relative_to(source).as_posix(), metadata]) + "\n")
    elif whole:
        for path in listed(source):
            name = path.relative_to(local(source)).as_posix()
            if not any(fnmatchcase(name, pattern) for pattern in exclude):
                (Path(target) / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, Path(target) / name)
    else:
        shutil.copyfile(local(source), target)


def s5cmd(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--log", choices=["error"])
    commands = parser.add_subparsers(dest="command", required=True)
    ls, cp = commands.add_parser("ls"), commands.add_parser("cp")
    ls.add_argument("source")
    cp.add_argument("--raw", action="store_true")
    cp.add_argument("--exclude", action="append", default=[])
    cp.add_argument("--metadata", action="append", default=[])
    cp.add_argument("source")
    cp.add_argument("target")
    call = parser.parse_args(arguments)
    folder = call.source.removesuffix("*")
    if call.command == "ls":
        assert call.json
        found = listed(folder)
        for path in found:
            print(json.dumps({"key": f"s3://{path.relative_to(ROOT)}", "size": 1}, separators=(",", ":")))
        if not found:
            sys.exit('{"operation":"ls","error":"no object found"}')
        return
    whole = call.source.endswith(("/*", "/")) and call.raw is not call.source.endswith("*")
    metadata = dict(item.split("=") for item in call.metadata)
    copy(folder, call.target, whole=whole, exclude=call.exclude, metadata=metadata)


def aws(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser()
    services = parser.add_subparsers(dest="service", required=True)
    s3, s3api = services.add_parser("s3"), services.add_parser("s3api")
    cp = s3.add_subparsers(required=True).add_parser("cp")
    cp.add_argument("--recursive", action="store_true")
    cp.add_argument("--only-show-errors", action="store_true", required=True)
    cp.add_argument("--exclude", action="append", default=[])
    cp.add_argument("--metadata", default="")
    cp.add_argument("source")
    cp.add_argument("target")
    ls = s3api.add_subparsers(required=True).add_parser("list-objects-v2")
    for option in ("--output", "--query", "--cli-input-json"):
        ls.add_argument(option, required=True)
    call = parser.parse_args(arguments)
    if call.service == "s3api":
        request = json.loads(call.cli_input_json)
        bucket = ROOT / request["Bucket"]
        keys = [path.relative_to(bucket).as_posix() for path in listed(f"s3://{request['Bucket']}/{request['Prefix']}")]
        print(json.dumps(keys or None, indent=4))
        return
    metadata = dict(item.split("=") for item in call.metadata.split(",") if item)
    copy(call.source, call.target, whole=call.recursive, exclude=call.exclude, metadata=metadata)


def main() -> None:
    name, arguments = Path(sys.argv[0]).name, sys.argv[1:]
    with (ROOT / "calls.jsonl").open("a") as log:
        log.write(json.dumps([name, *arguments]) + "\n")
    fail = ROOT / "fail"
    if fail.exists():
        count, text = fail.read_text().split(" ", 1)
        if int(count) and text in " ".join(arguments):
            fail.write_text(f"{int(count) - 1} {text}")
            sys.exit('ERROR "cp": Access\tDenied\nfor you')
    (s5cmd if name == "s5cmd" else aws)(arguments)


if __name__ == "__main__":
    main()
