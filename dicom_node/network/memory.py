"""How much of the incoming data is held in memory at once: for one object, and for all associations together."""

from __future__ import annotations

import threading

SMALL = 4 * 2**20  # bytes: a CT image of 1024 x 1024, with room for its header
NO_OBJECT = 8 * 2**20  # bytes of a message of another service: 50,000 references of a storage commitment take six MiB


class Memory:
    """Bytes lent to associations for objects not yet stored. Called by many threads.

    Small objects have room that large ones cannot take: a sender of volumes must not cause slices to be refused.
    """

    def __init__(self, size: int, *, for_small: int = 0) -> None:
        self._size = size
        self._for_small = for_small
        self.lent = 0
        self._lock = threading.Lock()

    def lend(self, size: int, *, held: int) -> bool:
        """`held`: what the same object has been lent already."""
        bound = self._size + (self._for_small if held + size <= SMALL else 0)
        with self._lock:
            if self.lent + size > bound:
                return False
            self.lent += size
        return True

    def give_back(self, size: int) -> None:
        with self._lock:
            self.lent -= size
