"""A deployment to hand on: templates without local paths, and the archive that they refer to."""

from __future__ import annotations

import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sched_plugins.deploy import template as templates
from sched_plugins.deploy.archive import Target, functions_archive
from sched_plugins.errors import DeployError

ARCHIVE, FOLDER = "sched-functions.zip", "functions"
BUCKET, KEY = "CodeBucket", "CodeKey"


@dataclass(frozen=True)
class Bundle:
    """The files of a bundle, and what the functions in it run on. ``functions`` is the archive, unpacked."""

    scheduler: Path
    environment: Path
    archive: Path
    functions: Path
    target: Target


def package(destination: Path | str, *, target: Target | None = None) -> Bundle:
    """Write both templates and the functions' archive to a folder, for launching from the console.

    The archive goes to any bucket in the region of the stack; the templates' parameters ``CodeBucket`` and
    ``CodeKey`` say where. The unpacked functions are what ``infra/*.yaml`` name as their code, for SAM. Files of
    an earlier bundle are replaced.

    Raises:
        DeployError: the folder cannot be written, has a ``functions`` of someone else's, or the functions cannot be
            packaged.
    """
    folder = Path(destination).expanduser()
    archive = functions_archive(target)
    code = {"Bucket": {"Ref": BUCKET}, "Key": {"Ref": KEY}}
    written = Bundle(
        scheduler=folder / templates.FILES["scheduler"],
        environment=folder / templates.FILES["environment"],
        archive=folder / ARCHIVE,
        functions=folder / FOLDER,
        target=archive.target,
    )
    if written.functions.exists() and not (written.functions / "sched_plugins").is_dir():
        raise DeployError(f"{written.functions} is there and was not written by sched. Choose another folder.")
    texts = {
        getattr(written, kind): templates.to_yaml(_portable(templates.load(kind), code, archive.target))
        for kind in templates.FILES
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in texts.items():
            path.write_text(text, encoding="utf-8")
        written.archive.write_bytes(archive.zipped())
        shutil.rmtree(written.functions, ignore_errors=True)
        with zipfile.ZipFile(written.archive) as packed:
            packed.extractall(written.functions)
    except OSError as error:
        raise DeployError(f"cannot write to {folder}: {error.strerror or error}. Choose another folder.") from error
    return written


def _portable(template: dict[str, Any], code: dict[str, Any], target: Target) -> dict[str, Any]:
    result = templates.located(template, code, templates.folder(), target.architecture)
    parameters = result.setdefault("Parameters", {})
    for name, value in ((templates.RUNTIME, target.runtime), (templates.ARCHITECTURE, target.architecture)):
        if name in parameters:
            # Compiled code in the archive runs on nothing else.
            parameters[name] |= {"Default": value, "AllowedValues": [value]}
    parameters[BUCKET] = {
        "Type": "String",
        "Description": f"Bucket in the region of this stack that holds {ARCHIVE}.",
        "AllowedPattern": "[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]",
    }
    parameters[KEY] = {"Type": "String", "Description": f"Key of {ARCHIVE} in that bucket.", "Default": ARCHIVE}
    return result
