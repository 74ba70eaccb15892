"""The named steps at which a test ends a process of the node: where each is in the code, and how to stop there.

The node itself knows nothing of this. `sitecustomize` beside this file wraps the function of each step, in the
processes that a test starts, and at a word of the test the wrapper sends SIGKILL to its own process. A step whose
function is renamed is never met, and the test that asks for it fails.
"""

from __future__ import annotations

import functools
import importlib
import os
import signal
import threading
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RECEIVER, WORKER = "receiver", "worker"


@dataclass(frozen=True)
class Step:
    process: str
    """Which process comes to it."""
    function: str
    """`module:name` or `module:Class.name`."""
    when: str
    """`before` or `after` it runs, or when the transaction in which it ran is `committed`."""
    within: str = ""
    """It counts only while this one runs, in the same form."""


_KEEP = "dicom_node.store.spool:Spool.keep"
_ACCEPT = "dicom_node.receiving.accepting:Acceptor.accept"
_ASKED, _GIVEN = "dicom_node.store.commitment_asked", "dicom_node.store.commitment_given"
STEPS = {
    "request received": Step(RECEIVER, _ACCEPT, "before"),
    "before fsync": Step(RECEIVER, "os:fsync", "before", within=_ACCEPT),
    "after fsync": Step(RECEIVER, "os:fsync", "after", within=_ACCEPT),
    "before name": Step(RECEIVER, "dicom_node.store.names:Names.take", "before", within=_ACCEPT),
    "after name": Step(RECEIVER, "dicom_node.store.names:Names.take", "after", within=_ACCEPT),
    "before name's sync": Step(RECEIVER, "dicom_node.store.names:sync_folder", "before", within=_ACCEPT),
    "after name's sync": Step(RECEIVER, "dicom_node.store.names:sync_folder", "after", within=_ACCEPT),
    "before row": Step(RECEIVER, "dicom_node.store.filing:file", "before"),
    "before commit": Step(RECEIVER, "dicom_node.store.filing:file", "after"),
    "after commit": Step(RECEIVER, "dicom_node.store.filing:file", "committed"),
    "before response": Step(RECEIVER, _ACCEPT, "after"),
    "before completion's commit": Step(RECEIVER, "dicom_node.store.series:complete", "after"),
    "after completion's commit": Step(RECEIVER, "dicom_node.store.series:complete", "committed"),
    "before slices are read": Step(WORKER, "dicom_node.store.series:begin_reading", "committed"),
    "before results of slices are committed": Step(WORKER, "dicom_node.store.results:keep", "after"),
    "after results of slices are committed": Step(WORKER, "dicom_node.store.results:keep", "committed"),
    "before claim's commit": Step(WORKER, "dicom_node.store.jobs:claim", "after"),
    "after claim's commit": Step(WORKER, "dicom_node.store.jobs:claim", "committed"),
    "before report": Step(WORKER, "dicom_node.delivering.reporting:report", "before"),
    "after report": Step(WORKER, "dicom_node.delivering.reporting:report", "after"),
    "before report's fsync": Step(WORKER, "os:fsync", "before", within=_KEEP),
    "after report's fsync": Step(WORKER, "os:fsync", "after", within=_KEEP),
    "after report is stored": Step(WORKER, "dicom_node.delivering.built:Built.stored_in", "after"),
    "before outbox": Step(WORKER, "dicom_node.store.jobs:finish", "after"),
    "before outbox's commit": Step(WORKER, "dicom_node.store.outbox:put", "after"),
    "after outbox's commit": Step(WORKER, "dicom_node.store.outbox:put", "committed"),
    "before picture": Step(WORKER, "dicom_node.store.jobs:begin_extras", "committed"),
    "before picture's commit": Step(WORKER, "dicom_node.store.jobs:extras_made", "after"),
    "after picture's commit": Step(WORKER, "dicom_node.store.jobs:extras_made", "committed"),
    "before delivery": Step(RECEIVER, "dicom_node.delivering.sender:Sender._outgoing", "after"),
    "after delivery": Step(RECEIVER, "dicom_node.delivering.sender:Sender._answered", "before"),
    "before delivery's commit": Step(RECEIVER, "dicom_node.store.outbox:delivered", "after"),
    "after delivery's commit": Step(RECEIVER, "dicom_node.store.outbox:delivered", "committed"),
    "before question's commit": Step(RECEIVER, f"{_ASKED}:ask", "after"),
    "after question's commit": Step(RECEIVER, f"{_ASKED}:ask", "committed"),
    "before settlement's commit": Step(RECEIVER, f"{_ASKED}:settle", "after"),
    "after settlement's commit": Step(RECEIVER, f"{_ASKED}:settle", "committed"),
    "before request's commit": Step(RECEIVER, f"{_GIVEN}:keep", "after"),
    "after request's commit": Step(RECEIVER, f"{_GIVEN}:keep", "committed"),
    "before promise's commit": Step(RECEIVER, f"{_GIVEN}:promise", "after"),
    "after promise's commit": Step(RECEIVER, f"{_GIVEN}:promise", "committed"),
    "before answer's commit": Step(RECEIVER, f"{_GIVEN}:answered", "after"),
    "after answer's commit": Step(RECEIVER, f"{_GIVEN}:answered", "committed"),
}


class Orders:
    """What this process is to do, from a file that may come at any time: `3 before fsync`, the third time from then."""

    def __init__(self, file: Path, process: str | None) -> None:
        """`process`: which kind this one is; None obeys nothing until it is said."""
        self.process = process
        self._file = file
        self._lock = threading.Lock()
        self._order = ""
        self._left = 0

    def reached(self, name: str) -> None:
        if STEPS[name].process != self.process:
            return
        with self._lock:
            try:
                order = self._file.read_text()
            except FileNotFoundError:
                order = ""
            count, _, wanted = order.partition("\n")[0].partition(" ")
            if wanted != name:
                return
            if order != self._order:
                self._order, self._left = order, int(count)
            self._left -= 1
            if self._left == 0:
                self._die()

    def _die(self) -> None:
        """The order goes first: the process started in this one's place lives, and the test sees it was obeyed."""
        try:
            self._file.unlink()
        except FileNotFoundError:
            return  # another process was first
        os.kill(os.getpid(), signal.SIGKILL)


def arm(order: Path, process: str | None = None) -> Orders:
    """Wrap the steps of a process of this kind, so that it obeys `order`; of every kind while it is not known."""
    orders = Orders(order, process)
    for name, step in STEPS.items():
        if process in (None, step.process):
            _arm(name, step, orders)
    _wrap_write()
    return orders


def _arm(name: str, step: Step, orders: Orders) -> None:
    running = _counting(step.within) if step.within else (lambda: True)

    def reached() -> None:
        if running():
            orders.reached(name)

    _wrap(step.function, before=reached if step.when == "before" else None, after=_after(step, reached))


def _after(step: Step, reached: Callable[[], None]) -> Callable[[Any], None] | None:
    if step.when == "before":
        return None
    claims = step.function.endswith(":claim")  # asked ten times a second; only a claim that got something counts
    if step.when == "after":
        return lambda result: None if claims and result is None else reached()
    ran = threading.local()
    _on_commit.append(lambda: getattr(ran, "here", False) and (setattr(ran, "here", False), reached()))
    return lambda result: None if claims and result is None else setattr(ran, "here", True)


_on_commit: list[Callable[[], Any]] = []


def _wrap_write() -> None:
    from dicom_node.store.database import Database

    write = Database.write

    @contextmanager
    def wrapped(self: Any) -> Any:
        with write(self) as connection:
            yield connection
        for act in _on_commit:
            act()

    Database.write = wrapped  # type: ignore[method-assign]


def _counting(function: str) -> Callable[[], bool]:
    """Whether this thread is inside of the function."""
    inside = threading.local()

    def come(by: int) -> None:
        inside.depth = getattr(inside, "depth", 0) + by

    _wrap(function, before=lambda: come(1), after=lambda _: None, finally_=lambda: come(-1))
    return lambda: bool(getattr(inside, "depth", 0) > 0)


def _wrap(
    function: str,
    *,
    before: Callable[[], None] | None,
    after: Callable[[Any], None] | None,
    finally_: Callable[[], None] = lambda: None,
) -> None:
    module, _, path = function.partition(":")
    holder: Any = importlib.import_module(module)
    *classes, name = path.split(".")
    for part in classes:
        holder = getattr(holder, part)
    original = getattr(holder, name)

    @functools.wraps(original)
    def wrapped(*arguments: Any, **named: Any) -> Any:
        if before is not None:
            before()
        try:
            result = original(*arguments, **named)
        finally:
            finally_()
        if after is not None:
            after(result)
        return result

    setattr(holder, name, wrapped)
