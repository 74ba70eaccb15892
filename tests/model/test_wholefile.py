"""A file is whole under its name, old or new, and may be read by whom it is for."""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from dtvit.wholefile import replacing, write_whole
from train.keeping import once
from train.learning.state import save


@dataclass(frozen=True)
class Kept:
    values: NDArray[np.int64]


@pytest.fixture(params=[0o000, 0o077], ids=["all", "none"])
def _what_the_umask_leaves(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.mark.usefixtures("_what_the_umask_leaves")
def test_results_are_readable_by_all_and_changed_patient_pictures_by_their_owner(tmp_path: Path) -> None:
    """A node runs as a user of its own, and is to read what was trained."""
    write_whole(tmp_path / "made" / "report.html", b"page")
    write_whole(tmp_path / "made" / "secret", b"key", mode=0o600)
    save(tmp_path / "made" / "state.pt", {})
    once(tmp_path / "made" / "changed.npz", "1", Kept, lambda: Kept(np.arange(3)))
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "made").iterdir()}
    assert modes == {
        "report.html": 0o644,
        "secret": 0o600,
        "state.pt": 0o600,
        "changed.npz": 0o600,
        ".changed.npz.turn": 0o600,
    }


def test_what_breaks_off_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"new"
        raise KeyboardInterrupt

    write_whole(tmp_path / "kept", b"old")
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "kept") as file:
        file.writelines(pieces())
    assert (tmp_path / "kept").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["kept"]


def test_what_is_kept_is_made_once_for_a_stamp_and_again_where_it_is_damaged(tmp_path: Path) -> None:
    made: list[int] = []

    def make() -> Kept:
        made.append(len(made))
        return Kept(np.full(2, made[-1]))

    path = tmp_path / "kept.npz"
    assert [once(path, stamp, Kept, make).values[0] for stamp in ("a", "a", "b", "b")] == [0, 0, 1, 1]
    path.write_bytes(path.read_bytes()[:-30])
    assert once(path, "b", Kept, make).values[0] == 2
