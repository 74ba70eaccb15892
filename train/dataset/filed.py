"""The pictures of a manifest as arrays in memory, divided by a split. A cache of the decoded ones is optional.

Two geometries (`dtvit.preprocess`): in "resize-256-crop-224" training moves and turns pictures before it crops, so they
are returned 256 x 256; in any other geometry they are returned as the model sees them.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dtvit import preprocess
from dtvit.findings import LOCATIONS
from train.csvfile import Problem, UnusableTable
from train.dataset import picturefile
from train.dataset.manifest import Manifest, Row
from train.dataset.picturefile import UnusablePicture
from train.dataset.pictures import BLOOD_CELLS, ORIGINS, UNCLEAR, Pictures
from train.dataset.splits import Split
from train.errors import UnusableData
from train.turns import in_turn

CROPPED_LATER = preprocess.PAPER_GEOMETRY
CACHE_FORMAT = 1  # goes up when `_fitted` gives other pictures
Counted = Callable[[int, int], None]
"""Called with how many pictures have been read, and out of how many."""


def load(
    manifest: Manifest,
    split: Split,
    *,
    geometry: str = CROPPED_LATER,
    cache: Path | None = None,
    tell: Counted = lambda done, of: None,
) -> Pictures:
    """The slices of `split`, those of a series together and in its order; row i is that of `arrangement`'s row i.

    Memory: 64 KiB a slice at 256 x 256. `cache`: folder for the decoded pictures, to be kept no less carefully than the
    pictures themselves. Raises UnusableData, naming row and column of every picture that cannot be read.
    """
    if geometry not in preprocess.GEOMETRIES:
        raise ValueError(f"a geometry is one of {', '.join(preprocess.GEOMETRIES)}, not {geometry!r}")
    if split.manifest != manifest.digest:
        raise UnusableData(f"the split was made for another state of {manifest.path}; split again")
    rows, parts = arrangement(manifest, split)
    if cache is None:
        wanted, places = np.unique(rows, return_inverse=True)
        decoded = np.empty((len(wanted), *_shape(geometry)), np.uint8)
        _decode(manifest, wanted, decoded, geometry, tell)
        # Nothing to copy where each row is wanted once and in the manifest's order, which is the usual case.
        pictures = decoded if np.array_equal(places, np.arange(len(wanted))) else decoded[places]
    else:
        pictures = np.asarray(_cached(manifest, geometry, cache, tell)[rows])  # from the file straight into place
    known = [manifest.rows[index] for index in rows.tolist()]
    return Pictures(
        pictures=pictures,
        blood=np.zeros((len(rows), BLOOD_CELLS, BLOOD_CELLS), np.uint8),
        traced=np.zeros(len(rows), np.bool_),
        presence=np.array([row.presence for row in known], np.int8),
        location=np.array([LOCATIONS.index(row.location) if row.location else UNCLEAR for row in known], np.int8),
        patient=_numbers(manifest, lambda row: (row.patient_id,))[rows],
        series=_numbers(manifest, _series)[rows],
        part=parts,
        origin=np.full(len(rows), ORIGINS.index("patient"), np.int8),
        volume_ml=np.full(len(rows), np.nan, np.float32),
        area_mm2=np.full(len(rows), np.nan, np.float32),
    )


def arrangement(manifest: Manifest, split: Split) -> tuple[NDArray[np.int32], NDArray[np.int8]]:
    """(N,) indices into `Manifest.rows` and (N,) into PARTS, in the order of `load`: series by series, as they first
    occur in the manifest, each by `slice` where given, else as the manifest lists it."""
    series = _numbers(manifest, _series)
    position = np.array([row.line if row.slice is None else row.slice for row in manifest.rows])
    order = np.lexsort((split.rows, position[split.rows], series[split.rows]))
    return split.rows[order], split.parts[order]


def _series(row: Row) -> tuple[str, ...]:
    if row.study or row.series:
        return row.patient_id, row.study, row.series
    return row.patient_id, row.site, row.scanner  # two hospitals' patients "1" must not become one head


def _numbers(manifest: Manifest, key: Callable[[Row], tuple[str, ...]]) -> NDArray[np.int32]:
    """A number for each row: rows with the same key share one; 0, 1, 2 ... as they first occur."""
    seen: dict[tuple[str, ...], int] = {}
    return np.array([seen.setdefault(key(row), len(seen)) for row in manifest.rows], np.int32)


def _shape(geometry: str) -> tuple[int, int]:
    side = preprocess.SHORT_SIDE if geometry == CROPPED_LATER else preprocess.SIDE
    return side, side


def _fitted(picture: NDArray[np.uint8], geometry: str) -> NDArray[np.uint8]:
    """A picture of any size in the geometry; in "resize-256-crop-224" with the margin around what the model sees."""
    if geometry != CROPPED_LATER:
        return preprocess.model_input(picture, geometry)
    rows, columns = picture.shape
    short, side = min(rows, columns), preprocess.SHORT_SIDE
    size = (side * columns // short, side * rows // short)
    image = Image.fromarray(picture)
    if size != image.size:
        image = image.resize(size, Image.Resampling.BILINEAR)
    left, top = (round((length - side) / 2) for length in size)
    return np.asarray(image)[top : top + side, left : left + side]


def _decode(
    manifest: Manifest, wanted: NDArray[np.integer], into: NDArray[np.uint8], geometry: str, tell: Counted
) -> None:
    """Read the rows `wanted` into `into`, in that order. Raises UnusableTable with everything that went wrong."""
    problems: list[Problem] = []
    done = 0
    lock = threading.Lock()

    def one(place: int) -> None:
        nonlocal done
        row = manifest.rows[wanted[place]]
        try:
            into[place] = _fitted(picturefile.read(row.path), geometry)
        except UnusablePicture as exc:
            with lock:
                problems.append(Problem(row.line, "path", f"{row.path.name} {exc}"))
        with lock:
            done += 1
            tell(done, len(wanted))

    with ThreadPoolExecutor(min(16, 2 * (os.cpu_count() or 1))) as pool:
        for _ in pool.map(one, range(len(wanted))):
            pass
    if problems:
        raise UnusableTable(manifest.path, sorted(problems, key=lambda problem: problem.row))


def _cached(manifest: Manifest, geometry: str, folder: Path, tell: Counted) -> NDArray[np.uint8]:
    """All rows decoded, mapped from a file in `folder`; made there if it is missing, whole or not at all."""
    path = folder / f"pictures-{_key(manifest, geometry)[:32]}.npy"
    shape = (len(manifest.rows), *_shape(geometry))
    with in_turn(path):
        known = _mapped(path, shape)
        if known is not None:
            return known
        return _made(path, shape, manifest, geometry, tell)


def _made(path: Path, shape: tuple[int, ...], manifest: Manifest, geometry: str, tell: Counted) -> NDArray[np.uint8]:
    with _temporary(path) as temporary:
        into = np.lib.format.open_memmap(temporary, "w+", np.uint8, shape)
        _reserve(temporary)
        _decode(manifest, np.arange(shape[0]), into, geometry, tell)
        into.flush()
        del into
        os.replace(temporary, path)
    made = _mapped(path, shape)
    if made is None:
        raise UnusableData(f"{path} was written but cannot be read back; is the disk full or failing?")
    return made


def _reserve(path: Path) -> None:
    """Reserve all of a file's room on disk: writing to a mapped file without room ends the process."""
    handle = os.open(path, os.O_RDWR)
    try:
        os.posix_fallocate(handle, 0, os.fstat(handle).st_size)
    except OSError as exc:
        needed = os.fstat(handle).st_size / 2**20
        raise UnusableData(
            f"{path.parent} has no room for {needed:.0f} MiB of decoded pictures ({exc.strerror}); make room, or name "
            "no folder to keep them in"
        ) from exc
    finally:
        os.close(handle)


@contextlib.contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """A file beside `path`, for its owner alone (these are pictures of patients); gone afterwards."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        yield Path(name)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)


def _mapped(path: Path, shape: Sequence[int]) -> NDArray[np.uint8] | None:
    """A file of the cache, or None if it is missing or not whole."""
    try:
        array = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return None
    return array if array.dtype == np.uint8 and array.shape == tuple(shape) else None


def _key(manifest: Manifest, geometry: str) -> str:
    """SHA-256 over everything that the decoded pictures depend on, as far as can be told without reading the files.

    Every run asks for it, and at worst decodes again; figures are kept under `manifest.pictures_digest`.
    """
    stream = hashlib.sha256(f"{CACHE_FORMAT} {manifest.digest} {manifest.path.parent} {geometry}".encode())
    for row in manifest.rows:
        stat = row.path.stat()
        stream.update(f"{stat.st_size} {stat.st_mtime_ns} ".encode())
    return stream.hexdigest()
