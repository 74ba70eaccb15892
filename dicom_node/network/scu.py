"""The sender's side of DIMSE: C-STORE, C-FIND and C-ECHO as SCU (PS3.7 9.1.1, 9.1.2, 9.1.5).

A file goes out byte for byte where the peer takes its transfer syntax; only where it does not, and the object is
uncompressed, is it encoded anew, as any peer may ask for Implicit VR Little Endian (PS3.5 10.1).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset
from pynetdicom import _config
from pynetdicom.association import Association
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind  # type: ignore[attr-defined]

from dicom_node.config import Peer
from dicom_node.errors import PeerError, PeerRefused, PeerUnreachable
from dicom_node.network import requestor, syntaxes
from dicom_node.network.requestor import NoContext, named
from dicom_node.status import PENDING, StoreStatus, in_words, is_stored, is_temporary

_config.STORE_SEND_CHUNKED_DATASET = True  # files are sent as they are, not read into memory
_MESSAGE_IDS = 65535  # PS3.7 9.3.1.1: unsigned, of 16 bits
_MOST_DIGITS = 9  # in a number of images; anything longer is not one, and too large for a database integer
_MOST_ANSWERS = 1000  # to a C-FIND for one series
_MAX_CONTEXTS = 128  # PS3.8 9.3.2.2: context IDs are odd and below 256


@dataclass(frozen=True)
class Outgoing:
    """A Part 10 file to be stored at a peer."""

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str


@dataclass(frozen=True)
class Sent:
    """What a peer answered for one object: stored (`error` is None, `status` Success or a warning), or why not."""

    item: Outgoing
    status: int | None
    error: PeerError | None = None


class AssociationBroken(PeerUnreachable):
    """The association ended while `item` was under way."""

    def __init__(self, reason: str, item: Outgoing) -> None:
        super().__init__(reason)
        self.item = item


def outgoing(path: Path) -> Outgoing:
    """Read what negotiation needs from a Part 10 file. Raises pydicom's InvalidDicomError if it is not one."""
    meta = pydicom.dcmread(path, specific_tags=["SOPClassUID", "SOPInstanceUID"], stop_before_pixels=True)
    return Outgoing(
        path,
        str(meta.file_meta.MediaStorageSOPClassUID),
        str(meta.file_meta.MediaStorageSOPInstanceUID),
        str(meta.file_meta.TransferSyntaxUID),
    )


def echo(peer: Peer, calling_aet: str) -> float:
    """C-ECHO; returns the seconds it took, association included. Raises PeerError."""
    begun = time.monotonic()
    with requestor.association(
        peer, calling_aet, [(syntaxes.VERIFICATION, str(pydicom.uid.ImplicitVRLittleEndian))]
    ) as open_:
        if open_ is None:
            raise NoContext(f"{named(peer)} does not accept Verification, which every peer must")
        status = open_.send_c_echo()
        if "Status" not in status:
            raise PeerUnreachable(f"{named(peer)} did not answer C-ECHO")
        if status.Status != StoreStatus.SUCCESS:
            raise PeerRefused(f"{named(peer)} answered C-ECHO with status {status.Status:04X}", status.Status)
    return time.monotonic() - begun


def count_instances(peer: Peer, calling_aet: str, study_uid: str, series_uid: str) -> int | None:
    """Number of Series Related Instances (C-FIND, Study Root, PS3.4 C.6.2); None if the peer does not say.

    Raises PeerError.
    """
    query = Dataset()
    query.QueryRetrieveLevel = "SERIES"
    query.StudyInstanceUID, query.SeriesInstanceUID = study_uid, series_uid
    query.NumberOfSeriesRelatedInstances = None
    model = StudyRootQueryRetrieveInformationModelFind
    contexts = [(str(model), str(uid)) for uid in syntaxes.UNCOMPRESSED[:2]]
    with requestor.association(peer, calling_aet, contexts) as open_:
        if open_ is None:
            raise NoContext(f"{named(peer)} accepts no C-FIND (Study Root Query/Retrieve Information Model)")
        found = None
        for answers, (status, answer) in enumerate(open_.send_c_find(query, model)):
            if "Status" not in status:
                raise PeerUnreachable(f"{named(peer)} did not answer C-FIND")
            if answers >= _MOST_ANSWERS:
                raise PeerUnreachable(f"{named(peer)} answers C-FIND without end")
            if status.Status in PENDING and answer is not None:
                if answer.get("SeriesInstanceUID", series_uid) == series_uid:  # some tell of the whole study
                    found = answer.get("NumberOfSeriesRelatedInstances", found)
            elif status.Status != StoreStatus.SUCCESS and status.Status not in PENDING:
                raise PeerRefused(f"{named(peer)} answered C-FIND with status {status.Status:04X}", status.Status)
    told = str(found)
    return int(told) or None if told.isdecimal() and len(told) <= _MOST_DIGITS else None


def send(
    peer: Peer,
    calling_aet: str,
    items: Sequence[Outgoing],
    *,
    still: Callable[[Outgoing], bool] = lambda _: True,
) -> Iterator[Sent]:
    """Store the items, over as few associations as negotiation allows; yields one answer per item, in order.

    `still`: whether an item is still to be sent, asked just before it goes out; nothing is yielded for one that is not.
    Raises AssociationBroken where the peer left in the middle of an item (those after it were not tried), and
    PeerUnreachable or NoAssociation where no association is established. Items not yielded by then were not answered.
    """
    for batch in _batches(items):
        contexts = sorted({pair for item in batch for pair in _contexts_for(item)})
        with requestor.association(peer, calling_aet, contexts) as open_:
            if open_ is None:
                yield from (Sent(item, None, _no_context(peer, item)) for item in batch)
                continue
            answered = _numbers_answered(open_)
            for index, item in enumerate(batch):
                sent = _send_one(open_, peer, item, still, index % _MESSAGE_IDS + 1, answered)
                if sent is not None:
                    yield sent


def _no_context(peer: Peer, item: Outgoing) -> NoContext:
    return NoContext(
        f"{named(peer)} accepted no presentation context for {pydicom.uid.UID(item.sop_class_uid).name}; "
        f"enable {item.sop_class_uid} there, then retry"
    )


def _numbers_answered(association: Association) -> list[int | None]:
    """Holds the number of the message that the last answer refers to, which the library does not check."""
    take, answered = association.dimse.get_msg, list[int | None]()

    def take_and_note(block: bool = False) -> Any:
        context_id, message = take(block)
        if block:  # as the sender calls it; the library's own thread looks without waiting
            answered[:] = [getattr(message, "MessageIDBeingRespondedTo", None)]
        return context_id, message

    association.dimse.get_msg = take_and_note
    return answered


def _send_one(
    association: Association,
    peer: Peer,
    item: Outgoing,
    still: Callable[[Outgoing], bool],
    message_id: int,
    answered: list[int | None],
) -> Sent | None:
    taken = {
        str(context.transfer_syntax[0])
        for context in association.accepted_contexts
        if context.abstract_syntax == item.sop_class_uid
    }
    if not taken:
        return Sent(item, None, _no_context(peer, item))
    as_it_is = item.transfer_syntax_uid in taken
    if not association.is_established:
        raise AssociationBroken(f"{named(peer)} ended the association", item)
    if not still(item):
        return None
    begun = time.monotonic()
    try:
        answer = association.send_c_store(item.path if as_it_is else pydicom.dcmread(item.path), message_id)
    except FileNotFoundError:
        return Sent(item, None, PeerRefused("the stored object is gone; nothing was sent"))
    except ValueError:  # its text may quote values of the object
        return Sent(item, None, PeerRefused(f"{named(peer)} takes {item.sop_class_uid} in no transfer syntax we have"))
    except RuntimeError as exc:
        raise AssociationBroken(f"{named(peer)} ended the association", item) from exc
    if "Status" not in answer:
        in_time = time.monotonic() - begun < peer.timeout_s
        how = "left, or sent no valid response" if in_time else f"gave no answer for {peer.timeout_s:g} seconds"
        raise AssociationBroken(f"{named(peer)} {how} in the middle of C-STORE", item)
    if answered != [message_id]:  # an answer to another object must not make this one count as stored
        raise AssociationBroken(f"{named(peer)} answered C-STORE {message_id} with another message number", item)
    status = int(answer.Status)
    if is_stored(status):
        return Sent(item, status)
    kind = PeerUnreachable if is_temporary(status) else PeerRefused
    return Sent(item, status, kind(f"{named(peer)} answered C-STORE with status {in_words(status)}", status))


def _contexts_for(item: Outgoing) -> list[tuple[str, str]]:
    """Presentation contexts to propose: the file's own syntax, and those it can be encoded in without loss."""
    own = item.transfer_syntax_uid
    others = [str(uid) for uid in syntaxes.UNCOMPRESSED[:2]] if own in map(str, syntaxes.UNCOMPRESSED) else []
    return [(item.sop_class_uid, uid) for uid in dict.fromkeys([own, *others])]


def _batches(items: Sequence[Outgoing]) -> Iterator[list[Outgoing]]:
    batch: list[Outgoing] = []
    contexts: set[tuple[str, str]] = set()
    for item in items:
        needed = set(_contexts_for(item))
        if batch and len(contexts | needed) > _MAX_CONTEXTS:
            yield batch
            batch, contexts = [], set()
        batch.append(item)
        contexts |= needed
    if batch:
        yield batch
