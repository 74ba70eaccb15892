"""Associations that this node opens, as their requestor (PS3.8 7.1): for C-STORE, C-ECHO, C-FIND, storage commitment.

If one fails, the error names what a person would mend: the address, TLS, the peer's own rejection. What the library
does with an answer on a busy machine is put right here; what it does not report, `calling` picks up.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pynetdicom import _config, build_context, build_role
from pynetdicom.association import Association

from dicom_node.config import Peer
from dicom_node.errors import PeerRefused, PeerUnreachable
from dicom_node.network import calling, tls
from dicom_node.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

_HINTS = {  # by source and reason, PS3.8 9.3.4
    (1, 3): "; allow {calling_aet} there",
    (1, 7): "; see peers.ae_title",
    (3, 2): "; too many associations there, or a full disk: its own log or status says which",
}
_config.LOG_HANDLER_LEVEL = "none"  # the library's own logging quotes data sets


class NoContext(PeerRefused):
    """The peer accepted no presentation context for this SOP class."""


class NoAssociation(PeerRefused):
    """The peer rejects our associations because of its configuration, which may be changed there at any time."""


def named(peer: Peer) -> str:
    """How messages name the peer."""
    return f"{peer.name} ({peer.host}:{peer.port})"


@contextmanager
def association(
    peer: Peer,
    calling_aet: str,
    contexts: Sequence[tuple[str, str]],
    *,
    handlers: Sequence[tuple[Any, ...]] = (),
    as_scp: str | None = None,
) -> Iterator[Association | None]:
    """An established association; None where the peer accepts the association, but none of the proposed contexts.

    `contexts`: abstract and transfer syntax. Raises NoAssociation and PeerUnreachable. The association is released at
    the end of the block, or aborted if the block ends with an exception.

    `handlers`: the library's, for what the peer may ask on it; `as_scp`: an abstract syntax of which we are the SCP
    although we open the association (PS3.7 D.3.3.4).
    """
    heard = calling.Heard()
    opened = _asked_for(peer, calling_aet, heard, contexts, handlers, as_scp)
    if not _has_a_context(peer, calling_aet, heard, opened):
        yield None
        return
    _keep_answers_for_the_sender(opened)
    try:
        yield opened
        opened.release()
    finally:
        if opened.is_alive():
            opened.abort()


def _asked_for(
    peer: Peer,
    calling_aet: str,
    heard: calling.Heard,
    contexts: Sequence[tuple[str, str]],
    handlers: Sequence[tuple[Any, ...]],
    as_scp: str | None,
) -> Association:
    """The association, whatever became of it; `heard` knows. Raises PeerUnreachable."""
    ae = calling.Caller(calling_aet, heard)
    ae.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    ae.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = peer.timeout_s
    try:
        return ae.associate(
            peer.host,
            peer.port,
            contexts=[build_context(*pair) for pair in contexts],
            ae_title=peer.ae_title,
            ext_neg=[] if as_scp is None else [build_role(as_scp, scp_role=True)],
            evt_handlers=[*heard.handlers(), *handlers],
            tls_args=(tls_of(peer), peer.host) if peer.tls else None,
        )
    except OSError as exc:  # the host's name cannot be resolved, now or ever
        raise PeerUnreachable(f"{named(peer)} cannot be reached: {exc.strerror}") from exc


def _has_a_context(peer: Peer, calling_aet: str, heard: calling.Heard, opened: Association) -> bool:
    """Whether the peer, which accepts the association, accepts a context. Raises NoAssociation and PeerUnreachable."""
    if heard.rejection is not None:
        hint = _HINTS.get(heard.rejection[1:], "").format(calling_aet=calling_aet)
        reason = f"{named(peer)} rejected the association: {heard.rejection}{hint}"
        # A permanent rejection is a matter of configuration on either side, a transient one of load (PS3.8 9.3.4).
        raise (NoAssociation if heard.rejection.result == calling.PERMANENT else PeerUnreachable)(reason)
    if heard.is_broken(opened):
        opened.abort()
        raise PeerUnreachable(f"{named(peer)} accepted the association in a form that PS3.8 9.3.3 does not allow")
    if opened.is_established:
        return True
    if opened.rejected_contexts and not opened.accepted_contexts:
        return False
    raise PeerUnreachable(f"{named(peer)} {heard.why_not(peer)}")


def tls_of(peer: Peer) -> ssl.SSLContext:
    """TLS 1.2 or newer, certificate and host name verified: PS3.15 2024e B.12. Raises PeerUnreachable.

    The suites are those of the receiver. A server chooses by its own preference, so that whatever else is offered may
    be taken by one that has better: DCMTK's storescp, for example, prefers DHE with +pz.
    """
    try:
        tls.must_be_readable(peer.tls_ca, peer.tls_certificate, peer.tls_key)
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=peer.tls_ca)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(tls.SUITES)
        if peer.tls_certificate is not None:
            context.load_cert_chain(peer.tls_certificate, peer.tls_key)
    except (OSError, ssl.SSLError) as exc:
        raise PeerUnreachable(f"{named(peer)}: the TLS files configured for it cannot be used: {exc}") from exc
    return context


def _keep_answers_for_the_sender(association: Association) -> None:
    """Make the library's own thread give back an answer that it took by mistake.

    Each association has a thread that looks for the peer's requests. A sender pauses it, but on a busy machine it may
    already be past the point where it pauses, take the answer for a stray message and drop it (seen with pynetdicom
    3.0.4); the sender then waits for its whole timeout although the object was stored.
    """
    serve = association._serve_request

    def serve_or_give_back(message: Any, context_id: int) -> None:
        if message.is_valid_request:
            serve(message, context_id)
        else:
            association.dimse.msg_queue.put((context_id, message))

    association._serve_request = serve_or_give_back
