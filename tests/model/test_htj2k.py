"""High-Throughput JPEG 2000 (ISO 15444-15): read where a decoder exists, named where none does.

The streams hold one small picture, (row, column) -> 1024 + 10 row + 200 (column // 8), 16 bits unsigned. They were made
with OpenJPH 0.9: `ojph_compress -reversible true -num_decomps 1`, and `-qstep 0.00002` for the lossy one.
"""

import base64

import numpy as np
import pytest
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from test_ct import made, refused, written

from dtvit import ct

LOSSLESS = base64.b64decode(
    "/0//UQApQAAAAAAYAAAAFAAAAAAAAAAAAAAAGAAAABQAAAAAAAAAAAABDwEB/1AACAACAAAAC/9SAAwAAgABAAEEBEAB/1wAByCQkJCY/2QAFg"
    "ABT3BlbkpQSCBWZXIgMC45LjAu/5AACgAAAAABWQAB/5PAABfoOP931/f/d6/v/3fX9xh8Aj7Unmd/sx/Z3+xH9lB7nj2ink7/Jr+lf9Nv6d/0"
    "W/rr/fD+9f7w/no/vIffc+9R9hT7h/2+/mG/r0fZU+zB9Ez6I/2M/kg/oz/Sz+hf95v7r/ub+9f95h55T7sH2LPrz/XT+nP9tB5gz67H0ZPoP/"
    "QL+g/9gv5Dv6A/3M/tH+7P7Q/3c3vQPeMeW0+s/1Vf1f9qr+qx9cR6CD1//j4/nr/Pj+fv8+P5rz3S/tc+0v5rj7TH24ftYfWZ+ks9oP5SD6iH"
    "1Wfq0fPR+ec8bv45j5t/zuPmD16/Xr9Zf16/Xr9Zf16/Xr9Zf16/Xr9ZdCADGQgAxkIAMbQCwAAXSQAAWmDH4/F4PB6Px+PxeDwej8fj8fifgF"
    "OU5TlOU5TlOU4EC4ECcgFSRERERET+/0wcnv3ye/fJ7LwA/9k="
)
LOSSY = base64.b64decode(
    "/0//UQApQAAAAAAYAAAAFAAAAAAAAAAAAAAAGAAAABQAAAAAAAAAAAABDwEB/1AACAACAAAAKf9SAAwAAgABAAEEBEAA/1wACyKKq4peil6KFP"
    "9kABYAAU9wZW5KUEggVmVyIDAuOS4wLv+QAAoAAAAAAZUAAf+TwAAv0WDpc7Vz0+fWzmXPlc5F0HXPHchNx13GjcUFxjXF5cYVxr2+7b39vC28"
    "5bwVvOW8Fbztzf3M3Zv7M7c29zI3Onc2lxnXFZcS1w43EXcNtxT3EBf0VvAW7Vbptuz26Lbs9ug2MHcsd2Dusdy83K3cyty7XEhcOVwsXB3cJt"
    "wX3DTcJVyyW6NblluH25TbhduU24XbotyT3EW5T3J7cj9ys3J3cqlwbXA5cP1vI3Dnb1twH3BRbhVu4W2lbdttn23bbZ9tFXLVcSvkVscVyBXH"
    "9cj1x83Azb8Nvw2+tb61vZW/lb5tt222rbWttJW1lbSVtZW0/Q9ev16/WX9ev16/WX9ev16/WX9ev16/WXSkAxkpAMZKQDG0AsAAL0mAAFtgGs"
    "1qlWg0q6tEo1mtEgmNZrVKJDSa1SqR0GhWq0RCo1mtEgmNZrVKJDSa1SqR0GhWq0Tinh0kOSdJDknSQ5J0kOSQPgGk+IK2AQAQDY2iUTSKRtEo"
    "+n+RJTpklOmSU3TGMYzvAP/Z"
)
ROW, COLUMN = np.mgrid[:20, :24]
PICTURE = (1024 + 10 * ROW + 200 * (COLUMN // 8)).astype(np.uint16)


def compressed(stream: bytes, syntax: str) -> Dataset:
    ds = made(PICTURE, syntax, PixelSpacing=[4.0, 4.0], PixelData=encapsulate([stream]))
    ds["PixelData"].VR = "OB"
    return ds


@pytest.mark.parametrize(
    ("stream", "syntax", "off_by"),
    [
        (LOSSLESS, uid.HTJ2KLossless, 0.0),
        (LOSSLESS, uid.HTJ2KLosslessRPCL, 0.0),  # which is OpenJPH's order of progression anyway
        (LOSSY, uid.HTJ2K, 2.0),
    ],
)
def test_htj2k_is_read(stream: bytes, syntax: str, off_by: float) -> None:
    (found,) = ct.read(written(compressed(stream, syntax)))
    assert np.abs(found.hu - (PICTURE.astype(np.float32) - 1024)).max() <= off_by


def test_without_a_decoder_the_slice_is_refused_by_the_name_of_its_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    from pydicom.pixels.decoders import HTJ2KLosslessDecoder

    monkeypatch.setattr(HTJ2KLosslessDecoder, "_available", {})
    said = refused(compressed(LOSSLESS, uid.HTJ2KLossless))
    assert "High-Throughput JPEG 2000" in said
    assert "no decoder for them is installed" in said


def test_a_broken_stream_costs_its_slice_and_no_more() -> None:
    assert "cannot be decoded" in refused(compressed(LOSSLESS[:80], uid.HTJ2KLossless))
