"""TLS as PS3.15 2024e B.12 has it (BCP 195 RFC 8996, 9325 TLS): TLS 1.2 or newer and nothing older. For the receiver;
what we offer as a client is in `requestor.tls_of`.

Of TLS 1.2 both have the four suites that RFC 9325 4.2 recommends, with ephemeral elliptic-curve keys and AES-GCM, and
the two with ChaCha20-Poly1305; none with finite-field Diffie-Hellman, which is not to be negotiated (4.1), or with CBC,
which clients and servers are to use only with encrypt_then_mac (4.2), on which OpenSSL cannot insist.

Certificates are renewed by replacing the files: they are checked before each handshake, and if a new file cannot be
used, the old one stays in force and the log says so.
"""

from __future__ import annotations

import contextlib
import logging
import ssl
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dicom_node.errors import ConfigError
from dicom_node.logs import fields

log = logging.getLogger("dicom_node.scp")

SUITES = "ECDHE+AESGCM:ECDHE+CHACHA20"  # of TLS 1.2; those of 1.3 are all suitable, and OpenSSL's own choice
SOON_S = 14 * 86400.0  # time enough to have one renewed
_DATES_WRONG = (9, 10)  # X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED
Clients = Literal["required", "optional", "none"]
_DEMANDS = {"required": ssl.CERT_REQUIRED, "optional": ssl.CERT_OPTIONAL, "none": ssl.CERT_NONE}


@dataclass(frozen=True)
class TlsFiles:
    """PEM files, and whether a client must show a certificate that `authority` signed."""

    certificate: Path
    key: Path
    authority: Path | None
    clients: Clients


class ServerTls:
    def __init__(self, files: TlsFiles) -> None:
        """Raises ConfigError where the files cannot be used: a node that starts must be reachable."""
        self._files = files
        self._lock = threading.Lock()
        self._seen = self._look()
        try:
            self._context = _context(files)
        except (OSError, ssl.SSLError) as exc:
            raise ConfigError(f"{_named(files)} cannot be used: {exc}") from exc

    def context(self) -> ssl.SSLContext:
        """The context for the next handshake."""
        with self._lock:
            now = self._look()
            if now != self._seen:
                self._seen = now
                try:
                    self._context = _context(self._files)
                except (OSError, ssl.SSLError) as exc:
                    log.error("tls_files_kept %s", fields(reason=f"{_named(self._files)} cannot be used: {exc}"))
                else:
                    log.info("tls_files_renewed")
            return self._context

    def _look(self) -> tuple[tuple[int, int, int] | None, ...]:
        files = self._files
        return tuple(_identity(path) for path in (files.certificate, files.key, files.authority) if path is not None)


def _context(files: TlsFiles) -> ssl.SSLContext:
    must_be_readable(files.certificate, files.key, files.authority)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(SUITES)
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.num_tickets = 0  # associations are long; resuming would gain nothing
    context.load_cert_chain(files.certificate, files.key, password=_no_password)
    context.verify_mode = _DEMANDS[files.clients]
    if files.authority is not None:
        context.load_verify_locations(files.authority)
    return context


def running_out(certificate: Path, key: Path, *, now: float) -> str | None:
    """A sentence if the certificate has expired, soon will, or is not valid yet; None also where that cannot be told.

    The standard library reads only the dates of a peer's certificate, so we present it to ourselves.
    """
    shows, sees = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        shows.load_cert_chain(certificate, key, password=_no_password)
        sees.check_hostname = False
        sees.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # its authority is not asked
        sees.load_verify_locations(certificate)
        seeing, showing = sees.wrap_bio(back, there), shows.wrap_bio(there, back, server_side=True)
        for end in (seeing, showing, seeing, showing, seeing):  # TLS 1.2 needs all five, 1.3 three
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
        seen = seeing.getpeercert() or {}
    except ssl.SSLCertVerificationError as exc:
        return f"{certificate}: {exc.verify_message}" if exc.verify_code in _DATES_WRONG else None
    except (OSError, ssl.SSLError):
        return None
    left_s = ssl.cert_time_to_seconds(str(seen["notAfter"])) - now
    return f"{certificate}: certificate expires in {left_s / 86400:.0f} days" if left_s < SOON_S else None


def must_be_readable(*files: Path | None) -> None:
    """Raises OSError with the name of the file; OpenSSL's own error has none."""
    for file in files:
        if file is not None:
            file.open("rb").close()


def _no_password() -> str:
    """For an encrypted key OpenSSL would ask at the terminal, and wait."""
    raise ssl.SSLError("the key is encrypted; use one without a pass phrase, readable by the node's user alone")


def _identity(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _named(files: TlsFiles) -> str:
    given = (files.certificate, files.key, files.authority)
    return "the TLS files " + ", ".join(str(path) for path in given if path is not None)
