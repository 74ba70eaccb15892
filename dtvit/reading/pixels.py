"""The stored values of a CT image, frame by frame, whatever their encoding (PS3.5 8 and A.4).

What the header announces is checked before anything is allocated, and a compressed frame's own header before a decoder
sees it.
"""

from __future__ import annotations

import contextlib
import functools
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom import uid

from dtvit.reading import headervalues as values
from dtvit.reading.codestream import codestream
from dtvit.reading.encapsulation import frames_of
from dtvit.reading.headervalues import UnreadableSlice
from dtvit.reading.parsing import OVERLAYS, is_plain
from dtvit.reading.rle import unpack
from dtvit.reading.storedvalues import interpret

GREY = ("MONOCHROME1", "MONOCHROME2")  # a palette's numbers of colours are no Hounsfield units
MAX_TILES = 1024  # a JPEG 2000 decoder allocates for each tile before it sees data

# By default pydicom takes GDCM: 5.4 instead of 3.2 ms for 512 x 512 pixels, and 13.8, most of it in threads of its own,
# instead of 10.8.
_QUICKEST = {
    uid.JPEGLSLossless: "pyjpegls",
    uid.JPEGLSNearLossless: "pyjpegls",
    uid.JPEG2000Lossless: "pylibjpeg",
    uid.JPEG2000: "pylibjpeg",
}


class Pixels:
    """Of an object that is parsed, with sides that are bounded. All raise UnreadableSlice."""

    def __init__(self, dataset: pydicom.Dataset, *, rows: int, columns: int, frames: int) -> None:
        self._dataset = ds = dataset
        self._syntax = ds.file_meta.TransferSyntaxUID
        self._rows, self._columns = rows, columns
        shown_as = str(ds.get("PhotometricInterpretation") or GREY[1]).strip().upper()
        if values.integer(ds, "SamplesPerPixel", 1) != 1 or shown_as not in GREY:
            raise UnreadableSlice("the pixels are in colour, but those of CT are grey")
        if ds.get("PhotometricInterpretation") != shown_as:
            ds.PhotometricInterpretation = shown_as  # no decoder works without, and it changes no value
        allocated, stored = values.integer(ds, "BitsAllocated"), values.integer(ds, "BitsStored")
        if allocated not in (8, 16, 32) or not 1 <= stored <= allocated:
            raise UnreadableSlice(f"{stored} bits stored in {allocated} allocated is not a CT encoding")
        if "PixelData" not in ds:
            raise UnreadableSlice("the object holds no pixels")
        if self._syntax.is_compressed:
            self._encoded = frames_of(ds.PixelData, frames)  # all at once: each would take going through them all
        else:
            self._check_length(0)

    def stored(self, index: int) -> npt.NDArray[Any]:
        """Stored values (row, column) of one frame, signed as they are meant."""
        from pydicom.pixels import get_decoder

        ds = self._dataset
        if self._syntax.is_compressed:
            if not get_decoder(self._syntax).is_available:
                raise UnreadableSlice(f"{self._syntax.name} pixels cannot be decoded: no decoder for them is installed")
            self._check_codestream(index)
        else:
            self._check_length(index)
            if is_plain(ds):
                kind, count = f"<{'ui'[ds.PixelRepresentation]}2", self._rows * self._columns
                pixels = np.frombuffer(ds.PixelData, kind, count, index * count * 2)
                return self._interpreted(pixels.reshape(self._rows, -1))
        array = self._decoded(index)
        if array.shape != (self._rows, self._columns) or array.dtype.kind not in "iu":
            raise UnreadableSlice("the decoded pixels do not have the announced size")
        if self._syntax.is_compressed and self._syntax != uid.RLELossless:
            return np.asarray(array)  # a decoder gives values, and pydicom has corrected their sign
        return self._interpreted(array)

    def _decoded(self, index: int) -> npt.NDArray[Any]:
        """The frame as its decoder gives it: the quickest of those that know the syntax, and if that fails, any."""
        from pydicom.pixels import get_decoder

        if self._syntax == uid.RLELossless and is_plain(self._dataset):
            unpacked = unpack(self._encoded[index], self._rows, self._columns)
            if unpacked is not None:
                return unpacked.view(f"<{'ui'[self._dataset.PixelRepresentation]}2")
        # pydicom cuts to Bits Stored without asking (correct_unused_bits); `interpret` asks
        as_array = functools.partial(
            get_decoder(self._syntax).as_array, self._alone(index), index=0, raw=True, correct_unused_bits=False
        )
        if self._syntax in _QUICKEST:
            with contextlib.suppress(RuntimeError):
                return np.asarray(as_array(decoding_plugin=_QUICKEST[self._syntax])[0])
        return np.asarray(as_array()[0])

    def _alone(self, index: int) -> pydicom.Dataset:
        """A frame as if there were no other: what is decoded is what was checked, and what others lack costs it
        nothing."""
        from pydicom.encaps import encapsulate

        pixels = self._dataset["PixelData"]
        alone = self._dataset.group_dataset(0x0028)
        alone.NumberOfFrames = 1
        if self._syntax.is_compressed:
            content = encapsulate([self._encoded[index]], has_bot=False)
        else:
            size = self._frame_bytes()
            content = pixels.value[index * size : (index + 1) * size]
        alone.add_new(pixels.tag, pixels.VR, content + b"\0" * (len(content) % 2))
        return alone

    def _interpreted(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        ds = self._dataset
        return interpret(
            array,
            bits_stored=values.integer(ds, "BitsStored"),
            high_bit=values.integer(ds, "HighBit", values.integer(ds, "BitsStored") - 1),
            signed=values.integer(ds, "PixelRepresentation", 0) == 1,
            shared_bits=any((group, 0x0102) in ds and ds[group, 0x0102].value for group in OVERLAYS),
        )

    def _check_codestream(self, index: int) -> None:
        """Refuse a frame whose own header asks the decoder for more than the data set announces."""
        found = codestream(self._encoded[index])
        if found is None:
            if self._syntax == uid.RLELossless:
                return  # no header of its own; grows 64-fold at most
            raise UnreadableSlice(f"the pixels hold no {self._syntax.name} stream")
        if (found.rows, found.columns) != (self._rows, self._columns):
            announced = f"{self._rows} x {self._columns}"
            raise UnreadableSlice(
                f"the compressed pixels are {found.rows} x {found.columns}, not {announced} as stated"
            )
        if found.components != 1 or found.bits > 16 or found.tiles > MAX_TILES:
            raise UnreadableSlice("the compressed pixels are not a single grey image of at most 16 bits")
        if self._syntax == uid.JPEGExtended12Bit and found.bits > 8:  # the only available decoder is under the GPL
            raise UnreadableSlice(
                f"{self._syntax.name} pixels of {found.bits} bits cannot be decoded: there is no decoder"
            )

    def _check_length(self, index: int) -> None:
        """Of uncompressed pixels; those of the frames behind this one may be missing."""
        needed, there = (index + 1) * self._frame_bytes(), len(self._dataset.PixelData)
        if there < needed:
            raise UnreadableSlice(f"pixels are cut short: {needed} bytes announced, {there} present")

    def _frame_bytes(self) -> int:
        return self._rows * self._columns * (values.integer(self._dataset, "BitsAllocated") // 8)
