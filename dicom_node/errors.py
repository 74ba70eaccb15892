"""What can go wrong, as a tree: the class says what the program does next, the message what a person should do.

NodeError
├── ConfigError            a key in config.toml; nothing is started
├── NotFound               the command line named something that the database does not know
├── NotPossible            the command line asked for something that the present state forbids
├── InvalidObject          a received object cannot be kept as what it claims to be; carries a DIMSE status
├── StoreFull              no room (disk, quota, watermark): refuse, the sender keeps its copy; recovers by itself
├── StoreUnavailable       the database cannot be used (locked, unreadable, on a network file system)
├── ModelFailed            the model gave no usable answer; the process ends, because a GPU fault would persist in it
├── LeaseLost              another worker took this job over; drop what was computed
└── PeerError              a peer did not take what we sent
    ├── PeerUnreachable    temporary: connection refused, timeout, abort, transient rejection; try again
    └── PeerRefused        permanent until a person changes something: no context, a refusing status
"""

from __future__ import annotations

from dicom_node.status import StoreStatus


class NodeError(Exception):
    """Base of everything the node raises on purpose; its text may be shown to a person unchanged."""


class ConfigError(NodeError):
    pass


class NotFound(NodeError):
    pass


class NotPossible(NodeError):
    pass


class InvalidObject(NodeError):
    def __init__(self, reason: str, status: StoreStatus) -> None:
        super().__init__(reason)
        self.status = status


class StoreFull(NodeError):
    pass


class StoreUnavailable(NodeError):
    pass


class ModelFailed(NodeError):
    pass


class LeaseLost(NodeError):
    pass


class PeerError(NodeError):
    def __init__(self, reason: str, status: int | None = None) -> None:
        super().__init__(reason)
        self.status = status


class PeerUnreachable(PeerError):
    pass


class PeerRefused(PeerError):
    pass
