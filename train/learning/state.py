"""The state of a run on disk: whole at any moment, and enough to continue exactly as the run would have gone on."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pickle
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Any

import torch

from dtvit.wholefile import replacing
from train.processes import not_while_imported

STATE = "state.pt"
LOCK = "run.lock"
HALF_WRITTEN = (f".{STATE}.*", ".*.safetensors.*")
NO_MEMORY = "DefaultCPUAllocator"  # in what torch says of a CPU's; a GPU's is an error of a class of its own


class UnusableRun(Exception):
    """The output folder cannot hold this run, or the run cannot continue; the text says why and what to do."""


@contextlib.contextmanager
def claimed(output: Path) -> Iterator[None]:
    """The folder is made, can be written to, and belongs to this process until the end. Raises UnusableRun."""
    not_while_imported()
    try:
        output.mkdir(parents=True, exist_ok=True)
        lock = (output / LOCK).open("wb", buffering=0)  # a buffer would retry on close what a full disk refused
    except OSError as exc:
        raise UnusableRun(f"{output} cannot be written to ({exc.strerror}); name another folder with --output") from exc
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise UnusableRun(f"another process is training in {output}; wait for it, or name another folder") from exc
        try:
            _sweep(output)
            _room_for(lock, b"\0" * 4096)
        except OSError as exc:
            raise UnusableRun(f"{output} cannot be written to ({exc.strerror}); make room there") from exc
        yield


def _sweep(output: Path) -> None:
    """Remove what a process killed while saving left half-written: gigabytes each time for a large encoder."""
    for pattern in HALF_WRITTEN:
        for path in output.glob(pattern):
            path.unlink(missing_ok=True)


def save(path: Path, state: dict[str, Any]) -> None:
    """Replace the state by a newer one in one step. Raises UnusableRun; the older one is then intact."""
    try:
        with replacing(path, mode=0o600) as file:
            torch.save(state, file)
    except (OSError, RuntimeError) as exc:
        # torch's writer turns the system's error into a RuntimeError of its own
        said = exc.__context__ if isinstance(exc.__context__, OSError) else exc
        raise UnusableRun(
            f"{path} cannot be saved ({said}); what was saved before is intact: make room, and the same command "
            "continues from there"
        ) from exc


def read(path: Path, device: torch.device, *, mapped: bool = False) -> dict[str, Any] | None:
    """None if no run has saved anything; `mapped`: weights are read when they are used.

    Raises UnusableRun; what torch raises when memory is short (`lacks_memory`) passes through.
    """
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, mmap=mapped, weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as exc:
        if lacks_memory(exc):
            raise
        reason = exc.strerror if isinstance(exc, OSError) else "damaged, or not the state of a run"
        raise UnusableRun(f"{path} cannot be read ({reason}); remove it to begin again") from exc
    if not isinstance(state, dict) or not isinstance(state.get("run"), dict):
        raise UnusableRun(f"{path} cannot be read (not the state of a run); remove it to begin again")
    return state


def lacks_memory(exc: Exception) -> bool:
    """Whether torch ran out of memory, on a CPU or on a GPU."""
    return isinstance(exc, torch.OutOfMemoryError) or NO_MEMORY in str(exc)


def begun(path: Path) -> dict[str, Any] | None:
    """The state, its weights not read: `run` identifies it (`same_run`), `start` holds the fields of
    `train.learning.pretrained.Start`, unless an older version saved it. None and raises as `read`."""
    return read(path, torch.device("cpu"), mapped=True)


def same_run(output: Path, mine: dict[str, Any], other: dict[str, Any]) -> None:
    """Raises UnusableRun naming what differs between this run and the one whose state is in the folder."""
    differing = sorted(key for key in mine | other if mine.get(key) != other.get(key))
    if differing:
        raise UnusableRun(
            f"{output} holds a run with another "
            + ", ".join(f"{key} ({other.get(key)}, not {mine.get(key)})" for key in differing)
            + "; use the same options, or choose another output folder"
        )


def _room_for(file: FileIO, content: bytes) -> None:
    rest = memoryview(content)
    while rest:  # a write takes what there is room for; only the next one is an error
        rest = rest[file.write(rest) :]
    os.fsync(file.fileno())
    file.truncate(0)
