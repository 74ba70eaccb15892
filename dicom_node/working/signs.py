"""Signs of life while something is done in one piece that may outlast any lease, as a report of thousands of slices."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from dicom_node.errors import LeaseLost, StoreFull, StoreUnavailable

SIGN_S = 1.0  # between two
SLOWEST_S = 0.5  # per slice; a report takes 14 ms, but at nice 19 beside busy processes many times that


@contextmanager
def signs_of_life(beat: Callable[[], None], slices: int) -> Iterator[None]:
    """`beat` is called from another thread until the block ends, but no longer than it may take for so many slices."""
    done, until = threading.Event(), time.monotonic() + SLOWEST_S * slices

    def give() -> None:
        while not done.wait(SIGN_S) and time.monotonic() < until:
            with suppress(LeaseLost, StoreFull, StoreUnavailable):  # whoever is in the block learns of it, too
                beat()

    thread = threading.Thread(target=give, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
