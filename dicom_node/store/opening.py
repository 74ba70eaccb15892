"""Opening what the node remembers, for the service, for the worker and for commands."""

from __future__ import annotations

import os

from dicom_node.config import Config
from dicom_node.errors import StoreUnavailable
from dicom_node.store.database import Database
from dicom_node.store.spool import Spool


def open_store(config: Config) -> tuple[Database, Spool]:
    """The database, its schema up to date, and the spool. Raises NodeError with what to do."""
    folder = config.node.data_folder
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        spool = Spool(folder / "spool", min_free_mib=config.node.min_free_mib)
        spool.prepare()
    except OSError as exc:
        raise StoreUnavailable(f"node.data_folder = {folder} cannot be used: {exc.strerror}") from exc
    database = Database(config.database_url)
    database.prepare()
    return database, spool


def check(config: Config) -> None:
    """Whether `open_store` would succeed, as far as can be told without leaving anything behind. Raises NodeError."""
    folder = config.node.data_folder
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise StoreUnavailable(f"node.data_folder = {folder} cannot be used: {there} cannot be written to")
    Database.check(config.database_url)
