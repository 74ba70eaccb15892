"""Is the node well, and what should a person look at? A judgement of the counts in `store.overview`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from enum import IntEnum

from dicom_node.store.overview import Overview

LATE_S = 600.0
"""A positive result undelivered, or a live series without a result, for this long is an alarm."""
AWAY_S = 3600.0
"""Any result that has waited for a destination for so long is worth a look: it is no reboot, and may be for good."""
LISTED = 10  # series named in one sentence


class Health(IntEnum):
    """The state of the node as a whole; the values are the exit statuses that monitoring systems know."""

    GOOD = 0
    WARNING = 1
    CRITICAL = 2


def health(
    found: Overview, *, no_room: str | None, destinations: Collection[str], silent_s: float = 0.0
) -> tuple[Health, list[str]]:
    """How it is, and what a person should look at.

    `no_room`: why nothing can be stored, if so; `destinations`: names of the configured ones; `silent_s`: how long no
    image need arrive, 0 where that is not checked.
    """
    critical = list(_critical(found, no_room))
    warnings = [*_silence(found.last_image_s, silent_s), *_left_to_do(found, destinations)]
    level = Health.CRITICAL if critical else Health.WARNING if warnings else Health.GOOD
    return level, critical + warnings


def _critical(found: Overview, no_room: str | None) -> Iterator[str]:
    if found.serving_since is None:
        unable = ", which it cannot while the disk is full or gone" if no_room is not None else ""
        yield f"no dicom-node serve shows a sign of life{unable}"
    if (found.oldest_undelivered_positive_s or 0.0) > LATE_S:
        yield (
            f"a positive result has been undelivered for {found.oldest_undelivered_positive_s:.0f} s; "
            f"see dicom-node show {found.oldest_undelivered_positive}; "
            f"dicom-node retry {found.oldest_undelivered_positive} tries at once"
        )
    if (found.oldest_live_s or 0.0) > LATE_S:
        yield (
            f"live series {found.longest_waiting_live} has waited {found.oldest_live_s:.0f} s for its result; "
            "does the worker start? See the log"
        )
    if no_room is not None:
        yield f"nothing can be received: {no_room}"


def _silence(last_image_s: float | None, silent_s: float) -> Iterator[str]:
    if not silent_s:
        return
    if last_image_s is None:
        yield "no image is stored: can any sender reach this node?"
    elif last_image_s > silent_s:
        yield f"no new image has come for {last_image_s / 3600.0:.1f} h: can the senders reach this node?"


def _left_to_do(found: Overview, destinations: Collection[str]) -> Iterator[str]:
    if found.failed_deliveries:
        yield (
            f"{found.failed_deliveries} deliveries were refused for good, of series {_listed(found.refused_series)}; "
            "show says why; then retry one, or retry --refused"
        )
    if found.failed_lately:
        yield (
            f"{len(found.failed_lately)} series failed within the last day: {_listed(found.failed_lately)}; "
            "show says why; then retry"
        )
    if found.left_behind:
        yield (
            f"a result of series {_listed(found.left_behind)} was sent under another patient or study than its images "
            "now have: show says where; make sure that it is removed there"
        )
    for name, waited_s in found.waiting_for_s.items():
        if waited_s > AWAY_S and name in destinations:
            yield (
                f"results have waited for {name} for {waited_s / 3600.0:.1f} h: can it be reached? See dicom-node echo "
                f"{name}, and delivery_waits in the log"
            )
    for name, count in found.owed.items():
        if name not in destinations:
            yield (
                f"{count} deliveries are owed to {name}, which is not a destination in the configuration: add it there "
                f"again or, if it is gone for good, dicom-node cancel {name}"
            )


def _listed(numbers: Sequence[int]) -> str:
    more = f" and {len(numbers) - LISTED} more" if len(numbers) > LISTED else ""
    return ", ".join(map(str, numbers[:LISTED])) + more
