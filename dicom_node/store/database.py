"""The database: opening it, and transactions. Its schema is brought up to date by `schema`.

SQLite by default (WAL, synchronous=FULL: a committed row survives a power cut), PostgreSQL by `database_url`. Writing
transactions on SQLite take the write lock when they begin (BEGIN IMMEDIATE), so that they wait for each other instead
of failing half-way.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection as Connection  # re-exported: the flows above only name it in signatures
from sqlalchemy import Engine, event

from dicom_node import uids
from dicom_node.errors import StoreUnavailable
from dicom_node.store import filesystems, tables
from dicom_node.store.faults import explained, translated

BUSY_TIMEOUT_S = 30.0  # far longer than the longest writing transaction
_BESIDE_OTHERS, _ALONE = (sa.text(f"SELECT pg_advisory_xact_lock{kind}(4712)") for kind in ("_shared", ""))
ONE_STARTS = sa.text("SELECT pg_advisory_xact_lock(4711)")
_ONE_AT_A_TIME = "SELECT pg_advisory_xact_lock(4713, hashtext(%(what)s))"
_NOT_FOR_EVER = sa.text(f"SET LOCAL lock_timeout = '{BUSY_TIMEOUT_S:.0f}s'")  # new writers wait behind a `write_alone`
IN_MEMORY = "node.database_url: the database must be a file; nothing in memory survives a restart"


class Database:
    def __init__(self, url: str) -> None:
        with explained():
            self.url = sa.make_url(url)
            self.engine = self._open()
            self._writing = self.engine.execution_options(writes=True)
        self._idle: deque[Connection] = deque()
        """SQLite connections for writing, between their transactions."""

    @staticmethod
    def file(url: str) -> Path | None:
        """The file of SQLite; None in memory, or on PostgreSQL. Raises ConfigError."""
        with explained():
            made = sa.make_url(url)
        is_file = made.get_backend_name() == "sqlite" and made.database not in (None, "", ":memory:")
        return Path(str(made.database)) if is_file else None

    @staticmethod
    def missing_file(url: str) -> Path | None:
        """The file of SQLite that opening would create; None if it exists, or on PostgreSQL. Raises OSError."""
        path = Database.file(url)
        return None if path is None or path.exists() else path

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that is committed, durably, when the block ends without an exception."""
        with translated(), self._writer() as connection, connection.begin():
            if self.shares_commits:
                connection.execute(_BESIDE_OTHERS)
            yield connection

    @contextmanager
    def write_alone(self) -> Iterator[Connection]:
        """The same while no other `write` is in progress anywhere: earlier ones are committed, later ones wait."""
        with translated(), self._writing.begin() as connection:
            if self.shares_commits:
                connection.execute(_NOT_FOR_EVER)
                connection.execute(_ALONE)
            yield connection

    @contextmanager
    def _writer(self) -> Iterator[Connection]:
        """On SQLite, one kept from an earlier transaction: taking one from the pool costs more than beginning."""
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self._writing.connect()
        try:
            yield connection
        except BaseException:
            connection.close()
            raise
        if self.is_shared:  # the pool knows which connections the server has closed meanwhile
            connection.close()
        else:
            self._idle.append(connection)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        with translated(), self.engine.connect() as connection:
            yield connection

    @property
    def shares_commits(self) -> bool:
        """Whether commits of several connections wait for the disk together; on SQLite they wait for each other."""
        return self.is_shared

    @property
    def is_shared(self) -> bool:
        """Whether other nodes may use it too; SQLite belongs to one process tree, with one worker."""
        return self.url.get_backend_name() != "sqlite"

    def device_uid(self) -> str:
        """The UID of this node, made at its first start and kept for ever."""
        find = sa.select(tables.node.c.device_uid)
        with self.write() as connection:
            known = connection.scalar(find)
            if known is None:
                made = {"id": 1, "device_uid": uids.fresh(), "created_at": time.time()}
                connection.execute(insert_for(connection)(tables.node).values(made).on_conflict_do_nothing())
                known = connection.scalar(find)  # on PostgreSQL another process may have been first
            return str(known)

    def spool_uid(self) -> str | None:
        """UID of the spool that holds the files this database names; None before it has any."""
        with self.read() as connection:
            return connection.scalar(sa.select(tables.node.c.spool_uid))

    def bind(self, mark: Callable[[], str]) -> None:
        """Record which spool this database's files are in, if not known yet; `mark` says, for one process at a time."""
        self.device_uid()
        with self.write() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(ONE_STARTS)
            if connection.scalar(sa.select(tables.node.c.spool_uid)) is None:
                connection.execute(tables.node.update().values(spool_uid=mark()))

    def compact(self) -> None:
        """Rewrite the database without the traces of deleted rows in free pages and the log; waits for other work."""
        with translated():
            raw = self.engine.execution_options(isolation_level="AUTOCOMMIT", raw=True)
            with raw.connect() as connection:
                if self.url.get_backend_name() == "sqlite":
                    connection.exec_driver_sql("VACUUM")
                    busy, _, _ = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()
                    if busy:
                        raise StoreUnavailable("the database is busy: its log still holds deleted rows; run this again")
                else:
                    for table in tables.metadata.tables:
                        connection.exec_driver_sql(f"VACUUM FULL {table}")

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()
        self.engine.dispose()

    def _open(self) -> Engine:
        if self.url.get_backend_name() != "sqlite":
            return sa.create_engine(self.url, pool_size=10, max_overflow=50, pool_pre_ping=True)
        if self.url.database in (None, "", ":memory:"):
            raise StoreUnavailable(IN_MEMORY)
        path = Path(str(self.url.database))
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            filesystems.check(path.parent)
            path.touch(mode=0o600)
        except OSError as exc:
            hint = "; run this as its owner" if isinstance(exc, PermissionError) else ""
            raise StoreUnavailable(f"the database {path} cannot be used: {exc.strerror}{hint}") from exc
        engine = sa.create_engine(
            self.url,
            pool_size=10,
            max_overflow=100,
            pool_use_lifo=True,  # the last-used connection still has in its cache what is asked for next
            connect_args={"timeout": BUSY_TIMEOUT_S, "check_same_thread": False},
        )
        event.listen(engine, "connect", _set_up_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine


def insert_for(connection: Connection) -> Any:
    """INSERT .. ON CONFLICT is spelled the same for both databases, but imported separately."""
    if connection.dialect.name == "postgresql":
        from sqlalchemy.dialects.postgresql import insert as postgresql_insert

        return postgresql_insert
    from sqlalchemy.dialects.sqlite import insert as sqlite_insert

    return sqlite_insert


def one_at_a_time(connection: Connection, what: str) -> None:
    """Wait until no other transaction that asked the same is in progress. On SQLite only one writes anyway."""
    if connection.dialect.name == "postgresql":
        by_driver(connection, _ONE_AT_A_TIME, {"what": what})


def _set_up_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # we send BEGIN ourselves, see _begin_sqlite
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    if connection.get_execution_options().get("raw", False):
        return
    writes = connection.get_execution_options().get("writes", False)
    by_driver(connection, "BEGIN IMMEDIATE" if writes else "BEGIN")


def by_driver(connection: Connection, statement: str, values: Mapping[str, Any] | None = None) -> Any:
    """Run a statement, with its values by name, on the driver itself; returns its cursor. Raises what SQLAlchemy does.

    For those that run with every image: SQLAlchemy's own way costs several times what they cost the database.
    """
    cursor = connection.connection.cursor()
    try:
        cursor.execute(statement, values or {})
    except connection.dialect.loaded_dbapi.Error as exc:
        raise sa.exc.DBAPIError.instance(
            statement,
            None,
            exc,
            connection.dialect.loaded_dbapi.Error,
            hide_parameters=True,
            dialect=connection.dialect,
        ) from exc
    return cursor


def note(
    connection: Connection,
    kind: str,
    *,
    now: float,
    series_id: int | None = None,
    job_id: int | None = None,
    detail: str | None = None,
) -> None:
    """Add one line to the history that `dicom-node show` prints; no identity in `detail`."""
    connection.execute(
        tables.events.insert().values(at=now, series_id=series_id, job_id=job_id, kind=kind, detail=detail)
    )
