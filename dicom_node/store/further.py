"""One more image of a series that is being received, as nearly every arrival is, in two statements.

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
_ROW = [column for column in instances.columns if column.name not in ("id", "series_id", "committed_at")]
_earlier = instances.alias()
_UID = sa.bindparam("sop_instance_uid", type_=instances.c.sop_instance_uid.type)

# The row of the series is locked: what arrives for it at the same time over another association waits (PostgreSQL).
_INSTANCE = instances.insert().from_select(
    ["series_id", *(column.name for column in _ROW)],
    sa.select(series.c.id, *(sa.bindparam(column.name, type_=column.type) for column in _ROW))
    .where(series.c.series_uid == sa.bindparam("series_uid"), series.c.state == SeriesState.RECEIVING.value)
    .where(series.c.priority <= sa.bindparam("priority"))
    .where(
        ~sa.exists().where(_earlier.c.sop_instance_uid == _UID), ~sa.exists().where(objects.c.sop_instance_uid == _UID)
    )
    .with_for_update(of=series),
)
_ARRIVED = (
    series.update()
    .where(series.c.series_uid == sa.bindparam("one"))
    .values(last_at=sa.bindparam("now"), expected=sa.null())
)


def file(connection: Connection, row: Mapping[str, Any], *, series_uid: str, priority: int) -> bool:
    """File the instance of this row, which lacks `series_id`; False if it is not so simple."""
    plain = {**row, "facts": json.dumps(row["facts"]), "series_uid": series_uid, "priority": priority}
    if not _execute(connection, _INSTANCE, plain).rowcount:
        return False
    _execute(connection, _ARRIVED, {"one": series_uid, "now": row["received_at"]})
    return True


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
