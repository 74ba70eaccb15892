"""The spool: what `keep` returned survives a power cut; what it did not leaves nothing behind."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from dicom_node.errors import StoreFull, StoreUnavailable
from dicom_node.store.names import FRESH_S
from dicom_node.store.spool import Spool


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    made = Spool(tmp_path / "spool")
    made.prepare()
    return made


def on_disk(spool: Spool) -> set[str]:
    """Names of all files, those not written yet among them."""
    return {str(file.relative_to(spool.folder)) for file in spool.folder.rglob("*") if file.is_file()}


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


def test_name_folder_and_content_are_durable_before_keep_returns(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    did: list[tuple[str, str]] = []
    fsync, opens = os.fsync, os.open

    def synced(descriptor: int) -> None:
        did.append(("sync", os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    def opened(path: str, flags: int, *mode: int) -> int:
        if flags & os.O_CREAT:
            did.append(("create", path))
        return opens(path, flags, *mode)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "open", opened)
    name = spool.keep(b"content")
    final = spool.path(name)
    assert did == [("create", str(final)), ("sync", str(final.parent)), ("sync", str(final))]


def test_names_are_made_in_advance_the_more_the_faster_they_are_used(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders: list[str] = []

    def synced(descriptor: int) -> None:
        place = os.readlink(f"/proc/self/fd/{descriptor}")
        if Path(place).is_dir():
            folders.append(place)

    monkeypatch.setattr(os, "fsync", synced)
    for number in range(1 + 2 + 4 + 8 + 16 + 32 + 32):
        spool.keep(b"%d" % number)
    assert len(folders) == 7


def test_a_name_made_in_advance_is_no_file_yet_and_is_removed_in_the_end(spool: Spool) -> None:
    kept = [spool.keep(b"%d" % number) for number in range(4)]
    assert len(on_disk(spool)) > 4
    assert sorted(spool.stored()) == sorted(kept)
    spool.close()
    assert sorted(on_disk(spool)) == sorted(kept)
    assert spool.read(spool.keep(b"after")) == b"after"


def test_a_name_that_has_lain_for_long_is_not_used(tmp_path: Path) -> None:
    """Housekeeping would take it for the trace of a crash."""
    now = [0.0]
    spool = Spool(tmp_path / "spool", clock=lambda: now[0])
    spool.prepare()
    for _ in range(2):
        spool.keep(b"x")
    (spare,) = on_disk(spool) - set(spool.stored())
    now[0] += FRESH_S
    assert spool.keep(b"y") != spare
    assert on_disk(spool) == set(spool.stored())


def test_many_threads_never_share_a_name(spool: Spool) -> None:
    with ThreadPoolExecutor(8) as pool:
        names = list(pool.map(lambda n: spool.keep(b"%d" % n), range(200)))
    assert len(set(names)) == 200
    assert [spool.read(name) for name in names] == [b"%d" % n for n in range(200)]


def test_nobody_but_the_owner_reads_what_is_kept(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        spool = Spool(tmp_path / "spool")
        spool.prepare()
        name = spool.keep(b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE(spool.path(name).stat().st_mode) == 0o600
    for folder in (spool.folder, spool.path(name).parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_what_a_command_of_root_keeps_is_the_services(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[str, int, int]] = []
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "fchown", lambda fd, *owner: given.append((os.readlink(f"/proc/self/fd/{fd}"), *owner)))
    name, mine = spool.keep(b"x"), spool.folder.stat()
    assert given == [(str(spool.path(name)), mine.st_uid, mine.st_gid)]


def test_root_that_may_give_no_file_away_keeps_it(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container without CAP_CHOWN, where not one image would be stored otherwise."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "fchown", raising(errno.EPERM))
    assert spool.read(spool.keep(b"x")) == b"x"


def test_nothing_is_kept_in_a_spool_that_was_moved_away(spool: Spool) -> None:
    """The files made in advance are open, and would take it."""
    for _ in range(5):
        spool.keep(b"x")
    spool.folder.rename(spool.folder.with_name("moved"))
    spool.folder.mkdir()
    with pytest.raises(StoreUnavailable):
        spool.keep(b"y")


def test_files_made_in_advance_are_closed_with_the_spool(spool: Spool) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        spool.keep(b"x")
    assert len(os.listdir("/proc/self/fd")) > before
    spool.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_content_that_the_disk_takes_in_pieces_is_kept_whole(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    content = os.urandom(10_000)
    monkeypatch.setattr(os, "writev", lambda descriptor, parts: os.write(descriptor, b"".join(parts)[:999]))
    assert spool.read(spool.keep(b"meta", b"", content, b"end")) == b"meta" + content + b"end"


@pytest.mark.parametrize("at", ["fsync", "open", "writev"])
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
    assert on_disk(spool) == set()
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


def test_names_of_a_process_that_was_killed_are_removed_when_they_are_old(spool: Spool) -> None:
    kept = [spool.keep(b"first"), spool.keep(b"second")]
    (spare,) = on_disk(spool) - set(kept)
    assert spool.clear_unused(older_than_s=3600) == 0  # it may be another receiver's
    os.utime(spool.path(spare), (time.time() - 7200,) * 2)
    os.utime(spool.path(kept[0]), (time.time() - 7200,) * 2)
    assert spool.clear_unused(older_than_s=3600) == 1
    assert on_disk(spool) == set(kept)


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


@pytest.mark.parametrize("number", [errno.EIO, errno.EROFS])
def test_a_file_that_cannot_be_read_is_told_from_a_disk_that_fails(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    name, other = spool.keep(b"x"), spool.keep(b"y")
    before = set(spool.stored())
    monkeypatch.setattr(Path, "read_bytes", raising(errno.EIO))
    with pytest.raises(FileNotFoundError, match="the disk cannot read it"):
        spool.read(name)
    assert set(spool.stored()) == before == {name, other}
    monkeypatch.setattr(os, "writev", raising(number))  # a kernel makes a disk that fails read-only
    for spool.min_free_mib in (0, 2**40):  # be it nearly full or not
        with pytest.raises(StoreUnavailable):
            spool.read(name)


def test_preparing_twice_keeps_what_is_there(spool: Spool) -> None:
    name = spool.keep(b"x")
    Spool(spool.folder).prepare()
    assert spool.read(name) == b"x"
