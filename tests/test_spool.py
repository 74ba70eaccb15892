"""The spool: what `keep` returned survives a power cut; what it did not leaves nothing behind."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dicom_node.errors import StoreFull, StoreUnavailable
from dicom_node.store.spool import Spool


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    made = Spool(tmp_path / "spool")
    made.prepare()
    return made


def raising(number: int) -> Callable[..., None]:
    def fails(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    return fails


def test_what_was_kept_is_read_back_whole(spool: Spool) -> None:
    name = spool.keep(b"meta", b"", b"data set")
    assert spool.read(name) == b"metadata set"
    assert list(spool.stored()) == [name]
    assert spool.holds(name, 12)
    assert not spool.holds(name, 13)


def test_file_folder_and_name_are_durable_before_keep_returns(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    did: list[tuple[str, str]] = []
    fsync, rename = os.fsync, Path.rename

    def synced(descriptor: int) -> None:
        did.append(("sync", os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    def renamed(self: Path, target: Path) -> Path:
        did.append(("rename", str(target)))
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "rename", renamed)
    name = spool.keep(b"content")
    final = spool.path(name)
    assert did == [("rename", str(final)), ("sync", str(final)), ("sync", str(final.parent))]


def test_nobody_but_the_owner_reads_what_is_kept(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        spool = Spool(tmp_path / "spool")
        spool.prepare()
        name = spool.keep(b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE(spool.path(name).stat().st_mode) == 0o600
    for folder in (spool.folder, spool.folder / "incoming", spool.path(name).parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_under_its_own_name_a_file_is_whole_at_every_moment(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    content, rename, seen = os.urandom(100_000), Path.rename, []

    def renamed(self: Path, target: Path) -> Path:
        seen.append((list(spool.stored()), self.read_bytes()))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", renamed)
    spool.keep(b"meta", content)
    assert seen == [([], b"meta" + content)]


@pytest.mark.parametrize("at", ["fsync", "open"])
@pytest.mark.parametrize(
    ("number", "error"),
    [
        (errno.ENOSPC, StoreFull),
        (errno.EDQUOT, StoreFull),
        (errno.EIO, StoreUnavailable),
        (errno.EROFS, StoreUnavailable),
    ],
)
def test_a_full_or_broken_disk_is_told_apart_and_leaves_nothing(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, number: int, error: type[Exception], at: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, at, raising(number))
        with pytest.raises(error):
            spool.keep(b"content")
    assert list(spool.stored()) == []
    assert list((spool.folder / "incoming").iterdir()) == []
    assert spool.read(spool.keep(b"content")) == b"content"  # it recovers by itself


def test_below_the_watermark_nothing_is_taken_and_nothing_written(spool: Spool) -> None:
    spool.min_free_mib = 2**40
    with pytest.raises(StoreFull, match="min_free_mib"):
        spool.keep(b"content")
    with pytest.raises(StoreFull):
        spool.check_room()
    assert list(spool.stored()) == []


def test_an_object_larger_than_the_room_is_refused_before_it_is_written(spool: Spool) -> None:
    with pytest.raises(StoreFull):
        spool.check_room(2**62)


def test_half_written_files_of_an_earlier_life_are_removed(spool: Spool) -> None:
    (spool.folder / "incoming" / "left").write_bytes(b"half")
    kept = spool.keep(b"whole")
    assert spool.clear_incoming(older_than_s=3600) == 0  # another receiver may be writing it
    assert spool.clear_incoming() == 1
    assert list((spool.folder / "incoming").iterdir()) == []
    assert spool.read(kept) == b"whole"


def test_a_missing_file_is_told_from_a_missing_spool(spool: Spool) -> None:
    name = spool.keep(b"x")
    spool.remove(name)
    spool.remove(name)  # twice does no harm
    with pytest.raises(FileNotFoundError):
        spool.read(name)
    assert spool.modified_at(name) is None
    spool.folder.rename(spool.folder.with_name("away"))
    with pytest.raises(StoreUnavailable):
        spool.read(name)
    with pytest.raises(StoreUnavailable):
        spool.keep(b"x")


def test_preparing_twice_keeps_what_is_there(spool: Spool) -> None:
    name = spool.keep(b"x")
    Spool(spool.folder).prepare()
    assert spool.read(name) == b"x"
