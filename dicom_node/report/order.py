"""The imaging order behind the images, as far as they name it, in the two forms that objects use.

SR documents and key objects have a Referenced Request Sequence (PS3.3 table C.17-2), images and encapsulated documents
a Request Attributes Sequence (table 10-9). Both are returned as a dataset with that one attribute, empty where there is
nothing to say.
"""

from __future__ import annotations

from pydicom.dataset import Dataset

from dicom_node import uids
from dicom_node.headers.texts import read_text
from dicom_node.report import carried
from dicom_node.report.codes import Concept
from dicom_node.report.provenance import code_item

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
    request = _request(source, filed)
    if request is not None:
        found.ReferencedRequestSequence = [request]
    return found


def of_image(source: Dataset, filed: Dataset) -> Dataset:
    """The same for a picture or PDF; empty without a procedure ID, as the item would then say less than the study."""
    found = Dataset()
    request = _request(source, filed)
    if request is not None and request.RequestedProcedureID:
        item = Dataset()
        for keyword in _OF_IMAGES:
            if request.get(keyword):
                item.add(request[keyword])
        found.RequestAttributesSequence = [item]
    return found


def _request(source: Dataset, filed: Dataset) -> Dataset | None:
    order: Dataset = next(iter(carried.items(source, "RequestAttributesSequence")), Dataset())
    texts = {}
    for keyword in _TEXTS:
        said = (read_text(place, keyword) for place in (order, source))
        texts[keyword] = next((t for t in said if t and carried.is_carriable(keyword, t)), "")
    accession = filed.get("AccessionNumber")
    if not accession and not any(texts.values()):
        return None
    request = Dataset()
    request.StudyInstanceUID = filed.StudyInstanceUID
    request.ReferencedStudySequence = _studies(order) or _studies(source)
    asked = "RequestedProcedureCodeSequence"
    triples = carried.procedure_codes(order, asked) or carried.procedure_codes(source, asked)
    request.RequestedProcedureCodeSequence = [code_item(Concept(*triple, source="the images")) for triple in triples]
    carried.put(request, "AccessionNumber", str(accession or ""))
    for keyword, text in texts.items():
        carried.put(request, keyword, text)
    if "IssuerOfAccessionNumberSequence" in filed:
        request.IssuerOfAccessionNumberSequence = filed.IssuerOfAccessionNumberSequence
    return request


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
