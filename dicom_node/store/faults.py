"""What errors of the database mean to the node; the text of one may quote values, which must stay out of the log."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa
from sqlalchemy.exc import DatabaseError, OperationalError, SQLAlchemyError

from dicom_node.errors import ConfigError, StoreFull, StoreUnavailable


class Deadlocked(StoreUnavailable):
    """PostgreSQL ended this transaction, since it and another waited for each other; nothing of it was done."""


@contextmanager
def explained() -> Iterator[None]:
    """Says how a URL that names no database is put right; it is not quoted, as it may hold a password."""
    try:
        yield
    except (sa.exc.ArgumentError, ModuleNotFoundError, ValueError) as exc:  # the last for a port that is no number
        raise ConfigError(
            "node.database_url names no usable database; leave it empty for SQLite in the data folder, "
            'or give one such as "postgresql+psycopg://user@host/dicom_node" (with psycopg installed)'
        ) from exc


@contextmanager
def translated() -> Iterator[None]:
    """Turn the database's errors into the node's, which say what to do."""
    try:
        yield
    except (OperationalError, DatabaseError) as exc:
        if isinstance(exc, sa.exc.IntegrityError):
            raise
        text = str(exc.orig).partition("\n")[0]
        if "is full" in text.lower() or "no space" in text.lower() or getattr(exc.orig, "sqlstate", None) == "53100":
            raise StoreFull("the disk of the database is full") from exc
        if "not a database" in text or "malformed" in text:
            raise StoreUnavailable(
                "the database file is damaged; restore it from a backup, or move it away, start anew, "
                "and send the images in the spool folder to the node again (dicom-node send)"
            ) from exc
        if not isinstance(exc, OperationalError):  # its text may quote values that were to be stored
            text = type(exc.orig).__name__
        kind = Deadlocked if getattr(exc.orig, "sqlstate", None) == "40P01" else StoreUnavailable
        raise kind(f"the database cannot be used: {text}") from exc
    except SQLAlchemyError as exc:
        if isinstance(exc, sa.exc.TimeoutError):
            raise StoreUnavailable("no database connection became free in time") from exc
        raise
