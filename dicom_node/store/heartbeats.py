"""Signs of life of `serve`: a row that it renews, so that a command elsewhere can tell whether any is running."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import Connection

from dicom_node.store.database import insert_for
from dicom_node.store.tables import heartbeats

EVERY_S = 10.0
DEAD_AFTER_S = 45.0  # four missed: a disk that is slow to sync must not look like a death
FORGOTTEN_AFTER_S = 86400.0


@dataclass(frozen=True)
class Alive:
    owner: str
    started_at: float
    at: float


def beat(connection: Connection, owner: str, *, started_at: float, now: float) -> None:
    values = {"started_at": started_at, "at": now}
    insert = insert_for(connection)(heartbeats).values(owner=owner, **values)
    connection.execute(insert.on_conflict_do_update(index_elements=["owner"], set_=values))
    connection.execute(heartbeats.delete().where(heartbeats.c.at < now - FORGOTTEN_AFTER_S))


def end(connection: Connection, owner: str | None = None) -> None:
    """That `serve` has ended cleanly; without a name: all earlier ones, where there is never more than one."""
    gone = sa.true() if owner is None else heartbeats.c.owner == owner
    connection.execute(heartbeats.delete().where(gone))


def alive(connection: Connection, *, now: float) -> list[Alive]:
    """Those that showed a sign lately; the clock may have been set back a little since."""
    lately = heartbeats.c.at.between(now - DEAD_AFTER_S, now + DEAD_AFTER_S)
    rows = connection.execute(sa.select(heartbeats).where(lately).order_by(heartbeats.c.started_at))
    return [Alive(**row._asdict()) for row in rows]
