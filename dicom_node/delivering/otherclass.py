"""The report in another SR class, for a destination that takes no Comprehensive 3D SR: an object of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from pydicom.dataset import Dataset

from dicom_node import uids
from dicom_node.delivering.built import Built
from dicom_node.report import readback, sr
from dicom_node.report.context import Reference
from dicom_node.report.provenance import to_bytes
from dicom_node.store.outbox import MadeObject
from dicom_node.store.tables import ObjectKind


def first_built(made: Iterable[MadeObject]) -> MadeObject | None:
    """Of objects of a run, in the order in which they were made, the report that was built first."""
    return next((each for each in made if each.kind is ObjectKind.REPORT), None)


def in_other_class(original: Dataset, sop_class_uid: str, there: Mapping[str, Sequence[MadeObject]]) -> Built:
    """The report `original`, as first built, in another SR class, for destinations that take no other.

    `there`: what the destination has in place of each report that `original` replaces, by UID: it may have been given
    that one in this class, in the first, or not at all. Its UIDs are derived from the original's and from those that it
    names, so that destinations which have the same get the same.
    """
    named = [each for one in readback.predecessors(original) for each in _as_it_is_there(one, there)]
    names = (str(original.SOPInstanceUID), sop_class_uid, *(each.sop_instance_uid for each in named))
    instance_uid, series_uid = uids.derived(*names, "instance"), uids.derived(*names, "series")
    ds = sr.as_sop_class(original, sop_class_uid, instance_uid, series_uid, named)
    return Built(ObjectKind.REPORT, sop_class_uid, instance_uid, series_uid, to_bytes(ds))


def _as_it_is_there(named: Reference, there: Mapping[str, Sequence[MadeObject]]) -> list[Reference]:
    """Where the destination has none, it is named as other destinations have it."""
    return [
        replace(
            named,
            series_instance_uid=each.series_uid,
            sop_class_uid=each.sop_class_uid,
            sop_instance_uid=each.sop_instance_uid,
        )
        for each in there.get(named.sop_instance_uid, ())
    ] or [named]
