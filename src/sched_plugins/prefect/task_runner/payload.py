"""What is carried to a job and back: pickles in the environment's bucket, without secrets.

Functions and classes of the user's own modules travel by value, so that these need not be on the worker's image. What
is installed, there and here, travels by name; so does a block that is saved, which is loaded where it is used.
"""

from __future__ import annotations

import hashlib
import io
import site
import sys
import sysconfig
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import cloudpickle  # type: ignore[import-untyped]
from prefect.blocks.core import Block
from pydantic import Secret, SecretBytes, SecretStr

from sched_plugins.errors import InvalidInput

_SECRETS: Final = (SecretStr, SecretBytes, Secret)
_LOCK = threading.RLock()
_NEVER_BY_VALUE: Final = frozenset({"sched_plugins", "prefect", "prefect_aws", "_pytest", "pytest"})


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, _SECRETS):
            raise InvalidInput(
                f"a {type(obj).__name__} would be written to S3; save it in a block and load that in the task"
            )
        if isinstance(obj, Block) and (name := getattr(obj, "_block_document_name", None)):
            return _load_block, (type(obj), name)
        return super().reducer_override(obj)


def _load_block(kind: type[Block], name: str) -> Any:
    return kind.load(name)


def dumps(value: Any) -> bytes:
    """A pickle of a value.

    Raises:
        InvalidInput: it holds a secret.
        Exception: what pickling raises.
    """
    buffer = io.BytesIO()
    _Pickler(buffer).dump(value)
    return buffer.getvalue()


def loads(text: bytes) -> Any:
    """The value of a pickle. Whoever may write to the environment's bucket is trusted with it."""
    return cloudpickle.loads(text)


def digest(*texts: bytes) -> str:
    """128 bits of texts that cannot run into each other, in hex."""
    told = hashlib.sha256()
    for text in texts:
        told.update(f"{len(text)}:".encode())
        told.update(text)
    return told.hexdigest()[:32]


@contextmanager
def by_value(modules: Iterable[ModuleType]) -> Iterator[None]:
    """Pickle what these modules define by value for the length of a block."""
    with _LOCK:
        known = cloudpickle.list_registry_pickle_by_value()
        added = [module for module in modules if module.__name__ not in known and module.__name__ in sys.modules]
        for module in added:
            cloudpickle.register_pickle_by_value(module)
        try:
            yield
        finally:
            for module in added:
                cloudpickle.unregister_pickle_by_value(module)


def own_modules(function: Any) -> set[ModuleType]:
    """The user's modules that a function needs: its own and those that this imports, unless they are installed."""
    found: set[ModuleType] = set()
    seen: set[str] = set()
    open_ = [getattr(function, "__module__", None)]
    while open_:
        name = open_.pop()
        if not isinstance(name, str) or name in seen:
            continue
        seen.add(name)
        module = sys.modules.get(name)
        if module is not None and _is_own(module):
            found.add(module)
            open_ += [
                value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
                for value in list(vars(module).values())
            ]
    return found


def _is_own(module: ModuleType) -> bool:
    name, file = module.__name__, getattr(module, "__file__", None)
    if name == "__main__" or not file or name.partition(".")[0] in _NEVER_BY_VALUE:
        return False  # A script's own functions travel by value without being asked.
    path = Path(file).resolve()
    return not any(path.is_relative_to(place) for place in _installed())


@cache
def _installed() -> list[Path]:
    named = sysconfig.get_paths()
    places = {named[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    return [Path(place).resolve() for place in {*places, *site.getsitepackages(), site.getusersitepackages()}]
