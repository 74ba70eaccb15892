"""Pictures that take minutes to make, kept as a file and read again by every run that wants the same."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from types import ModuleType

import numpy as np

from train.data import Pictures
from train.turns import in_turn


def once(path: Path, stamp: str, make: Callable[[], tuple[Pictures, ...]]) -> tuple[Pictures, ...]:
    """What `make` gives, from `path` if it was made there for the same `stamp`. Raises OSError, and as `make`."""
    with in_turn(path):
        kept = _read(path, stamp)
        if kept is None:
            kept = make()
            _write(path, stamp, kept)
    return kept


def version(*modules: ModuleType) -> str:
    """Changes with the programs that make them."""
    return hashlib.sha256(b"".join(Path(str(each.__file__)).read_bytes() for each in modules)).hexdigest()[:12]


def _read(path: Path, stamp: str) -> tuple[Pictures, ...] | None:
    try:
        with np.load(path) as arrays:
            if str(arrays["stamp"]) != stamp:
                return None
            count = range(int(arrays["count"]))
            return tuple(Pictures(**{f.name: arrays[f"{n}.{f.name}"] for f in fields(Pictures)}) for n in count)
    except (FileNotFoundError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _write(path: Path, stamp: str, kept: tuple[Pictures, ...]) -> None:
    columns = {f"{n}.{f.name}": getattr(each, f.name) for n, each in enumerate(kept) for f in fields(each)}
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        # what pictures of patients were changed to is theirs too: for the owner alone
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            np.savez(file, stamp=np.array(stamp), count=np.array(len(kept)), **columns)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
