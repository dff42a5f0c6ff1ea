"""What is carried to a job and back: pickles in the environment's bucket, without secrets.

Functions and classes of the user's own modules travel by value, so that these need not be on the worker's image. What
is installed, there and here, travels by name; so does a block that is saved, which is loaded where it is used.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import site
import sys
import sysconfig
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import CodeType, ModuleType
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
        if isinstance(obj, os._Environ):
            # By value it would carry every secret of the flow's process, and hide the job's own.
            return getattr, (os, "environb" if obj is getattr(os, "environb", None) else "environ")
        if isinstance(obj, Block) and (name := getattr(obj, "_block_document_name", None)):
            return _load_block, (type(obj), name)
        if isinstance(obj, BaseException) and (reduced := _reduced(obj)) is not None:
            return reduced
        return super().reducer_override(obj)


def _load_block(kind: type[Block], name: str) -> Any:
    return kind.load(name)


def _reduced(error: BaseException) -> Any:
    """How to carry an exception whose constructor is Python's: it may want other arguments than ``args``.

    None for others, which Python carries as they are. One that says itself how it is carried keeps its notes besides.
    """
    kind = type(error)
    found = error.__reduce_ex__(2)
    if not isinstance(found, tuple):
        return None
    if hasattr(kind.__reduce__, "__code__") or found[0] is not kind:
        notes = getattr(error, "__notes__", None)
        return (*found, {"__notes__": notes}, None, None, _restore_state) if notes and len(found) == 2 else None
    if not _is_of_python(kind):
        return None
    state = found[2] if len(found) > 2 else None
    return _rebuilt, (kind, found[1], error.args), state, None, None, _restore_state


def _is_of_python(kind: type) -> bool:
    """Whether a class's constructor is written in Python."""
    return hasattr(getattr(kind, "__init__"), "__code__")  # noqa: B009 - mypy takes it for an instance's


def _rebuilt(kind: type[BaseException], given: tuple[Any, ...], args: tuple[Any, ...]) -> BaseException:
    """An exception as it was, without its constructor; what it has of Python's own is set by that of its base."""
    base = next(one for one in kind.__mro__ if not _is_of_python(one) and "__init__" in vars(one))
    error: BaseException
    try:
        error = base.__new__(kind, *given)
        vars(base)["__init__"](error, *given)
    except Exception:  # noqa: BLE001 - then what it says is all that is kept
        error = BaseException.__new__(kind)
    object.__setattr__(error, "args", args)
    return error


def _restore_state(error: BaseException, state: dict[str, Any]) -> None:
    for name, value in state.items():
        object.__setattr__(error, name, value)  # A __setattr__ of its own may refuse.


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


def told(value: Any, text: bytes) -> bytes:
    """What a digest of a value is made of: the same in another process, as far as that can be.

    Args:
        value: the value.
        text: its pickle, which serves unless it holds a class by value: those have random names in each process.
    """
    if b"_make_skeleton" not in text:
        return text
    try:
        return pickle.dumps(value, protocol=5)
    except Exception:  # noqa: BLE001 - whatever pickling raises
        return text


def source(function: Any) -> bytes:
    """What a function does, for a digest: its code and constants, the same in every process."""
    code = getattr(function, "__code__", None) or getattr(type(function).__call__, "__code__", None)
    return b"" if code is None else _source(code).encode()


def _source(code: CodeType) -> str:
    constants = [
        _source(one)
        if isinstance(one, CodeType)
        else repr(sorted(map(repr, one)) if isinstance(one, frozenset) else one)
        for one in code.co_consts
    ]
    return repr((code.co_code.hex(), code.co_names, code.co_varnames, constants))


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
        if module is None:
            continue
        is_script = (
            name == "__main__"
        )  # Its own functions travel by value without being asked; what it imports does not.
        if not is_script and _is_own(module):
            found.add(module)
        if is_script or module in found:
            open_ += [
                value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
                for value in list(vars(module).values())
            ]
    return found


def _is_own(module: ModuleType) -> bool:
    name, file = module.__name__, getattr(module, "__file__", None)
    if not file or name.partition(".")[0] in _NEVER_BY_VALUE:
        return False
    path = Path(file).resolve()
    return not any(path.is_relative_to(place) for place in _installed())


@cache
def _installed() -> list[Path]:
    named = sysconfig.get_paths()
    places = {named[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    return [Path(place).resolve() for place in {*places, *site.getsitepackages(), site.getusersitepackages()}]
