"""The imaging orders behind the images, as far as they name them, in the two forms that objects use.

SR documents and key objects have a Referenced Request Sequence (PS3.3 table C.17-2), images and encapsulated documents
a Request Attributes Sequence (table 10-9). Both are returned as a dataset with that one attribute, empty where there is
nothing to say.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydicom.dataset import Dataset

from dicom_node import uids
from dicom_node.headers.texts import read_text
from dicom_node.report import carried
from dicom_node.report.codes import Concept
from dicom_node.report.provenance import code_item

MOST_ITEMS = 64  # of the sequence: thousands, which an object may have, would hold up the worker
_TEXTS = (
    "PlacerOrderNumberImagingServiceRequest",
    "FillerOrderNumberImagingServiceRequest",
    "RequestedProcedureID",
    "RequestedProcedureDescription",
)
_OF_IMAGES = (
    *("StudyInstanceUID", "AccessionNumber", "IssuerOfAccessionNumberSequence", "ReferencedStudySequence"),
    *("RequestedProcedureID", "RequestedProcedureDescription", "RequestedProcedureCodeSequence"),
)


def of_document(source: Dataset, filed: Dataset) -> Dataset:
    """`source`: header of an image; `filed`: what `carried.patient_and_study` made from it."""
    found = Dataset()
    requests = _requests(source, filed)
    if requests:
        found.ReferencedRequestSequence = requests
    return found


def of_image(source: Dataset, filed: Dataset) -> Dataset:
    """The same for a picture or PDF, without what has no procedure ID: it would say less than the study."""
    found = Dataset()
    requests = [request for request in _requests(source, filed) if request.RequestedProcedureID]
    if requests:
        found.RequestAttributesSequence = [_as_of_image(request) for request in requests]
    return found


def _as_of_image(request: Dataset) -> Dataset:
    item = Dataset()
    for keyword in _OF_IMAGES:
        if request.get(keyword):
            item.add(request[keyword])
    return item


def _requests(source: Dataset, filed: Dataset) -> list[Dataset]:
    """One for each procedure that was asked for: head and neck may be scanned at once, each under its own order."""
    orders = _orders(source)
    beside = (source,) if len(orders) < 2 else ()  # of several orders, it is not known which the image itself speaks of
    studies = _studies(source)
    found: list[Dataset] = []
    for order in orders or [Dataset()]:
        request = _request((order, *beside), studies, filed)
        if request is not None and request not in found:
            found.append(request)
    return found


def _orders(source: Dataset) -> list[Dataset]:
    """Items that say the same, steps of one procedure, are one order."""
    found: dict[tuple[str | None, ...], Dataset] = {}
    for item in carried.items(source, "RequestAttributesSequence")[:MOST_ITEMS]:
        found.setdefault(tuple(read_text(item, keyword) for keyword in ("AccessionNumber", *_TEXTS)), item)
    return list(found.values())


def _request(places: Sequence[Dataset], studies: list[Dataset], filed: Dataset) -> Dataset | None:
    """`places`: where it is told, the order itself first. `studies`: which the image says that it belongs to."""
    texts = {keyword: _text(keyword, *places) for keyword in _TEXTS}
    own = _text("AccessionNumber", places[0])
    accession = own or str(filed.get("AccessionNumber") or "")
    if not accession and not any(texts.values()):
        return None
    request = Dataset()
    request.StudyInstanceUID = filed.StudyInstanceUID
    request.ReferencedStudySequence = _studies(places[0]) or studies
    asked = (carried.procedure_codes(place, "RequestedProcedureCodeSequence") for place in places)
    triples = next(filter(None, asked), [])
    request.RequestedProcedureCodeSequence = [code_item(Concept(*triple, source="the images")) for triple in triples]
    carried.put(request, "AccessionNumber", accession)
    for keyword, text in texts.items():
        carried.put(request, keyword, text)
    issuers = carried.issuers(places[0], "IssuerOfAccessionNumberSequence") if own else []
    if not issuers and accession == filed.get("AccessionNumber"):
        issuers = filed.get("IssuerOfAccessionNumberSequence") or []
    if issuers:
        request.IssuerOfAccessionNumberSequence = issuers
    return request


def _text(keyword: str, *places: Dataset) -> str:
    """What the first of them says that can be carried."""
    said = (read_text(place, keyword) for place in places)
    return next((text for text in said if text and carried.is_carriable(keyword, text)), "")


def _studies(source: Dataset) -> list[Dataset]:
    """Referenced Study Sequence with only its two UIDs, by which a RIS may know the order."""
    found = []
    for item in carried.items(source, "ReferencedStudySequence"):
        keywords = ("ReferencedSOPClassUID", "ReferencedSOPInstanceUID")
        sop_class, instance = (read_text(item, keyword) or "" for keyword in keywords)
        if uids.is_valid(sop_class) and uids.is_valid(instance):
            reference = Dataset()
            reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = sop_class, instance
            found.append(reference)
    return found
