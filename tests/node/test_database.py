"""The database: durable settings, one schema on SQLite and PostgreSQL, and errors that say what to do."""

from __future__ import annotations

import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from made import schema_differences
from sqlalchemy.schema import CreateTable

from dicom_node.errors import ConfigError, StoreFull, StoreUnavailable
from dicom_node.store import database as database_module
from dicom_node.store import filesystems, schema, tables
from dicom_node.store.database import Database


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path / 'data' / 'node.sqlite'}")
    schema.upgrade(database)
    yield database
    database.close()


def pragma(database: Database, name: str) -> Any:
    with database.read() as connection:
        return connection.scalar(sa.text(f"PRAGMA {name}"))


def test_a_committed_row_survives_a_power_cut(sqlite: Database) -> None:
    assert pragma(sqlite, "journal_mode") == "wal"
    assert pragma(sqlite, "synchronous") == 2  # FULL
    assert pragma(sqlite, "foreign_keys") == 1


def test_the_migrations_make_exactly_the_tables_on_sqlite(sqlite: Database) -> None:
    assert schema_differences(sqlite) == []
    said = {table.name: str(CreateTable(table).compile(sqlite.engine)) for table in tables.metadata.tables.values()}
    assert numbered(sqlite) == {name for name, text in said.items() if "AUTOINCREMENT" in text} == set(NUMBERED)


NUMBERED = ("series", "instances", "jobs", "objects", "deliveries", "commitments")


@pytest.fixture
def numbers_reused(tmp_path: Path) -> Iterator[Database]:
    """A database of schema 0005, in which SQLite gave numbers again; two rows in each table of `NUMBERED`."""
    database = Database(f"sqlite:///{tmp_path / 'node.sqlite'}")
    settings, _ = schema.migrations()
    with database.write() as connection:
        settings.attributes["connection"] = connection
        command.upgrade(settings, "0005")
        for name in NUMBERED:
            table = tables.metadata.tables[name]
            for number in (3, 7):
                row = {column.name: made_up(column, number) for column in table.columns}
                connection.execute(table.insert().values(row | {"id": number}))
    yield database
    database.close()


def made_up(column: sa.Column[Any], number: int) -> Any:
    """Another value in each column of each row; in foreign keys, the number of the row."""
    if column.foreign_keys or column.primary_key:
        return number
    if isinstance(column.type, sa.JSON):
        return [["1.2", column.name], number]
    if isinstance(column.type, sa.String):
        return f"{number} {column.name}"[: column.type.length]
    return True if isinstance(column.type, sa.Boolean) else number + len(column.name)


def contents(database: Database) -> dict[str, list[Any]]:
    with database.read() as connection:
        return {name: connection.execute(sa.text(f"SELECT * FROM {name} ORDER BY id")).all() for name in NUMBERED}


def structure(database: Database) -> dict[str, list[list[str]]]:
    """Columns, foreign keys and indices of each table, with their names."""
    with database.read() as connection:
        of = sa.inspect(connection)
        ask = (of.get_columns, of.get_foreign_keys, of.get_indexes, of.get_unique_constraints)
        return {name: [sorted(map(str, each(name))) for each in ask] for name in of.get_table_names()}


def numbered(database: Database) -> set[str]:
    """The tables in which SQLite never gives a number again."""
    with database.read() as connection:
        return set(connection.scalars(sa.text("SELECT name FROM sqlite_master WHERE sql LIKE '% AUTOINCREMENT%'")))


def test_numbers_that_may_be_given_again_are_not_from_the_upgrade_on_and_nothing_else_changes(
    numbers_reused: Database,
) -> None:
    database = numbers_reused
    before, built = contents(database), structure(database)
    schema.upgrade(database)
    assert (contents(database), structure(database)) == (before, built)
    assert schema_differences(database) == []
    with database.write() as connection:
        assert connection.execute(sa.text("PRAGMA foreign_key_check")).all() == []
        for name in reversed(NUMBERED):
            connection.execute(sa.text(f"DELETE FROM {name} WHERE id = 7"))
        for name in NUMBERED:
            table = tables.metadata.tables[name]
            row = {column.name: made_up(column, 3 if column.foreign_keys else 5) for column in table.columns}
            del row["id"]
            assert connection.execute(table.insert().values(row).returning(table.c.id)).scalar_one() == 8, name
    with pytest.raises(sa.exc.IntegrityError), database.engine.begin() as connection:
        connection.execute(sa.text("DELETE FROM objects WHERE id = 3"))


@pytest.mark.parametrize("at", ["DELETE FROM deliveries", "DROP TABLE objects", "DROP TABLE kept_deliveries"])
def test_an_upgrade_that_is_killed_half_way_changes_nothing_and_is_done_at_the_next_start(
    numbers_reused: Database, at: str
) -> None:
    database = numbers_reused
    before, built = contents(database), structure(database)
    code = (
        "import os, signal, sys; from sqlalchemy import event\n"
        "from dicom_node.store import schema; from dicom_node.store.database import Database\n"
        "def kill(_, __, statement, *rest):\n"
        "    if statement.strip().startswith(sys.argv[2]): os.kill(os.getpid(), signal.SIGKILL)\n"
        "d = Database(sys.argv[1]); event.listen(d.engine, 'before_cursor_execute', kill); schema.upgrade(d)"
    )
    url = database.url.render_as_string()
    assert subprocess.run([sys.executable, "-c", code, url, at], check=False).returncode == -signal.SIGKILL
    assert (contents(database), structure(database)) == (before, built)
    assert not numbered(database) & {"objects", "deliveries", "commitments"}
    schema.upgrade(database)
    assert (contents(database), structure(database)) == (before, built)
    assert numbered(database) == set(NUMBERED)


def test_a_number_is_never_given_a_second_time(sqlite: Database) -> None:
    values = {"study_uid": "1.2", "calling_aet": "A", "state": "receiving", "run": 0, "forced": False}
    values |= {"first_at": 0.0, "last_at": 0.0}
    with sqlite.write() as connection:
        connection.execute(tables.series.insert().values(values | {"series_uid": "1.1"}))
        connection.execute(tables.series.delete())
        again = tables.series.insert().values(values | {"series_uid": "1.1"}).returning(tables.series.c.id)
        assert connection.execute(again).scalar_one() == 2


def test_preparing_again_changes_nothing(sqlite: Database) -> None:
    uid = sqlite.device_uid()
    schema.upgrade(sqlite)
    assert sqlite.device_uid() == uid


def test_several_processes_may_start_at_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'node.sqlite'}"
    code = (
        "import sys; from dicom_node.store import schema; from dicom_node.store.database import Database\n"
        "sys.stdin.readline(); d = Database(sys.argv[1]); schema.upgrade(d); print(d.device_uid())"
    )
    arguments = [sys.executable, "-c", code, url]
    started = [
        subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    ended = [process.communicate(timeout=120) for process in started]
    assert [process.returncode for process in started] == [0] * 4, ended
    assert len({out for out, _ in ended}) == 1


def test_writers_wait_for_each_other_instead_of_failing(sqlite: Database) -> None:
    sqlite.device_uid()

    def count_up() -> None:
        for _ in range(20):
            with sqlite.write() as connection:
                before = connection.scalar(sa.select(tables.node.c.created_at))
                connection.execute(tables.node.update().values(created_at=before + 1.0))

    with sqlite.write() as connection:
        connection.execute(tables.node.update().values(created_at=0.0))
    threads = [threading.Thread(target=count_up) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with sqlite.read() as connection:
        assert connection.scalar(sa.select(tables.node.c.created_at)) == 100.0


def test_what_fails_half_way_leaves_nothing(sqlite: Database) -> None:
    def half() -> None:
        with sqlite.write() as connection:
            connection.execute(tables.destinations.insert().values(name="A", sr_class_uid="1.2", noted_at=0.0))
            raise KeyError

    with pytest.raises(KeyError):
        half()
    with sqlite.read() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(tables.destinations)) == 0


def test_a_connection_that_writes_is_used_again_unless_its_transaction_failed(sqlite: Database) -> None:
    def used() -> sa.Connection:
        with sqlite.write() as connection:
            return connection

    first = used()
    assert used() is first
    with pytest.raises(RuntimeError), sqlite.write() as failing:
        raise RuntimeError
    assert failing.closed
    last = used()
    assert not last.closed
    sqlite.close()
    assert last.closed


def test_a_statement_given_to_the_driver_fails_as_any_other_and_quotes_no_value(sqlite: Database) -> None:
    with pytest.raises(StoreUnavailable) as caught, sqlite.write() as connection:
        database_module.by_driver(connection, "INSERT INTO nowhere VALUES (:name)", {"name": "Doe^Jane"})
    assert "Doe" not in str(caught.value) + str(caught.value.__cause__)


def test_the_file_is_its_owners_alone(sqlite: Database) -> None:
    sqlite.device_uid()
    folder = Path(str(sqlite.url.database)).parent
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(f.stat().st_mode) for f in folder.iterdir()} == {0o600}


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "9p"])
def test_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(filesystems, "kind_of", lambda _: kind)
    with pytest.raises(StoreUnavailable, match="network file system"):
        Database(f"sqlite:///{tmp_path / 'node.sqlite'}")


@pytest.mark.skipif(not Path("/proc/mounts").exists(), reason="only Linux tells")
def test_the_file_system_is_found_through_links(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/proc")
    assert filesystems.kind_of(tmp_path / "link") == "proc"


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
def test_nothing_is_kept_in_memory(url: str) -> None:
    with pytest.raises(StoreUnavailable, match="must be a file"):
        Database(url)


def test_a_full_disk_is_told_from_a_broken_database(sqlite: Database) -> None:
    rows = [{"name": f"{number}" * 20, "sr_class_uid": "1" * 64, "noted_at": 0.0} for number in range(2000)]

    def fill() -> None:
        with sqlite.write() as connection:
            pages = connection.scalar(sa.text("PRAGMA page_count"))
            connection.execute(sa.text(f"PRAGMA max_page_count = {pages}"))
            connection.execute(tables.destinations.insert(), rows)

    with pytest.raises(StoreFull):
        fill()
    sqlite.close()
    Path(str(sqlite.url.database)).write_bytes(b"no database at all, but long enough to be taken for a page" * 100)
    with pytest.raises(StoreUnavailable, match="damaged"):
        schema.upgrade(Database(sqlite.url.render_as_string()))


def test_a_locked_database_is_an_error_that_passes(
    sqlite: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "BUSY_TIMEOUT_S", 0.05)
    other = Database(sqlite.url.render_as_string())
    holder = sqlite3.connect(str(sqlite.url.database), isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable, match="locked"), other.write():
        pass
    holder.execute("ROLLBACK")
    assert other.device_uid()
    holder.close()
    other.close()


def test_a_database_of_a_newer_version_is_left_alone(sqlite: Database) -> None:
    with sqlite.write() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StoreUnavailable, match="newer dicom-node"):
        schema.upgrade(sqlite)


@pytest.mark.parametrize("url", ["nonsense", "postgres://x/y", "postgresql+nothing://x/y"])
def test_a_url_that_names_no_database_is_told_by_its_key(url: str) -> None:
    with pytest.raises(ConfigError, match=r"node\.database_url"):
        Database(url)


def test_a_damaged_file_is_named_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "node.sqlite").write_bytes(b"this was a database once" * 400)
    with pytest.raises(StoreUnavailable, match="damaged; restore it from a backup"):
        schema.upgrade(Database(f"sqlite:///{tmp_path / 'node.sqlite'}"))
