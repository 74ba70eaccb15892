"""The answer to an association request, as bytes; pynetdicom works it out. Source: PS3.8 9.3.3, PS3.7 D.3.3."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pynetdicom._globals import APPLICATION_CONTEXT_NAME
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
    MaximumLengthNotification,
    SCP_SCU_RoleSelectionNegotiation,
)
from pynetdicom.presentation import PresentationContext, negotiate_as_acceptor

from dicom_node.network.upperlayer import MAX_PDU, BadPdu, rejection
from dicom_node.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

_PROTOCOL_VERSION = 1


@dataclass(frozen=True)
class Negotiated:
    answer: bytes
    """A-ASSOCIATE-AC, or -RJ where `contexts` is None."""
    contexts: dict[int, tuple[str, str]] | None
    """Accepted presentation context -> its abstract and transfer syntax."""
    longest: int
    """What the peer takes in one P-DATA (Maximum Length Received); 0 means unlimited."""


def negotiate(first: bytes, supported: Sequence[PresentationContext]) -> Negotiated:
    """`first`: the A-ASSOCIATE-RQ. Raises BadPdu where the library cannot decode it."""
    try:
        pdu = A_ASSOCIATE_RQ()
        pdu.decode(first)
        if not pdu.protocol_version & _PROTOCOL_VERSION:
            return Negotiated(rejection(1, 2, 2), None, 0)
        asked = pdu.to_primitive()
        roles, longest = {}, 0
        for given in asked.user_information:
            if isinstance(given, SCP_SCU_RoleSelectionNegotiation):
                roles[given.sop_class_uid] = (given.scu_role, given.scp_role)
            elif isinstance(given, MaximumLengthNotification):
                longest = int(given.maximum_length_received)
        results, replies = negotiate_as_acceptor(asked.presentation_context_definition_list, supported, roles)
        return Negotiated(_accepted(asked, results, replies), _usable(results), longest)
    except Exception as exc:  # the library promises no class of exception for what is broken
        raise BadPdu("an association request that cannot be decoded") from exc


def _usable(results: Sequence[PresentationContext]) -> dict[int, tuple[str, str]]:
    return {int(c.context_id): (str(c.abstract_syntax), str(c.transfer_syntax[0])) for c in results if c.result == 0}


def _accepted(
    asked: A_ASSOCIATE, results: Sequence[PresentationContext], replies: Sequence[SCP_SCU_RoleSelectionNegotiation]
) -> bytes:
    answer = A_ASSOCIATE()
    answer.application_context_name = APPLICATION_CONTEXT_NAME
    answer.calling_ae_title, answer.called_ae_title = asked.calling_ae_title, asked.called_ae_title
    answer.result, answer.result_source = 0, 1
    answer.presentation_context_definition_results_list = list(results)
    length, implementation = MaximumLengthNotification(), ImplementationClassUIDNotification()
    version = ImplementationVersionNameNotification()
    length.maximum_length_received = MAX_PDU
    implementation.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    version.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    answer.user_information = [length, implementation, version, *replies]
    return bytes(A_ASSOCIATE_AC(answer).encode())
