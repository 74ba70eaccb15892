"""How much of what is being received is held in memory at once: by one object, and by all associations together."""

from __future__ import annotations

import threading


class Memory:
    """Bytes lent to associations for objects not yet stored. Called by many threads."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._lent = 0
        self._lock = threading.Lock()

    def lend(self, size: int) -> bool:
        with self._lock:
            if self._lent + size > self._size:
                return False
            self._lent += size
        return True

    def give_back(self, size: int) -> None:
        with self._lock:
            self._lent -= size

    @property
    def lent(self) -> int:
        with self._lock:
            return self._lent
