"""The schema of the database: made at the first start, and brought up to date at a later one, by alembic."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from dicom_node.errors import NotFound, StoreUnavailable
from dicom_node.store.database import ONE_STARTS, Database


def upgrade(database: Database) -> None:
    """Create or upgrade it. Several processes may do this at once."""
    from alembic import command

    settings, scripts = migrations()
    with database.write() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(ONE_STARTS)
        if _revision(connection, scripts) != scripts.get_current_head():
            settings.attributes["connection"] = connection
            command.upgrade(settings, "head")


def look(database: Database) -> None:
    """Raises StoreUnavailable where `upgrade` would; closes the database."""
    try:
        with database.read() as connection:
            _revision(connection, migrations()[1])
    finally:
        database.close()


def expect(database: Database) -> None:
    """Raise NotFound where `upgrade` would create or upgrade something: a command must not do that."""
    _, scripts = migrations()
    with database.read() as connection:
        current = _revision(connection, scripts)
    if current is None:
        raise NotFound("the database is empty: dicom-node serve sets it up at its first start")
    if current != scripts.get_current_head():
        raise NotFound(
            f"the database was made by an older dicom-node (its schema is {current}, this one's "
            f"{scripts.get_current_head()}); starting this version's serve upgrades it, and there is no way back"
        )


def migrations() -> tuple[Any, Any]:
    """Alembic's settings, and the revisions that this program knows."""
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    settings = Config()
    settings.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
    return settings, ScriptDirectory.from_config(settings)


def _revision(connection: Connection, scripts: Any) -> str | None:
    """Revision of the existing schema; None if there is none. Raises StoreUnavailable if newer than this program."""
    from alembic.runtime.migration import MigrationContext

    current = MigrationContext.configure(connection).get_current_revision()
    if current is not None and current not in {one.revision for one in scripts.walk_revisions()}:
        raise StoreUnavailable(
            f"the database was made by a newer dicom-node (its schema is {current}, this one's "
            f"{scripts.get_current_head()}); install that version, or use another node.data_folder"
        )
    return current
