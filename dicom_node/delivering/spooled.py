"""What the headers in the spool say: of images as they were received, and of objects as they were made."""

from __future__ import annotations

import errno
import logging
import zlib
from collections.abc import Sequence
from contextlib import suppress
from copy import deepcopy

import pydicom
from pydicom.dataset import Dataset

from dicom_node.errors import StoreUnavailable
from dicom_node.headers.texts import UNREADABLE, read_text
from dicom_node.logs import fields, trace
from dicom_node.report.carried import LOOKED_AT, is_carriable, without_long_values
from dicom_node.report.context import Reference
from dicom_node.store.outbox import MadeObject
from dicom_node.store.series import Instance, Series
from dicom_node.store.spool import Spool

log = logging.getLogger("dicom_node.worker")


class NothingLeft(Exception):
    """No file of a series can be read any longer: the patient of a report is not known."""


def headers(instances: Sequence[Instance], spool: Spool) -> list[Dataset]:
    """The header of every instance; one whose file is gone or damaged gets what its row and another's header say.

    Raises NothingLeft, StoreUnavailable.
    """
    found = [header_of(one, spool) for one in instances]
    like = next((header for header in found if header is not None), None)
    if like is None:
        if not spool.is_there():
            raise StoreUnavailable("the spool cannot be reached: is its disk mounted?")
        raise NothingLeft("every image of it is gone from the spool, or damaged")
    return [_remembered(i, like) if header is None else header for i, header in zip(instances, found, strict=True)]


def header_of(one: Instance, spool: Spool) -> Dataset | None:
    """What reports need; None where the file is gone, or no longer what was filed. Raises StoreUnavailable."""
    try:
        read = pydicom.dcmread(spool.path(one.file), specific_tags=list(LOOKED_AT), stop_before_pixels=True)
        ds = without_long_values(read)
    except FileNotFoundError:
        return None
    except (*UNREADABLE, zlib.error) as exc:
        if isinstance(exc, OSError) and exc.errno == errno.EIO:
            spool.check_disk()
        log.error("header_not_read %s", fields(instance=one.id, error=trace(exc)))
        return None
    if read_text(ds, "SOPInstanceUID") != one.sop_instance_uid:
        log.error("header_not_read %s", fields(instance=one.id, error="the file holds another object"))
        return None
    return ds


def _remembered(instance: Instance, like: Dataset) -> Dataset:
    """A header for an instance whose own cannot be read: patient, study and series are those of `like`."""
    ds = deepcopy(like)
    ds.SOPClassUID, ds.SOPInstanceUID = instance.sop_class_uid, instance.sop_instance_uid
    return ds


def reference(one: Series, made: MadeObject, spool: Spool) -> Reference:
    """How later objects name an object of an earlier run: in its own study, as the study of the series may have been
    corrected since."""
    its = filed_as(made, spool)
    study_uid = None if its is None else read_text(its, "StudyInstanceUID")
    return Reference(study_uid or one.study_uid, made.series_uid, made.sop_class_uid, made.sop_instance_uid)


def filed_as(made: MadeObject, spool: Spool) -> Dataset | None:
    """An object of an earlier run, without pixels; None where it is gone."""
    with suppress(*UNREADABLE):
        return pydicom.dcmread(spool.path(made.file), stop_before_pixels=True)
    return None


def named_by(made: MadeObject, spool: Spool) -> set[str]:
    """SOP Instance UIDs that a Key Object Selection of an earlier run refers to; none if it is gone."""
    its = filed_as(made, spool)
    studies = [] if its is None else its.get("CurrentRequestedProcedureEvidenceSequence") or []
    of_series = [each for study in studies for each in study.ReferencedSeriesSequence]
    return {str(each.ReferencedSOPInstanceUID) for one in of_series for each in one.ReferencedSOPSequence}


def place(ds: Dataset) -> tuple[str, ...]:
    """The study and patient under which a PACS files an image, or what is made of it."""
    texts = ((key, read_text(ds, key) or "") for key in ("StudyInstanceUID", "PatientID"))
    return tuple(text if is_carriable(key, text) else "" for key, text in texts)


def by_place(made: Sequence[MadeObject], header: Dataset, spool: Spool) -> list[tuple[Dataset, list[MadeObject]]]:
    """Objects of earlier runs by where they are filed, each time with a header of that patient and study: `header`, an
    image's, where that is the place, or the object itself is gone.
    """
    found: dict[tuple[str, ...], tuple[Dataset, list[MadeObject]]] = {place(header): (header, [])}
    for each in made:
        its = filed_as(each, spool)
        source = header if its is None else its
        found.setdefault(place(source), (source, []))[1].append(each)
    return [(source, filed) for source, filed in found.values() if filed]


def is_elsewhere(made: MadeObject, header: Dataset, spool: Spool) -> bool:
    """Whether an object of an earlier run is filed under another patient or study than the images now are: whoever
    looks there does not see a newer one."""
    its = filed_as(made, spool)
    return its is not None and place(its) != place(header)
