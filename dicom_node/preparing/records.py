"""What `prepare` remembers in its folder: the secret behind the opaque ids, and what was made of each series.

Ids are HMACs of the object's own values under a secret of this folder: nobody without it can find out, by trying
patient numbers, whose pictures these are. It is kept in `.prepare`, readable by its owner alone; leave that out when
you pass the folder on. It holds no UID and no name of a person in clear.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from dicom_node.errors import NotPossible
from dtvit.wholefile import write_whole

FORMAT = 2  # goes up when pictures or records are made differently; what an older one made is made again
FOLDER = ".prepare"
IMAGES = "images"
FOR_ITS_OWNER = 0o600


@dataclass(frozen=True)
class Kept:
    """One slice that has a picture."""

    file: str
    """Relative to the folder of its series."""
    instance: str
    """Opaque id of the SOP instance."""
    frame: int


@dataclass(frozen=True)
class Record:
    """What was made of one series, and from what."""

    made_by: str
    fingerprint: str
    slices: tuple[Kept, ...]
    unreadable: tuple[tuple[str, str], ...]
    """(opaque id of the SOP instance, reason)."""


class Records:
    """The folder that `prepare` writes to; `open_records` gives one."""

    def __init__(self, out: Path, secret: bytes) -> None:
        self.out = out
        self._secret = secret

    def opaque(self, kind: str, value: str) -> str:
        """An id that reveals nothing, preceded by `kind` (P patient, T study, S series, I instance, H hospital)."""
        return kind + hmac.new(self._secret, f"{kind}\0{value}".encode(), hashlib.sha256).hexdigest()[:12]

    def folder(self, patient: str, series: str) -> Path:
        return self.out / IMAGES / patient / series

    def known(self, patient: str, series: str, made_by: str, fingerprint: str) -> Record | None:
        """What was made of this very series by this very preprocessing, if all of it is still there."""
        try:
            values = json.loads(self._file(series).read_bytes())
            record = Record(
                values["made_by"],
                values["fingerprint"],
                tuple(Kept(**each) for each in values["slices"]),
                tuple((each[0], each[1]) for each in values["unreadable"]),
            )
        except (FileNotFoundError, ValueError, KeyError, TypeError, IndexError):
            return None
        whole = all((self.folder(patient, series) / each.file).is_file() for each in record.slices)
        return record if whole and (record.made_by, record.fingerprint) == (made_by, fingerprint) else None

    def keep(self, patient: str, series: str, record: Record, pictures: Sequence[npt.NDArray[np.uint8]]) -> None:
        """Write the pictures of a series, all or none, then record it; if stopped in between, it is made again."""
        self._file(series).unlink(missing_ok=True)
        target = self.folder(patient, series)
        if pictures:
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(dir=self.out / FOLDER, prefix="making-"))
            try:
                for kept, pixels in zip(record.slices, pictures, strict=True):
                    with (temporary / kept.file).open("wb") as file:
                        Image.fromarray(pixels).save(file, "PNG", compress_level=4)
                        file.flush()
                        os.fsync(file.fileno())
                temporary.chmod(0o755)
                shutil.rmtree(target, ignore_errors=True)
                os.replace(temporary, target)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        else:
            shutil.rmtree(target, ignore_errors=True)
        write_whole(self._file(series), json.dumps(asdict(record), indent=1).encode(), mode=FOR_ITS_OWNER)

    def _file(self, series: str) -> Path:
        return self.out / FOLDER / f"{series}.json"


@contextlib.contextmanager
def open_records(out: Path) -> Iterator[Records]:
    """The folder, created if missing, for one process at a time. Raises NotPossible."""
    private = out / FOLDER
    private.mkdir(parents=True, exist_ok=True)
    private.chmod(0o700)
    with (private / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise NotPossible(f"another prepare is writing to {out}; wait for it to end") from exc
        for left_over in private.glob("making-*"):
            shutil.rmtree(left_over, ignore_errors=True)
        secret = private / "secret"
        if not secret.exists():
            write_whole(secret, secrets.token_bytes(32), mode=FOR_ITS_OWNER)
        yield Records(out, secret.read_bytes())
