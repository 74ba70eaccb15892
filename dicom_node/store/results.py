"""What a model said about each slice, by instance, frame, model and preprocessing; written early, read at the end.

Nothing here needs a lease: two workers that classify the same slice write the same row, and the second changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from dicom_node.store.database import insert_for
from dicom_node.store.series import Instance, columns_of_instance, instance_from
from dicom_node.store.tables import SeriesState, instances, series, slice_results


@dataclass(frozen=True)
class Version:
    """What a result depends on besides the slice."""

    model_digest: str
    preprocessing: str


@dataclass(frozen=True)
class SliceResult:
    """One slice as read, and as the model saw it; `presence` and `location` are None where it was left out."""

    instance_id: int
    frame: int
    """1-based frame of a multi-frame image, 0 for a single-frame one."""
    instance_number: int | None
    position_mm: float | None
    thickness_mm: float | None
    content: dict[str, Any] | None
    """`dtvit.brain.selection.SliceContent` as a mapping; None where the slice could not be read."""
    left_out: str | None = None
    presence: float | None = None
    location: tuple[float, float, float] | None = None
    parts: tuple[int, ...] | None = None
    """Parts of the head mask, where the neighbouring slices decided them; None where the slice alone did."""
    normal: tuple[float, float, float] | None = None
    """Unit normal of the slice, towards the head; None without orientation."""
    doubts: tuple[str, ...] = ()
    """Doubts about the brace removal, in words."""
    averaged: int = 1
    """Of how many slices the model saw the mean: `dtvit.slabs`."""
    slab: tuple[tuple[int, int], ...] = ()
    """Instance and frame of the slices of that slab, itself among them; none where it was seen alone."""


def keep(connection: Connection, found: Iterable[SliceResult], version: Version, *, now: float) -> None:
    rows = [_row(result, version, now) for result in found]
    named = sa.select(instances.c.id).where(instances.c.id.in_({row["instance_id"] for row in rows}))
    there = set(connection.scalars(named.with_for_update(read=True, key_share=True)))
    rows = [row for row in rows if row["instance_id"] in there]  # a patient may have been forgotten meanwhile
    if rows:
        connection.execute(insert_for(connection)(slice_results).on_conflict_do_nothing(index_elements=_KEY), rows)


def replace(connection: Connection, found: Iterable[SliceResult], version: Version, *, now: float) -> None:
    """Keep these in place of what was found before the series was complete."""
    for result in found:
        row = _row(result, version, now)
        same = sa.and_(*(slice_results.c[name] == row[name] for name in _KEY))
        connection.execute(slice_results.update().where(same).values(row))


def _row(result: SliceResult, version: Version, now: float) -> dict[str, Any]:
    deep, lobar, subtentorial = result.location or (None, None, None)
    return {
        "instance_id": result.instance_id,
        "frame": result.frame,
        "model_digest": version.model_digest,
        "preprocessing": version.preprocessing,
        "left_out": result.left_out,
        "content": {name: getattr(result, name) for name in _CONTENT},
        "presence": result.presence,
        "deep": deep,
        "lobar": lobar,
        "subtentorial": subtentorial,
        "created_at": now,
    }


_KEY = ["instance_id", "frame", "model_digest", "preprocessing"]
_CONTENT = (
    "instance_number",
    "position_mm",
    "thickness_mm",
    "content",
    "parts",
    "normal",
    "doubts",
    "averaged",
    "slab",
)


def of_series(connection: Connection, series_id: int, version: Version) -> list[SliceResult]:
    """Results of the series' current instances under this version, in no particular order."""
    query = (
        sa.select(slice_results)
        .join(instances)
        .where(
            instances.c.series_id == series_id,
            instances.c.current.is_(True),
            slice_results.c.model_digest == version.model_digest,
            slice_results.c.preprocessing == version.preprocessing,
        )
    )
    return [_result(row) for row in connection.execute(query)]


def state_of(connection: Connection, series_id: int, version: Version) -> tuple[int, int, float]:
    """What changes with the series' current instances and their results: how many there are of each under this version,
    and when the newest result was made."""
    of_version = sa.and_(
        slice_results.c.instance_id == instances.c.id,
        slice_results.c.model_digest == version.model_digest,
        slice_results.c.preprocessing == version.preprocessing,
    )
    found = sa.func.count(instances.c.id.distinct()), sa.func.count(slice_results.c.id)
    query = (
        sa.select(*found, sa.func.max(slice_results.c.created_at))
        .select_from(instances.outerjoin(slice_results, of_version))
        .where(instances.c.series_id == series_id, instances.c.current.is_(True))
    )
    here, with_result, at = connection.execute(query).one()
    return int(here), int(with_result), at or 0.0


def unread(
    connection: Connection,
    version: Version,
    *,
    limit: int,
    series_id: int | None = None,
    at_most: int | None = None,
    begun: bool = True,
) -> list[Instance]:
    """Current instances to classify that have no result yet: of one series, or of all still arriving.

    The more urgent come first, then the oldest; `at_most`: none of a series less urgent than this (a larger number);
    `begun`: also those that a process began to read.
    """
    done = sa.exists().where(
        slice_results.c.instance_id == instances.c.id,
        slice_results.c.model_digest == version.model_digest,
        slice_results.c.preprocessing == version.preprocessing,
    )
    query = (
        sa.select(*columns_of_instance())
        .join(series)
        .where(instances.c.current.is_(True), instances.c.ruled_out.is_(None), ~done)
        .order_by(series.c.priority, instances.c.id)
        .limit(limit)
    )
    if not begun:
        query = query.where(instances.c.tries == 0)
    if series_id is None:
        query = query.where(series.c.state == SeriesState.RECEIVING)
        if at_most is not None:
            query = query.where(series.c.priority <= at_most)
    else:
        query = query.where(instances.c.series_id == series_id)
    return [instance_from(row) for row in connection.execute(query)]


def _result(row: sa.Row[Any]) -> SliceResult:
    location = None if row.deep is None else (row.deep, row.lobar, row.subtentorial)
    content = dict(row.content)
    parts, normal, doubts = (content.pop(name, None) for name in ("parts", "normal", "doubts"))
    return SliceResult(
        row.instance_id,
        row.frame,
        left_out=row.left_out,
        presence=row.presence,
        location=location,
        parts=None if parts is None else tuple(parts),
        normal=None if normal is None else (normal[0], normal[1], normal[2]),
        doubts=tuple(doubts or ()),
        averaged=content.pop("averaged", 1),
        slab=tuple((instance_id, frame) for instance_id, frame in content.pop("slab", ())),
        **content,
    )
