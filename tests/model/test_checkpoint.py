import errno
import hashlib
import json
import os
import struct
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from untrained import PREPROCESSING, metadata, untrained_checkpoint

from dtvit.brace import MODES
from dtvit.checkpoint import HEADER_KEY, NOTICE, SHIPPED, Metadata, UnusableCheckpoint, describe, load, save
from dtvit.model import DTViT
from dtvit.preprocess import HEAD_BOX, SHORT_SIDE, SIDE, WINDOW_HU, preprocessing


def rewrite(path, *, tensors=None, **changes):
    """The same file with other tensors or other metadata; a field set to None is left out."""
    with safe_open(path, framework="numpy") as file:
        fields = json.loads(file.metadata()[HEADER_KEY])
    fields = {key: value for key, value in {**fields, **changes}.items() if value is not None}
    save_file(tensors or load_file(path), path, {HEADER_KEY: json.dumps(fields)})


@pytest.fixture
def path(tmp_path):
    return untrained_checkpoint(tmp_path / "untrained.safetensors")


def test_what_was_saved_is_what_is_described(path):
    found = describe(path)

    assert found.metadata == metadata()
    assert found.metadata.notice == NOTICE
    assert found.digest == hashlib.sha256(path.read_bytes()).hexdigest()


def test_describing_needs_no_torch(path):
    code = f"import sys; from dtvit.checkpoint import describe; describe({str(path)!r}); print('torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "False"


@pytest.mark.parametrize("classes", [("deep", "lobar", "subtentorial"), ("deep", "lobar", "subtentorial", "none")])
def test_weights_survive_within_half_precision(tmp_path, classes):
    torch.manual_seed(3)
    model = DTViT("test_vit", len(classes), "mlp").eval()
    save(tmp_path / "a.safetensors", model.state_dict(), metadata(location_classes=classes, head="mlp"))

    loaded, found = load(tmp_path / "a.safetensors")

    images = torch.rand(2, 3, 224, 224)
    for mine, its in zip(model(images), loaded(images), strict=True):
        assert torch.allclose(mine, its, atol=2e-2)
    assert not loaded.training
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert found.parameters == sum(p.numel() for p in model.parameters())


def test_an_encoder_with_tables_that_no_checkpoint_holds_is_loaded(tmp_path):
    """As Swin, DINOv3 and others have: which patch is where."""
    torch.manual_seed(3)
    model = DTViT("eva02_tiny_patch14_224").eval()
    save(tmp_path / "a.safetensors", model.state_dict(), metadata(encoder="eva02_tiny_patch14_224"))

    loaded, _ = load(tmp_path / "a.safetensors")

    images = torch.rand(2, 3, 224, 224)
    for mine, its in zip(model(images), loaded(images), strict=True):
        assert torch.allclose(mine, its, atol=2e-2)


def test_equal_weights_and_metadata_have_one_digest(tmp_path):
    first, second = (untrained_checkpoint(tmp_path / name, seed=5) for name in ("a.safetensors", "b.safetensors"))
    other = untrained_checkpoint(tmp_path / "c.safetensors", seed=6)

    assert describe(first).digest == describe(second).digest != describe(other).digest


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UnusableCheckpoint, match=r"nowhere\.safetensors.*No such file"):
        describe(tmp_path / "nowhere.safetensors")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 a zip file", b"\xff" * 64])
def test_a_file_of_another_kind_is_refused(tmp_path, content):
    (tmp_path / "model.pt").write_bytes(content)
    with pytest.raises(UnusableCheckpoint, match="not a whole safetensors file"):
        describe(tmp_path / "model.pt")


def test_a_truncated_file_is_refused(path):
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UnusableCheckpoint, match="not a whole safetensors file"):
        load(path)


def test_weights_without_metadata_are_refused(tmp_path):
    save_file({"a": torch.zeros(2)}, tmp_path / "bare.safetensors")
    with pytest.raises(UnusableCheckpoint, match="without DTViT metadata"):
        load(tmp_path / "bare.safetensors")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": "dtvit-checkpoint-9"}, "dtvit-checkpoint-9"),
        ({"format": None}, "None"),
        ({"encoder": None}, "incomplete.*encoder"),
        ({"encoder": "vit_unheard_of"}, "vit_unheard_of"),
        ({"head": "quadratic"}, "quadratic"),
        ({"slice_thresholds": {"absent_below": 0.9, "present_at": 0.2}}, "absent_below"),
        ({"location_classes": ["left", "right", "middle"]}, "location_classes"),
        ({"presence_temperature": 0}, "presence_temperature"),
        ({"colour": "blue"}, "colour"),
        ({"window_hu": [-20, 200]}, r"window_hu is always \(0\.0, 80\.0\), got \(-20, 200\)"),
        ({"resize_pixels": 512}, "resize_pixels is always 256, got 512"),
        ({"crop_pixels": 448}, "crop_pixels is always 224, got 448"),
        ({"encoder": ["vit"]}, "must be text"),
        ({"encoder": "vit_tiny_patch16_224"}, r"not those of vit_tiny_patch16_224 \(.* has shape"),
    ],
)
def test_wrong_metadata_is_refused_by_name(path, change, said):
    rewrite(path, **change)
    with pytest.raises(UnusableCheckpoint, match=said):
        load(path)


def test_metadata_steers_no_terminal_and_what_was_saved_is_read_again_whatever_letters_it_has(tmp_path):
    given = {
        "name": "\x1b]0;\x07",
        "licence": "CC\xa0BY",
        "training": {"b\x9b": ["R\udcf6.csv", 1]},
        "limits": ("a\nb",),
    }
    found = describe(untrained_checkpoint(tmp_path / "odd.safetensors", **given)).metadata
    assert (found.name, found.licence, found.limits) == ("?]0;?", "CC?BY", ("a\nb",))
    assert found.training == {"b?": ["R?.csv", 1]}


def test_no_error_repeats_what_steers_a_terminal(path):
    rewrite(path, tensors=load_file(path) | {"\x1b]0;\x07": torch.zeros(2)})
    with pytest.raises(UnusableCheckpoint, match=r"\?\]0;\? has no place in it"):
        load(path)
    header = json.dumps({"a": {"dtype": "\x1b]0;\x07", "shape": [], "data_offsets": [0, 0]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(UnusableCheckpoint, match="is not a whole safetensors file") as caught:
        describe(path)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("metadata", ["[1]", "[" * 100_000, "5"])
def test_metadata_of_another_shape_is_refused(tmp_path, metadata):
    save_file({"a": torch.zeros(2)}, tmp_path / "odd.safetensors", {HEADER_KEY: metadata})
    with pytest.raises(UnusableCheckpoint, match="not a JSON object"):
        describe(tmp_path / "odd.safetensors")


def test_missing_and_surplus_weights_are_named(path):
    tensors = load_file(path)
    rewrite(path, tensors={key: value for key, value in tensors.items() if key != "presence.bias"})
    with pytest.raises(UnusableCheckpoint, match=r"presence\.bias is missing"):
        load(path)
    rewrite(path, tensors={**tensors, "third.bias": torch.zeros(2)})
    with pytest.raises(UnusableCheckpoint, match=r"third\.bias has no place"):
        load(path)


def test_another_preprocessing_is_refused(path):
    load(path, preprocessing=["other-9", *PREPROCESSING])
    with pytest.raises(UnusableCheckpoint, match=r"untrained-1.*other-9"):
        load(path, preprocessing=["other-9"])


def test_weights_that_diverged_are_not_saved(path):
    before = path.read_bytes()
    state = {**load_file(path), "presence.bias": torch.tensor([float("nan"), 0.0])}
    with pytest.raises(ValueError, match="diverged"):
        save(path, state, metadata())
    assert path.read_bytes() == before


def test_a_full_disk_keeps_the_previous_checkpoint(path, monkeypatch):
    before = path.read_bytes()

    def full(_descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        untrained_checkpoint(path, seed=9)

    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_the_shipped_checkpoint_fits_this_program_and_its_card():
    found = describe(SHIPPED)

    assert SHIPPED.stat().st_size <= 45_000_000
    assert found.metadata.notice == NOTICE
    assert "335 patients" in found.metadata.patients_seen
    assert {preprocessing(mode, HEAD_BOX) for mode in MODES} == set(found.metadata.preprocessing)
    assert found.metadata.limits
    assert found.digest in (SHIPPED.parent / "MODEL-CARD.md").read_text()
    assert "research" in (SHIPPED.parent / "LICENSE").read_text()


def test_a_checkpoint_says_how_pictures_are_made():
    assert (Metadata.window_hu, Metadata.resize_pixels, Metadata.crop_pixels) == (WINDOW_HU, SHORT_SIDE, SIDE)
