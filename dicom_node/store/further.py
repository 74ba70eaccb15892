"""One more image of a series that is being received, as nearly every arrival is, in three statements.

`filing` asks here first. Anything less simple (a new series, one to be reopened or to become more urgent, a known UID)
it files itself, and nothing is changed here. The statements are compiled once and handed to the driver as text, because
SQLAlchemy's own lookup of compiled statements costs several times what they cost SQLite.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects import sqlite

from dicom_node.store.database import by_driver
from dicom_node.store.tables import SeriesState, instances, objects, series

_BY_NAME = sqlite.dialect(paramstyle="named")
_ROW = [column for column in instances.columns if column.name not in ("id", "committed_at")]
_earlier = instances.alias()
_UID = sa.bindparam("sop_instance_uid", type_=instances.c.sop_instance_uid.type)

# The row is locked: what arrives for the series at the same time over another association waits (PostgreSQL).
_SERIES = (
    sa.select(series.c.id)
    .where(series.c.series_uid == sa.bindparam("series_uid"), series.c.state == SeriesState.RECEIVING.value)
    .where(series.c.priority <= sa.bindparam("priority"))
    .with_for_update()
)
_INSTANCE = instances.insert().from_select(
    [column.name for column in _ROW],
    sa.select(*(sa.bindparam(column.name, type_=column.type) for column in _ROW)).where(
        ~sa.exists().where(_earlier.c.sop_instance_uid == _UID), ~sa.exists().where(objects.c.sop_instance_uid == _UID)
    ),
)
_ARRIVED = (
    series.update().where(series.c.id == sa.bindparam("one")).values(last_at=sa.bindparam("now"), expected=sa.null())
)


def file(connection: Connection, row: Mapping[str, Any], *, series_uid: str, priority: int) -> int | None:
    """File the instance of this row, which lacks `series_id`; returns the series, or None if it is not so simple."""
    found = _execute(connection, _SERIES, {"series_uid": series_uid, "priority": priority}).fetchone()
    if found is None:
        return None
    series_id = int(found[0])
    plain = {**row, "series_id": series_id, "facts": json.dumps(row["facts"])}
    if not _execute(connection, _INSTANCE, plain).rowcount:
        return None
    _execute(connection, _ARRIVED, {"one": series_id, "now": row["received_at"]})
    return series_id


def _execute(connection: Connection, statement: Any, values: Mapping[str, Any]) -> Any:
    """The driver's cursor."""
    dialect = _BY_NAME if connection.dialect.name == "sqlite" else connection.dialect
    text, fixed = _compiled(statement, dialect)
    return by_driver(connection, text, {**fixed, **values})


@lru_cache(maxsize=16)
def _compiled(statement: Any, dialect: sa.Dialect) -> tuple[str, Mapping[str, Any]]:
    """The statement as text with named parameters, and the values of those that never change."""
    made = statement.compile(dialect=dialect)
    return str(made), {name: value for name, value in made.params.items() if value is not None}
