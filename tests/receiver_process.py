"""A receiver in a process of its own, plain and over TLS, for tests that look at it from outside.

    python tests/receiver_process.py own|pynetdicom [CERTIFICATE KEY]

Prints its ports, acknowledges everything, and ends with its standard input.
"""

from __future__ import annotations

import sys
from pathlib import Path

import receiving
from receiving import receiver

from dicom_node.network.tls import TlsFiles
from dicom_node.status import StoreStatus


def main() -> None:
    receiving.OWN_LOOP = sys.argv[1] == "own"
    rules = {"max_associations": 64, "max_per_address": 64, "request_s": 2.0}
    plain = receiver(lambda _: StoreStatus.SUCCESS, **rules)
    ports = [plain.start()]
    if sys.argv[2:]:
        certificate, key = map(Path, sys.argv[2:4])
        files = TlsFiles(certificate, key, authority=None, clients="none")
        ports.append(receiver(lambda _: StoreStatus.SUCCESS, tls=files, **rules).start())
    sys.stdout.write(" ".join(map(str, ports)) + "\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main()
