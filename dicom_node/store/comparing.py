"""What an arriving instance is, beside those that came under its UID: the same, recoded, corrected, contradicted.

As far as can be told without decoding pixels; what each means for a series is in docs/architecture.md, and `filing`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

import sqlalchemy as sa
from sqlalchemy import Connection

from dicom_node import digests
from dicom_node.headers.facts import Facts
from dicom_node.headers.header import Header
from dicom_node.store.tables import instances

# Uncompressed: the same pixels are the same bytes.
_LITTLE_ENDIAN = frozenset({"1.2.840.10008.1.2", "1.2.840.10008.1.2.1"})


class Filed(StrEnum):
    """What an arriving instance was."""

    NEW = "new"
    AGAIN = "again"  # the same bytes as before; nothing changed
    RECODED = "recoded"  # the same image in another transfer syntax; kept, but the first counts
    CORRECTED = "corrected"  # the same pixels under another header; the newer header counts
    CONTRADICTED = "contradicted"  # other pixels under the same SOP Instance UID; both are kept
    OWN = "own"  # made by this node and routed back to it


@dataclass(frozen=True)
class Arrival:
    """One received instance, durable in the spool, about to be filed."""

    header: Header
    transfer_syntax_uid: str
    file: str
    size: int
    digest: str
    """Of its data set: `dicom_node.digests`."""
    ruled_out: str | None
    calling_aet: str
    at: float
    priority: int
    """jobs.LIVE or jobs.BACKLOG; the series is as urgent as the most urgent of its instances."""


class Files(Protocol):
    """What filing needs to know about files of the spool."""

    def holds(self, name: str, size: int) -> bool:
        """Whether there is one with this name and size."""

    def is_whole(self, name: str, size: int, digest: str) -> bool:
        """Whether it is what was acknowledged; a lost or damaged copy is replaced by the one that arrives again.

        `digest`: of its data set.
        """

    def pixels(self, name: str, transfer_syntax_uid: str) -> str | None:
        """Digest of its pixels (`header.pixel_digest`); None where it is lost or damaged."""

    def facts(self, name: str, transfer_syntax_uid: str) -> Facts | None:
        """What its header says, as this version reads it; None where it is lost or damaged."""


def same_bytes(row: sa.Row[Any], arrival: Arrival, files: Files) -> bool:
    """Where an earlier version noted another kind of digest, the file that has just come decides."""
    if digests.is_earlier(row.digest):
        return files.is_whole(arrival.file, arrival.size, row.digest)
    return bool(row.digest == arrival.digest)


def compared(connection: Connection, arrival: Arrival, earlier: Sequence[sa.Row[Any]], files: Files) -> Filed:
    """What this instance is compared with those that came under its UID before.

    Where none of those counts any longer, as the one that did was erased, its header is the newest of all.
    """
    current = [known for known in earlier if known.current]
    if not current:
        return Filed.CORRECTED if earlier else Filed.NEW
    if not all(_same_pixels(connection, arrival, row, files) for row in current):
        return Filed.CONTRADICTED
    header = arrival.header
    recoded = any(
        row.transfer_syntax_uid != arrival.transfer_syntax_uid
        and row.identity == header.identity
        and files.holds(row.file, row.size)  # otherwise this is the only copy left
        and _says_the_same(row, header.facts, files)
        for row in current
    )
    return Filed.RECODED if recoded else Filed.CORRECTED


def _says_the_same(row: sa.Row[Any], facts: Facts, files: Files) -> bool:
    """An earlier version may have kept less of the header; then the file decides."""
    return Facts.from_json(row.facts) == facts or files.facts(row.file, row.transfer_syntax_uid) == facts


def _same_pixels(connection: Connection, arrival: Arrival, row: sa.Row[Any], files: Files) -> bool:
    """As far as can be told without decoding; a PACS may forward compressed what the scanner sent uncompressed."""
    header, syntaxes = arrival.header, {arrival.transfer_syntax_uid, row.transfer_syntax_uid}
    if len(syntaxes) == 1 or syntaxes <= _LITTLE_ENDIAN:
        return equal_pixels(connection, arrival, row, files)
    kept = Facts.from_json(row.facts)
    if _shape(kept) == _shape(header.facts):
        return True
    now_read = files.facts(row.file, row.transfer_syntax_uid)  # an earlier version may have kept less of the header
    return now_read is not None and _shape(now_read) == _shape(header.facts)


def _shape(facts: Facts) -> tuple[Any, ...]:
    return facts.rows, facts.columns, facts.frames, facts.position, facts.orientation


def equal_pixels(connection: Connection, arrival: Arrival, row: sa.Row[Any], files: Files) -> bool:
    """Whether the pixels are the same bytes; a lost earlier copy contradicts nothing.

    Digests are only made here, and noted, because hardly any instance is ever compared with another.
    """
    theirs: str | None = row.pixel_sha256
    if theirs is None:
        theirs = files.pixels(row.file, row.transfer_syntax_uid)
        connection.execute(instances.update().where(instances.c.id == row.id).values(pixel_sha256=theirs))
    return theirs is None or theirs == files.pixels(arrival.file, arrival.transfer_syntax_uid)
