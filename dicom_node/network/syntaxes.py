"""What this node negotiates: storage classes and transfer syntaxes. Source: PS3.4 annex B, PS3.5 annex A.

Deflated syntaxes are not offered: a few hundred kilobytes can unpack into as many megabytes.
"""

from __future__ import annotations

from pydicom import uid
from pynetdicom import sop_class
from pynetdicom.presentation import AllStoragePresentationContexts

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
