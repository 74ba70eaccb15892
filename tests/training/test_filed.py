"""Pictures of a manifest in memory: as the model's geometry has them, in order, or one error naming each fault."""

import threading
from pathlib import Path

import numpy as np
import pytest
from listed import entries, grey, listed, many, noise, table
from PIL import Image

from dtvit import preprocess
from dtvit.findings import LOCATIONS
from train.dataset import filed, manifest, splits
from train.dataset.pictures import PARTS, UNCLEAR
from train.errors import UnusableData


def kept(folder):
    """Files that hold something; what tells whose turn it is holds nothing."""
    return [file for file in folder.iterdir() if file.stat().st_size] if folder.exists() else []


def loaded(found, **options):
    return filed.load(found, splits.whole(found), **options)


def test_labels_numbers_and_parts_arrive_with_the_pictures(tmp_path):
    found = listed(tmp_path)
    split = splits.by_patient(found, 0)
    pictures = filed.load(found, split)
    rows, parts = filed.arrangement(found, split)
    assert pictures.pictures.shape == (len(found.rows), 256, 256)
    for at, index in enumerate(rows):
        row = found.rows[index]
        assert pictures.pictures[at, 128, 128] == np.asarray(Image.open(row.path))[0, 0]
        assert pictures.presence[at] == row.ich
        assert pictures.location[at] == (LOCATIONS.index(row.location) if row.location else UNCLEAR)
        assert pictures.part[at] == parts[at] == split.parts[index]
    assert len({(pictures.patient[at], found.rows[i].patient_id) for at, i in enumerate(rows)}) == len(many())
    assert not pictures.traced.any()
    assert np.isnan(pictures.volume_ml).all()


def test_a_row_without_label_or_location_is_unclear(tmp_path):
    rows = entries([("a", "deep"), ("b", "")], slices=1)
    rows[0]["location"] = rows[1]["ich"] = ""
    pictures = loaded(manifest.read(table(tmp_path, rows), labels_needed=False))
    assert pictures.presence.tolist() == [1, UNCLEAR]
    assert pictures.location.tolist() == [UNCLEAR, UNCLEAR]


def test_slices_of_a_series_stand_together_in_their_order(tmp_path):
    rows = entries([("a", "deep"), ("b", "")], slices=3)
    mixed = [rows[i] for i in (5, 1, 3, 0, 2, 4)]
    for value, row in enumerate(rows):
        grey(tmp_path / row["path"], value)
    pictures = loaded(manifest.read(table(tmp_path, mixed)))
    assert pictures.pictures[:, 0, 0].tolist() == [3, 4, 5, 0, 1, 2]
    assert pictures.series.tolist() == [0, 0, 0, 1, 1, 1]


def test_without_a_column_for_it_a_series_is_of_one_site_and_scanner(tmp_path):
    rows = [
        row | {"site": "AB"[number % 2]} for number, row in enumerate(entries([("1", "deep"), ("2", "")], slices=4))
    ]
    pictures = loaded(manifest.read(table(tmp_path, rows)))
    assert len(set(pictures.series.tolist())) == 4
    assert len(set(pictures.patient.tolist())) == 2
    within = [row | {"series": "s"} for row in rows]  # whatever else differs in a series that is named
    assert len(set(loaded(manifest.read(table(tmp_path / "named", within))).series.tolist())) == 2


def test_two_series_of_a_patient_have_numbers_of_their_own(tmp_path):
    rows = [row | {"series": row["slice"]} for row in entries([("a", "deep"), ("b", "")], slices=2)]
    pictures = loaded(manifest.read(table(tmp_path, rows)))
    assert len(set(pictures.series.tolist())) == 4
    assert len(set(pictures.patient.tolist())) == 2


@pytest.mark.parametrize("size", [(512, 512), (256, 256), (200, 300), (512, 436), (301, 77)])
def test_the_middle_of_the_returned_picture_is_what_the_model_sees(tmp_path, size):
    content = noise(1, *size)
    rows = entries([("a", "deep"), ("b", "")], slices=1)
    pictures = loaded(manifest.read(table(tmp_path, rows, draw=lambda path: Image.fromarray(content).save(path))))
    margin = (256 - 224) // 2
    middle = pictures.pictures[0, margin:-margin, margin:-margin]
    assert (middle == preprocess.model_input(content)).all()


def test_the_heads_own_box_is_returned_as_the_model_sees_it(tmp_path):
    content = np.zeros((200, 300), np.uint8)
    content[30:150, 90:180] = noise(4, 120, 90) | 1
    rows = entries([("a", "deep"), ("b", "")], slices=1)
    found = manifest.read(table(tmp_path, rows, draw=lambda path: Image.fromarray(content).save(path)))
    for cache in (None, tmp_path / "cache"):
        pictures = loaded(found, geometry=preprocess.HEAD_BOX, cache=cache).pictures
        assert (pictures[1] == preprocess.model_input(content, preprocess.HEAD_BOX)).all()
    loaded(found, cache=tmp_path / "cache")
    assert len(kept(tmp_path / "cache")) == 2
    with pytest.raises(ValueError, match="a geometry is one of"):
        loaded(found, geometry="as-it-comes")


@pytest.mark.parametrize("mode", ["RGB", "LA", "RGBA", "P"])
@pytest.mark.parametrize("suffix", ["webp", "png"])
def test_grey_in_any_mode_is_grey(tmp_path, mode, suffix):
    content = noise(2, 256, 256)
    rows = [row | {"path": f"{row['patient_id']}.{suffix}"} for row in entries([("a", "deep"), ("b", "")], slices=1)]

    def draw(path: Path) -> None:
        Image.fromarray(content).convert(mode).save(path, lossless=True)

    assert (loaded(manifest.read(table(tmp_path, rows, draw=draw))).pictures[0] == content).all()


def colour(path: Path) -> None:
    Image.new("RGB", (40, 40), (90, 91, 90)).save(path)


def see_through(path: Path) -> None:
    Image.new("RGBA", (40, 40), (90, 90, 90, 254)).save(path)


def cut_off(path: Path) -> None:
    Image.fromarray(noise(3, 64, 64)).save(path)
    path.write_bytes(path.read_bytes()[:-900])


@pytest.mark.parametrize("cached", [False, True])
def test_every_unusable_picture_is_reported_by_row_and_column(tmp_path, cached):
    rows = entries([("a", "deep"), ("b", "")], slices=2)
    for row, draw in zip(rows, (colour, cut_off, see_through), strict=False):
        draw(tmp_path / row["path"])
    found = manifest.read(table(tmp_path, rows))
    with pytest.raises(UnusableData) as caught:
        loaded(found, cache=tmp_path / "cache" if cached else None)
    first, second, third = str(caught.value).splitlines()[1:]
    assert first == "  row 2, path: a-0.png is in colour; save the slice as a grey picture"
    assert second.startswith("  row 3, path: a-1.png is damaged or cut off (")
    assert third == "  row 4, path: b-0.png has transparent pixels; save it without transparency"
    assert not kept(tmp_path / "cache")


def test_a_split_of_another_manifest_is_refused(tmp_path):
    found, other = listed(tmp_path / "a"), listed(tmp_path / "b", many(4, 4, 4, 4))
    with pytest.raises(UnusableData, match="made for another state"):
        filed.load(found, splits.whole(other))


def test_the_papers_split_has_replicas_in_every_part(tmp_path):
    found = listed(tmp_path)
    split = splits.paper(found, 0)
    for cache in (None, tmp_path / "cache"):
        pictures = filed.load(found, split, cache=cache)
        rows, _ = filed.arrangement(found, split)
        assert len(pictures) == len(split.rows) > len(found.rows)
        assert [int((pictures.part == part).sum()) for part in range(3)] == [split.count(name) for name in PARTS]
        assert pictures.pictures[:, 0, 0].tolist() == [int(i) % 256 for i in rows]


def test_the_cache_gives_the_same_pictures_without_reading_them_again(tmp_path):
    found = listed(tmp_path / "data")
    read = []
    first = loaded(found, cache=tmp_path / "cache", tell=lambda done, of: read.append(done))
    assert sorted(read) == list(range(1, len(found.rows) + 1))
    again = loaded(found, cache=tmp_path / "cache", tell=lambda done, of: pytest.fail("a picture was read again"))
    assert (first.pictures == again.pictures).all()
    assert (first.pictures == loaded(found).pictures).all()


def test_a_full_disk_is_reported_and_leaves_nothing(tmp_path, monkeypatch):
    found = listed(tmp_path / "data", [("a", "deep"), ("b", "")], slices=1)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(filed.os, "posix_fallocate", full)
    with pytest.raises(UnusableData, match="no room for 0 MiB of decoded pictures"):
        loaded(found, cache=tmp_path / "cache")
    assert not kept(tmp_path / "cache")


def test_a_changed_picture_is_read_again(tmp_path):
    found = listed(tmp_path / "data", [("a", "deep"), ("b", "")], slices=1)
    loaded(found, cache=tmp_path / "cache")
    grey(found.rows[0].path, 201, size=(33, 33))
    assert loaded(found, cache=tmp_path / "cache").pictures[0, 0, 0] == 201


def test_a_cache_file_that_is_damaged_is_made_again(tmp_path):
    found = listed(tmp_path / "data", [("a", "deep"), ("b", "")], slices=1)
    expected = loaded(found, cache=tmp_path / "cache").pictures
    (file,) = kept(tmp_path / "cache")
    file.write_bytes(file.read_bytes()[:-1])
    assert (loaded(found, cache=tmp_path / "cache").pictures == expected).all()


def test_two_at_once_leave_one_whole_cache(tmp_path):
    found = listed(tmp_path / "data")
    together = threading.Barrier(2)
    results = []

    def one() -> None:
        together.wait()
        results.append(loaded(found, cache=tmp_path / "cache").pictures)

    threads = [threading.Thread(target=one) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (results[0] == results[1]).all()
    assert len(kept(tmp_path / "cache")) == 1


def test_the_cache_is_for_its_owner_alone(tmp_path):
    found = listed(tmp_path / "data", [("a", "deep"), ("b", "")], slices=1)
    loaded(found, cache=tmp_path / "cache")
    for file in (tmp_path / "cache").iterdir():
        assert file.stat().st_mode & 0o077 == 0
