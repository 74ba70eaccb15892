"""`export`: the same numbers for another program, what goes with them, and nothing where that cannot be had."""

import json
import sys

import numpy as np
import pytest
import torch
from untrained import untrained_checkpoint

from dtvit.checkpoint import NOTICE, SHIPPED, describe
from dtvit.inference import Classifier
from dtvit.preprocess import preprocessing
from train import exporting
from train.commands.export import main

FOUR = ("deep", "lobar", "subtentorial", "none")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """As little like the default as may be: other scaling, temperatures, a fourth location."""
    return untrained_checkpoint(
        tmp_path_factory.mktemp("checkpoint") / "small.safetensors",
        preprocessing=(preprocessing(),),
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        presence_temperature=2.5,
        location_temperature=0.7,
        location_classes=FOUR,
        head="mlp",
    )


@pytest.fixture(autouse=True)
def quick_phantoms(monkeypatch):
    """One slice of each phantom instead of three, drawn once: rendering is what takes time."""
    drawn = exporting.phantom_slices
    kept = {}

    def once(checkpoint):
        if not kept:
            kept[0] = drawn(checkpoint)[::3]
        return kept[0]

    monkeypatch.setattr(exporting, "phantom_slices", once)


def run(checkpoint, kind, output):
    return main([str(checkpoint), "--format", kind, "--output", str(output)], "export")


def pictures(count):
    return np.random.default_rng(1).integers(0, 256, (count, 224, 224), dtype=np.uint8)


def test_onnx_gives_the_probabilities_of_the_node_for_any_number_of_slices(checkpoint, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    assert run(checkpoint, "onnx", tmp_path / "model.onnx") == 0

    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    node = Classifier.load(checkpoint, device="cpu")

    for count in (1, 5):
        presence, location = session.run(["presence", "location"], {"pictures": pictures(count)})
        given = node.predict(pictures(count))
        assert np.allclose(presence, given.presence, atol=1e-5)
        assert np.allclose(location, given.location, atol=1e-5)
    told = session.get_modelmeta().custom_metadata_map
    assert told["notice"] == NOTICE
    assert told["preprocessing"] == preprocessing()
    assert float(told["slice_present_at"]) == describe(checkpoint).metadata.slice_thresholds.present_at
    assert told["checkpoint_sha256"] == describe(checkpoint).digest


def test_torch_export_gives_the_probabilities_of_the_node_and_a_readme(checkpoint, tmp_path, capsys):
    (tmp_path / "README.md").write_text("of somebody else")
    assert run(checkpoint, "torch-export", tmp_path / "model.pt2") == 0

    inside = {"dtvit.json": ""}
    program = torch.export.load(tmp_path / "model.pt2", extra_files=inside).module()
    presence, location = program(torch.from_numpy(pictures(5)))

    given = Classifier.load(checkpoint, device="cpu").predict(pictures(5))
    assert np.allclose(presence.detach(), given.presence, atol=1e-5)
    assert np.allclose(location.detach(), given.location, atol=1e-5)
    assert json.loads(inside["dtvit.json"])["series_absent_below"] == 0.2
    assert "largest difference in any probability on 3 phantom slices" in capsys.readouterr().out
    readme = (tmp_path / "model.pt2.README.md").read_text()
    assert NOTICE in readme
    assert preprocessing() in readme
    assert "slice_present_at | 0.6" in readme
    assert (tmp_path / "README.md").read_text() == "of somebody else"


def exporter(monkeypatch, *, off=0.0):
    """torch's exporter, which takes seconds, replaced by one whose program gives locations `off` by so much."""

    def make(portable, _checkpoint, _pictures):
        def run(inputs):
            with torch.inference_mode():
                presence, location = portable(torch.from_numpy(inputs))
            return presence.numpy(), location.numpy() + off

        return b"newer", run

    monkeypatch.setitem(exporting._MAKERS, "torch-export", make)


@pytest.mark.parametrize("off", [0.01, float("nan")])
def test_other_numbers_than_the_nodes_are_refused_and_nothing_is_left(checkpoint, tmp_path, monkeypatch, capsys, off):
    exporter(monkeypatch, off=off)

    assert run(checkpoint, "torch-export", tmp_path / "model.pt2") == 1
    assert f"differ by {off}" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("at", [1, 2])
def test_a_full_disk_leaves_the_older_file_and_no_readme(checkpoint, tmp_path, monkeypatch, capsys, at):
    exporter(monkeypatch)
    (tmp_path / "model.pt2").write_bytes(b"older")
    written = []

    def full(_descriptor):
        written.append(1)
        if len(written) == at:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)

    assert run(checkpoint, "torch-export", tmp_path / "model.pt2") == 1
    assert "No space left" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt2"]
    assert (tmp_path / "model.pt2").read_bytes() == b"older"


@pytest.mark.parametrize("kind", ["onnx", "torch-export", "card"])
def test_a_file_that_is_not_a_checkpoint_is_refused(kind, tmp_path, capsys):
    assert run(tmp_path / "none.safetensors", kind, tmp_path / "out") == 1
    assert run(tmp_path, kind, tmp_path / "out") == 1

    said = capsys.readouterr().err
    assert "none.safetensors: cannot be read (No such file" in said
    assert "cannot be read (Is a directory)" in said
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_to_is_refused(checkpoint, tmp_path, capsys):
    (tmp_path / "file").write_text("no folder")

    assert run(checkpoint, "card", tmp_path / "file" / "card.md") == 1
    assert "cannot be written" in capsys.readouterr().err


def test_onnx_without_its_packages_says_which(checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnxscript", None)

    assert run(checkpoint, "onnx", tmp_path / "model.onnx") == 1
    assert "install dicom-node[onnx]" in capsys.readouterr().err


def test_weights_too_large_for_one_onnx_file_are_refused(checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(exporting, "ONE_FILE", 1000)

    assert run(checkpoint, "onnx", tmp_path / "model.onnx") == 1
    assert "use --format torch-export" in capsys.readouterr().err


def test_any_checkpoint_gives_a_card(checkpoint, tmp_path):
    odd = untrained_checkpoint(
        tmp_path / "odd.safetensors", training={"steps_done": 3}, metrics={"made": "by hand"}, limits=("Sees nothing.",)
    )
    for number, path in enumerate((checkpoint, odd, SHIPPED)):
        assert run(path, "card", tmp_path / f"{number}.md") == 0
        card = (tmp_path / f"{number}.md").read_text()
        assert NOTICE in card
        assert describe(path).digest in card
    assert "Sees nothing." in (tmp_path / "1.md").read_text()
    assert "AUC, hemorrhage" in card


def test_a_card_says_each_thing_once_and_of_a_phantom_only_where_one_taught_it(checkpoint, tmp_path):
    told = "198 slices of 33 patients (list.csv)."
    both = f"{told} Phantoms."
    of_patients = untrained_checkpoint(tmp_path / "patients.safetensors", training_data=told, patients_seen=told)
    of_both = untrained_checkpoint(tmp_path / "both.safetensors", training_data=both, patients_seen=told)
    of_phantoms = untrained_checkpoint(
        tmp_path / "phantoms.safetensors", training_data="Phantoms.", patients_seen="none"
    )
    cards = {}
    for path in (of_patients, of_both, of_phantoms):
        assert run(path, "card", tmp_path / f"{path.stem}.md") == 0
        cards[path.stem] = (tmp_path / f"{path.stem}.md").read_text()

    assert cards["patients"].count("198 slices of 33 patients") == cards["both"].count("198 slices of 33 patients") == 1
    assert ".." not in cards["patients"]
    assert "phantom" not in cards["patients"]
    assert "other scanners, kernels and protocols than those of its training data" in cards["patients"]
    assert "Patients seen: none." in cards["phantoms"]
    assert "of which a phantom is a guess" in cards["phantoms"]
