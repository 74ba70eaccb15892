"""One picture of a manifest, from its file: 8-bit grey of any size, whatever container and mode it comes in.

Lossless WebP, and much else, has no grey mode and comes as RGB with equal channels; that is grey too. Colour, 16 bit
(whose scale nobody knows) and transparency do not belong in a brain-window picture of a head, and are refused.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

GREY_ONLY = frozenset({"1", "L"})
IN_CHANNELS = frozenset({"LA", "P", "PA", "RGB", "RGBA"})
SMALLEST = 32  # pixels; nothing can be seen of a head in fewer


class UnusablePicture(Exception):
    """A file is not a usable picture; the text continues after the file's name."""


def look_at(path: Path) -> None:
    """Check by its first bytes that a file is an 8-bit picture. Raises UnusablePicture."""
    _open(path).close()


def read(path: Path) -> NDArray[np.uint8]:
    """(row, column), 0..255. Raises UnusablePicture."""
    with _open(path) as image:
        try:
            image.load()
        except (
            Exception
        ) as exc:  # Pillow's plugins promise no class: OSError, SyntaxError, struct.error, zlib.error ...
            raise UnusablePicture(f"is damaged or cut off ({exc})") from exc
        if image.mode in GREY_ONLY:
            return np.asarray(image.convert("L"))
        channels = np.asarray(image.convert("RGBA"))
    if (channels[..., 3] != 255).any():
        raise UnusablePicture("has transparent pixels; save it without transparency")
    if (channels[..., :1] != channels[..., 1:3]).any():
        raise UnusablePicture("is in colour; save the slice as a grey picture")
    return np.ascontiguousarray(channels[..., 0])


def _open(path: Path) -> Image.Image:
    """The file opened, its pixels not read yet."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(path)
    except FileNotFoundError as exc:
        raise UnusablePicture("is not there") from exc
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as exc:
        raise UnusablePicture(f"is too large ({exc})") from exc
    except Exception as exc:  # see above; IsADirectoryError and PermissionError too
        reason = f" ({exc.strerror})" if isinstance(exc, OSError) and exc.strerror else ""
        hint = ", but DICOM; dicom-node prepare makes pictures and a manifest of it" if _is_dicom(path) else reason
        raise UnusablePicture(f"is not a readable picture{hint}") from exc
    wrong = _wrong(image)
    if wrong is not None:
        image.close()
        raise UnusablePicture(wrong)
    return image


def _is_dicom(path: Path) -> bool:
    """By its first bytes (PS3.10 7.1)."""
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _wrong(image: Image.Image) -> str | None:
    """What rules out an opened picture before its pixels are read."""
    deep = image.mode.startswith(("I", "F")) or any(";16" in str(tile) for tile in getattr(image, "tile", ()))
    if deep:
        return "has more than 8 bits per pixel; save it as 8 bit, 0..255 for 0..80 HU"
    if image.mode not in GREY_ONLY | IN_CHANNELS:
        return f"is in colour (mode {image.mode}); save the slice as a grey picture"
    if getattr(image, "n_frames", 1) != 1:
        return "holds more than one picture; save each slice by itself"
    if min(image.size) < SMALLEST:
        return f"is {image.width} x {image.height} pixels, too few to show a head"
    return None
