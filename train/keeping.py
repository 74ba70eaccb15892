"""What takes minutes to make, kept as a file and read again by every run that wants the same: pictures and masks."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar, get_type_hints

import numpy as np
from numpy.typing import NDArray

from dtvit.wholefile import replacing
from train.turns import in_turn

Kept = TypeVar("Kept")
"""A dataclass whose fields are arrays, or such dataclasses."""


def once(path: Path, stamp: str, kind: type[Kept], make: Callable[[], Kept]) -> Kept:
    """What `make` gives, from `path` if it is kept there under the same `stamp`. Raises OSError, and as `make`."""
    with in_turn(path):
        kept = _read(path, stamp, kind)
        if kept is None:
            kept = make()
            _write(path, stamp, kept)
    return kept


def version(*modules: ModuleType) -> str:
    """Twelve digits that change with the source of these modules."""
    return hashlib.sha256(b"".join(Path(str(each.__file__)).read_bytes() for each in modules)).hexdigest()[:12]


def _read(path: Path, stamp: str, kind: type[Kept]) -> Kept | None:
    try:
        with np.load(path) as arrays:
            return _from(arrays, kind, "") if str(arrays["stamp"]) == stamp else None
    except (FileNotFoundError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _from(arrays: Mapping[str, NDArray[Any]], kind: type[Kept], at: str) -> Kept:
    hints = get_type_hints(kind)
    names = [each.name for each in fields(kind)]  # type: ignore[arg-type]
    parts = {n: _from(arrays, hints[n], f"{at}{n}.") if is_dataclass(hints[n]) else arrays[at + n] for n in names}
    return kind(**parts)


def _columns(kept: object, at: str) -> Iterator[tuple[str, NDArray[Any]]]:
    for each in fields(kept):  # type: ignore[arg-type]
        value = getattr(kept, each.name)
        if is_dataclass(value):
            yield from _columns(value, f"{at}{each.name}.")
        else:
            yield at + each.name, value


def _write(path: Path, stamp: str, kept: object) -> None:
    # changed pictures of patients are still of patients: for the owner alone
    with replacing(path, mode=0o600) as file:
        np.savez(file, **{"stamp": np.array(stamp), **dict(_columns(kept, ""))})  # type: ignore[arg-type]
