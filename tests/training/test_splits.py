"""Splits: patients stay whole, each part gets every kind of patient, and what was divided once stays divided so."""

from collections import Counter

import numpy as np
import pytest
from listed import entries, listed, many, table

from train.dataset import manifest, splits
from train.dataset.pictures import PARTS
from train.errors import UnusableData


def patients_of(found, split):
    """The patients of each part."""
    return [{found.rows[i].patient_id for i in split.rows[split.parts == part]} for part in range(3)]


def kinds_of(found, split):
    """How many patients of each kind are in each part."""
    return [Counter(name.rstrip("0123456789") for name in part) for part in patients_of(found, split)]


def test_patients_are_whole_and_each_part_has_its_share_of_every_kind(tmp_path):
    found = listed(tmp_path, many(20, 20, 10, 3))
    split = splits.by_patient(found, seed=0)
    train, validation, test = patients_of(found, split)
    assert not train & validation
    assert not train & test
    assert not validation & test
    assert sorted(split.rows) == list(range(len(found.rows)))
    assert kinds_of(found, split) == [
        {"normal": 16, "deep": 16, "lobar": 8, "subtentorial": 1},
        {"normal": 2, "deep": 2, "lobar": 1, "subtentorial": 1},
        {"normal": 2, "deep": 2, "lobar": 1, "subtentorial": 1},
    ]


def test_a_seed_gives_the_same_split_and_another_seed_another_one(tmp_path):
    found = listed(tmp_path)
    assert splits.by_patient(found, 3).digest == splits.by_patient(found, 3).digest
    assert splits.by_patient(found, 3).digest != splits.by_patient(found, 4).digest


def test_the_order_of_the_rows_does_not_move_patients(tmp_path):
    rows = entries(many())
    there = manifest.read(table(tmp_path / "there", rows))
    back = manifest.read(table(tmp_path / "back", rows[::-1]))
    assert patients_of(there, splits.by_patient(there, 1)) == patients_of(back, splits.by_patient(back, 1))


def test_a_patient_under_two_labels_goes_to_one_part(tmp_path):
    rows = entries(many())
    for row in rows[:3]:
        row["patient_id"] = "deep0"  # slices without blood, beside those that show some
    found = manifest.read(table(tmp_path, rows))
    for seed in range(5):
        assert sum("deep0" in part for part in patients_of(found, splits.by_patient(found, seed))) == 1


def test_in_folds_every_patient_tests_once_and_validates_once(tmp_path):
    found = listed(tmp_path, many(10, 10, 5, 5))
    made = splits.folds(found, 5, seed=0)
    everyone = Counter(row.patient_id for row in found.rows).keys()
    for part in (1, 2):
        assert Counter(name for split in made for name in patients_of(found, split)[part]) == dict.fromkeys(everyone, 1)
    assert all(
        count == {"normal": 2, "deep": 2, "lobar": 1, "subtentorial": 1}
        for _, *counts in [kinds_of(found, split) for split in made]
        for count in counts
    )
    assert [split.kind for split in made] == [f"fold {n}/5" for n in range(1, 6)]


def test_repeated_folds_are_dealt_differently(tmp_path):
    found = listed(tmp_path)
    assert len({split.digest for split in splits.repeated(found, 5, 3, seed=0)}) == 15


def test_too_few_patients_are_refused_before_anything_is_trained(tmp_path):
    found = listed(tmp_path, many(5, 2, 0, 0))
    with pytest.raises(UnusableData, match=r"no patient with hemorrhage is left for the (validation|test) part"):
        splits.by_patient(found, 0)


def test_the_papers_split_replicates_first_and_mixes_patients_and_says_so(tmp_path):
    found = listed(tmp_path)
    split = splits.paper(found, seed=0)
    copies = Counter(found.rows[i].location or "normal" for i in split.rows)
    slices = Counter(row.location or "normal" for row in found.rows)
    assert {name: copies[name] / slices[name] for name in slices} == {
        "deep": 1, "lobar": 3, "subtentorial": 12, "normal": 3,
    }  # fmt: skip
    assert [split.count(part) for part in PARTS] == [
        round(len(split.rows) * 0.8), round(len(split.rows) * 0.9) - round(len(split.rows) * 0.8),
        len(split.rows) - round(len(split.rows) * 0.9),
    ]  # fmt: skip
    train, _, test = patients_of(found, split)
    assert train & test
    assert split.leaky
    assert split.label == "slices mixed: the same patients train and test"
    assert not splits.by_patient(found, 0).leaky


def test_without_replication_the_papers_split_mixes_patients_all_the_same(tmp_path):
    found = listed(tmp_path)
    split = splits.paper(found, 0, replicate=False)
    assert sorted(split.rows) == list(range(len(found.rows)))
    train, _, test = patients_of(found, split)
    assert train & test
    assert (split.kind, split.leaky) == ("slices", True)


@pytest.mark.parametrize("make", [splits.by_patient, splits.paper])
def test_a_split_comes_back_from_disk_as_it_was(tmp_path, make):
    found = listed(tmp_path)
    split = make(found, 5)
    splits.write(tmp_path / "split.csv", split, found)
    back = splits.read(tmp_path / "split.csv", found)
    assert (back.kind, back.seed, back.digest) == (split.kind, 5, split.digest)
    assert (back.rows == split.rows).all()
    assert (back.parts == split.parts).all()


def test_a_split_of_another_state_of_the_manifest_is_refused(tmp_path):
    found = listed(tmp_path)
    splits.write(tmp_path / "split.csv", splits.by_patient(found, 0), found)
    found.path.write_text(found.path.read_text() + "\n")
    with pytest.raises(UnusableData, match="is a split of another manifest"):
        splits.read(tmp_path / "split.csv", manifest.read(found.path))


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("\n2,normal0-0.png,", "\n99999,normal0-0.png,", "row 5, row: '99999' is not a row of the manifest"),
        (",train\n", ",training\n", "row 5, part: 'training', of manifest row 2, is none of train, validation, test"),
        (",train\n", "\n", "row 5, row: '' is not a row of the manifest"),
        ("row,path,part", "row,part", "is not a split file as"),
        ("# seed: 0", "# seed: zero", "is not a split file as"),
    ],
)
def test_a_damaged_split_is_refused(tmp_path, old, new, told):
    found = listed(tmp_path)
    path = tmp_path / "split.csv"
    splits.write(path, splits.by_patient(found, 0), found)
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(UnusableData) as caught:
        splits.read(path, found)
    assert told in str(caught.value)


@pytest.mark.parametrize("lines", range(1, 4))
def test_a_split_cut_off_in_its_header_is_refused(tmp_path, lines):
    found = listed(tmp_path)
    path = tmp_path / "split.csv"
    whole = splits.as_csv(splits.by_patient(found, 0), found)
    path.write_bytes(b"".join(whole.splitlines(keepends=True)[:lines]))
    with pytest.raises(UnusableData, match="is not a split file as"):
        splits.read(path, found)


@pytest.mark.parametrize("times", [0, 2])
def test_a_split_that_lacks_or_repeats_a_row_is_refused(tmp_path, times):
    found = listed(tmp_path)
    path = tmp_path / "split.csv"
    lines = splits.as_csv(splits.by_patient(found, 0), found).splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:-1], *lines[-1:] * times]))
    with pytest.raises(UnusableData, match="lacks or repeats rows"):
        splits.read(path, found)


def test_a_split_that_puts_a_patient_into_two_parts_is_refused(tmp_path):
    found = listed(tmp_path)
    path = tmp_path / "split.csv"
    split = splits.by_patient(found, 0)
    part = PARTS[split.parts[0]]
    splits.write(path, split, found)
    other = "test" if part != "test" else "train"
    path.write_text(path.read_text().replace(f"normal0-0.png,{part}", f"normal0-0.png,{other}"))
    told = f"row 6, part: '{part}' for manifest row 3, but '{other}' for row 2 of the same patient"
    with pytest.raises(UnusableData, match=told):
        splits.read(path, found)


def test_the_manifests_own_split_is_taken_as_it_is(tmp_path):
    split_of = {"0": "train", "1": "validation", "2": "test"}
    rows = [row | {"split": split_of.get(row["patient_id"][-1], "train")} for row in entries(many())]
    found = manifest.read(table(tmp_path, rows))
    split = splits.given(found)
    assert [PARTS[part] for part in split.parts] == [row["split"] for row in rows]
    with pytest.raises(UnusableData, match="has no column split"):
        splits.given(listed(tmp_path / "without"))


@pytest.mark.parametrize(
    ("part_of", "told"),
    [
        ({"0": "train", "1": "validation"}, "row 1, split: no row says 'test'; each of train, validation, test"),
        ({"0": "train", "1": "validation", "2": "test"}, "row 8, split: no row of 'test' has ich 1; each part needs"),
    ],
)
def test_a_part_that_the_manifest_leaves_without_a_class_is_named(tmp_path, part_of, told):
    rows = entries([("normal0", ""), ("normal1", ""), ("normal2", ""), ("deep0", "deep"), ("deep1", "deep")])
    rows = [row | {"split": part_of.get(row["patient_id"][-1], "train")} for row in rows]
    with pytest.raises(UnusableData, match=told):
        splits.given(manifest.read(table(tmp_path, rows)))


def test_a_manifest_only_measured_on_is_all_test(tmp_path):
    split = splits.whole(listed(tmp_path))
    assert np.unique(split.parts).tolist() == [PARTS.index("test")]
