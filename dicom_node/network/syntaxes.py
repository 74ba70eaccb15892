"""What this node negotiates: storage classes and transfer syntaxes. Source: PS3.4 annex B, PS3.5 annex A.

Deflated syntaxes, which the library would offer by default, are offered for nothing: a few hundred kilobytes can unpack
into as many megabytes. A scanner's private classes, such as raw data, count as storage: a PACS that routes whole
studies would otherwise send them again for ever.
"""

from __future__ import annotations

from pydicom import uid
from pynetdicom import sop_class
from pynetdicom.presentation import AllStoragePresentationContexts

from dicom_node import uids

UNCOMPRESSED = [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian]

COMPRESSED = [
    uid.RLELossless,
    uid.JPEGBaseline8Bit,
    uid.JPEGExtended12Bit,
    uid.JPEGLossless,
    uid.JPEGLosslessSV1,
    uid.JPEGLSLossless,
    uid.JPEGLSNearLossless,
    uid.JPEG2000Lossless,
    uid.JPEG2000,
    uid.HTJ2KLossless,
    uid.HTJ2KLosslessRPCL,
    uid.HTJ2K,
]

ACCEPTED = UNCOMPRESSED + COMPRESSED

STORAGE_CLASSES = [str(context.abstract_syntax) for context in AllStoragePresentationContexts]

VERIFICATION = str(sop_class.Verification)  # type: ignore[attr-defined]

_DICOM = "1.2.840.10008."  # root of all that the standard registers (PS3.5 9, PS3.6 annex A)


def is_private_class(abstract_syntax: str) -> bool:
    return uids.is_valid(abstract_syntax) and not abstract_syntax.startswith(_DICOM)


def is_storage(abstract_syntax: str) -> bool:
    return abstract_syntax in STORAGE_CLASSES or is_private_class(abstract_syntax)
