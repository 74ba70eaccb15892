"""Opens database and spool, for the service, the worker and commands."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

from dicom_node.config import Config
from dicom_node.errors import NotFound, StoreUnavailable
from dicom_node.store import filesystems, schema
from dicom_node.store.database import IN_MEMORY, Database
from dicom_node.store.faults import explained
from dicom_node.store.spool import UID_FILE, Spool
from dicom_node.store.tables import instances


def open_store(config: Config) -> tuple[Database, Spool]:
    """The database, with its schema up to date, and the spool; created if missing. Raises NodeError."""
    spool = _spool(config)
    with made_folder(config):
        database = Database(config.database_url)
    schema.upgrade(database)
    with _usable(config.node.data_folder):
        _expect_its_spool(database, spool)
        spool.prepare()
        database.bind(spool.mark)
        _expect_its_spool(database, spool)  # if several nodes start for the first time at once, one was first
    return database, spool


@contextmanager
def made_folder(config: Config) -> Iterator[Path]:
    """The data folder, created if missing; an OSError in the block becomes StoreUnavailable."""
    folder = config.node.data_folder
    with _usable(folder):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        yield folder


def missing_database(config: Config) -> Path | None:
    """The database's file, if it is a file and missing. Raises StoreUnavailable."""
    with _usable(config.node.data_folder):
        return Database.missing_file(config.database_url)


def open_existing(config: Config, *, with_files: bool = True) -> tuple[Database, Spool]:
    """The same for a command: it creates nothing, as a user other than the node's may run it, and upgrades nothing.

    `with_files`: whether the spool must exist too. Raises NodeError.
    """
    spool = _spool(config)
    missing = missing_database(config)
    if missing is not None:
        raise NotFound(
            f"no node has run here: {missing} does not exist, and dicom-node serve creates it at its first start; "
            "if one has run, is its disk mounted, and is this its configuration?"
        )
    database = Database(config.database_url)
    schema.expect(database)
    if with_files:
        with _usable(config.node.data_folder):
            _expect_its_spool(database, spool)
    return database, spool


def check(config: Config) -> None:
    """Raises NodeError if `open_store` would fail, as far as can be told without leaving anything behind."""
    folder = config.node.data_folder
    with _usable(folder):
        there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise StoreUnavailable(f"node.data_folder = {folder} cannot be used: {there} cannot be written to")
    _check_database(config.database_url)
    Spool(there, min_free_mib=config.node.min_free_mib).check_room()
    _spool(config).check_writable()


def _check_database(url: str) -> None:
    """Raises NodeError if the database could not be used; does not create a file of SQLite."""
    with explained():
        made = sa.make_url(url)
        if made.get_backend_name() != "sqlite":
            schema.look(Database(url))
            return
        made.get_dialect()().create_connect_args(made)  # sqlite://folder/file, with a slash too few
    if made.database in (None, "", ":memory:"):
        raise StoreUnavailable(IN_MEMORY)
    path = Path(str(made.database))
    there = next(parent for parent in path.parents if parent.exists())
    filesystems.check(there)
    if path.is_dir() or not all(os.access(one, os.W_OK) for one in (there, path) if one.exists()):
        raise StoreUnavailable(f"the database {path} cannot be used: it must be a writable file")
    if path.exists():
        schema.look(Database(url))


def _spool(config: Config) -> Spool:
    return Spool(config.node.data_folder / "spool", min_free_mib=config.node.min_free_mib)


@contextmanager
def _usable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        hint = "; run this as its owner" if isinstance(exc, PermissionError) else ""
        raise StoreUnavailable(f"node.data_folder = {folder} cannot be used: {exc.strerror}{hint}") from exc


def _expect_its_spool(database: Database, spool: Spool) -> None:
    """A wrong spool would take in images, and lack those of the database: an empty folder whose disk is not mounted, or
    the local disk of a second node on a shared database.
    """
    uid = database.spool_uid()
    if uid is None:
        _expect_its_files(database, spool)
    elif uid != spool.uid():
        raise StoreUnavailable(
            f"{spool.folder} is not the spool of this database: is its disk mounted? Nodes that share a database share "
            f"the spool. If its files are lost for good: mkdir -p {spool.folder}, "
            f"echo {uid} > {spool.folder / UID_FILE}, and start again"
        )


def _expect_its_files(database: Database, spool: Spool) -> None:
    """For a database that was made before spools had UIDs."""
    if spool.is_there():
        return
    with database.read() as connection:
        if connection.scalar(sa.select(instances.c.id).limit(1)) is None:
            return
    raise StoreUnavailable(
        f"the database names files, but {spool.folder} holds none: is its disk mounted? "
        f"If they are lost for good, mkdir -p {spool.folder}/00 and start again"
    )
