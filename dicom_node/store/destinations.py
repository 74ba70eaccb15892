"""What is known about destinations: the SR class that each takes."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import Connection

from dicom_node.store.database import insert_for
from dicom_node.store.tables import destinations

SR_CLASS_LASTS_S = 30 * 86400.0


def sr_class_of(connection: Connection, destination: str, *, now: float) -> str | None:
    """The SR class this destination has taken; forgotten after a while, as it may have learned a better one."""
    lasting = sa.and_(destinations.c.noted_at <= now, destinations.c.noted_at > now - SR_CLASS_LASTS_S)
    query = sa.select(destinations.c.sr_class_uid).where(destinations.c.name == destination, lasting)
    found = connection.scalar(query)
    return None if found is None else str(found)


def remember_sr_class(connection: Connection, destination: str, sr_class_uid: str, *, now: float) -> None:
    if sr_class_of(connection, destination, now=now) == sr_class_uid:
        return  # keeps the time of its first acceptance, so that a better class is offered again one day
    values = {"sr_class_uid": sr_class_uid, "noted_at": now}
    insert = insert_for(connection)(destinations).values(name=destination, **values)
    connection.execute(insert.on_conflict_do_update(index_elements=["name"], set_=values))
