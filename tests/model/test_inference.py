from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from untrained import untrained_checkpoint

from dtvit import ct, preprocess
from dtvit.checkpoint import UnusableCheckpoint
from dtvit.findings import LOCATIONS
from dtvit.inference import PART, Classifier, NotFinite, UnavailableDevice, choose_device, choose_precision


@pytest.fixture
def pictures():
    return np.random.default_rng(4).integers(0, 256, (5, 224, 224), dtype=np.uint8)


@pytest.fixture
def path(tmp_path):
    return untrained_checkpoint(tmp_path / "untrained.safetensors")


def test_probabilities_come_for_each_picture_in_order(path, pictures):
    classifier = Classifier.load(path, device="cpu")

    found = classifier.predict(pictures)
    turned = classifier.predict(pictures[::-1])

    assert found.presence.shape == (5,)
    assert found.location.shape == (5, len(LOCATIONS))
    assert np.all((found.presence > 0) & (found.presence < 1))
    assert np.allclose(found.location.sum(1), 1)
    assert len(set(found.presence.round(6))) == 5
    assert np.allclose(turned.presence[::-1], found.presence, atol=1e-6)


def test_two_threads_may_ask_at_a_time(path, pictures, monkeypatch):
    alone = Classifier.load(path, device="cpu").predict(pictures)
    monkeypatch.setattr(Classifier, "aside", True)  # as on a GPU, which is given one batch after the other
    classifier = Classifier.load(path, device="cpu")

    with ThreadPoolExecutor(2) as threads:
        first, turned = threads.map(classifier.predict, [pictures, pictures[::-1]])

    assert np.allclose(first.presence, alone.presence, atol=1e-6)
    assert np.allclose(turned.presence[::-1], alone.presence, atol=1e-6)


def test_repeating_gives_the_same_numbers_and_batches_do_not_matter(path, pictures):
    whole = Classifier.load(path, device="cpu").predict(pictures)
    again = Classifier.load(path, device="cpu").predict(pictures)
    parts = Classifier.load(path, device="cpu", batch=2).predict(pictures)

    assert np.array_equal(whole.presence, again.presence)
    assert np.array_equal(whole.location, again.location)
    assert np.allclose(whole.presence, parts.presence, atol=1e-5)


@pytest.mark.parametrize(("count", "parts"), [(2 * PART - 1, 1), (2 * PART, 2), (3 * PART + 3, 3)])
def test_parts_of_a_batch_are_computed_side_by_side_and_come_in_order(path, count, parts):
    pictures = np.random.default_rng(4).integers(0, 256, (count, 224, 224), dtype=np.uint8)
    before, sizes = torch.get_num_threads(), []
    try:
        one = Classifier.load(path, device="cpu", threads=1).predict(pictures)
        several = Classifier.load(path, device="cpu", threads=3)
        several._model.presence.register_forward_pre_hook(lambda _module, args: sizes.append(len(args[0])))

        found = several.predict(pictures)

        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert (len(sizes), sum(sizes)) == (parts, count)
    assert np.allclose(found.presence, one.presence, atol=1e-5)
    assert np.allclose(found.location, one.location, atol=1e-5)


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        ((0.2, 0.2, 0.2), (0.3, 0.3, 0.3)),
        ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ((0.2, 0.3, 0.4), (0.5, 0.5, 0.5)),
        ((0.5, 0.5, 0.5), (0.2, 0.3, 0.4)),
    ],
)
def test_pixels_reach_the_model_normalised_as_the_checkpoint_says(tmp_path, pictures, mean, std):
    path = untrained_checkpoint(tmp_path / "a.safetensors", mean=mean, std=std)
    classifier = Classifier.load(path, device="cpu")
    seen = []
    classifier._model.encoder.patch_embed.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))

    classifier.predict(pictures)

    expected = (pictures[:, None] / 255 - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    assert torch.allclose(seen[0], torch.from_numpy(expected).float(), atol=1e-5)


def test_a_fourth_location_is_dropped_and_the_rest_scaled(tmp_path, pictures):
    path = untrained_checkpoint(tmp_path / "four.safetensors", location_classes=(*LOCATIONS, "none"))
    classifier = Classifier.load(path, device="cpu")
    logits = []
    classifier._model.location.register_forward_hook(lambda _module, _args, output: logits.append(output))

    found = classifier.predict(pictures).location

    of_four = logits[0].double().softmax(1).numpy()
    assert of_four.shape == (5, 4)
    assert np.allclose(found, of_four[:, :3] / of_four[:, :3].sum(1, keepdims=True))


def test_each_temperature_flattens_its_own_head(tmp_path, pictures):
    plain = Classifier.load(untrained_checkpoint(tmp_path / "a.safetensors"), device="cpu").predict(pictures)
    path = untrained_checkpoint(tmp_path / "b.safetensors", presence_temperature=4.0, location_temperature=2.0)
    flat = Classifier.load(path, device="cpu").predict(pictures)

    def logit(p):
        return np.log(p / (1 - p))

    assert np.allclose(logit(flat.presence), logit(plain.presence) / 4)
    softened = plain.location**0.5
    assert np.allclose(flat.location, softened / softened.sum(1, keepdims=True))


def test_a_checkpoint_for_other_pictures_than_it_will_be_given_is_refused(tmp_path):
    path = untrained_checkpoint(tmp_path / "paper.safetensors", preprocessing=(preprocess.preprocessing("paper"),))
    assert Classifier.load(path, device="cpu", preprocessing=preprocess.offered("paper"))
    with pytest.raises(UnusableCheckpoint, match="paper-1"):
        Classifier.load(path, device="cpu", preprocessing=preprocess.offered("robust"))


def test_no_pictures_give_no_probabilities(path):
    found = Classifier.load(path, device="cpu").predict(np.empty((0, 224, 224), np.uint8))

    assert found.presence.shape == (0,)
    assert found.location.shape == (0, 3)


@pytest.mark.parametrize(
    "wrong", [np.zeros((2, 224, 224), np.float32), np.zeros((224, 224), np.uint8), np.zeros((1, 256, 256), np.uint8)]
)
def test_pictures_of_another_kind_are_refused(path, wrong):
    with pytest.raises(ValueError, match="uint8 of shape"):
        Classifier.load(path, device="cpu").predict(wrong)


def test_a_number_that_is_not_finite_is_no_result(path, pictures):
    classifier = Classifier.load(path, device="cpu")
    with torch.no_grad():
        next(classifier._model.encoder.parameters()).fill_(float("nan"))
    with pytest.raises(NotFinite, match=classifier.checkpoint.digest[:12]):
        classifier.predict(pictures)


def test_auto_takes_what_is_there():
    assert choose_device("auto").type in ("cuda", "mps", "cpu")


@pytest.mark.parametrize("device", ["cuda:99", "tpu", "cpu:one"])
def test_a_device_that_is_not_there_is_refused(device):
    with pytest.raises(UnavailableDevice, match=f"{device}.*this machine has.*cpu"):
        choose_device(device)


def test_threads_can_be_limited(path):
    before = torch.get_num_threads()
    try:
        Classifier.load(path, device="cpu", threads=1)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("has", [{}, {"avx512_bf16": False}, {"avx512_bf16": True}, {"amx_bf16": True}])
def test_auto_takes_bf16_where_the_cpu_has_it(has, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has, raising=False)

    assert choose_precision("auto", torch.device("cpu")) == ("bf16" if any(has.values()) else "fp32")
    assert choose_precision("auto", torch.device("mps")) == "fp32"
    assert choose_precision("fp32", torch.device("cpu")) == "fp32"


@pytest.mark.parametrize("amx", [False, True])  # without it, attention goes another way
@pytest.mark.parametrize("encoder", ["test_vit", "resnet18"])
def test_bf16_is_near_fp32_and_really_used(tmp_path, pictures, encoder, amx, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": amx}, raising=False)
    path = untrained_checkpoint(tmp_path / "model.safetensors", encoder=encoder)
    exact = Classifier.load(path, device="cpu").predict(pictures)

    found = Classifier.load(path, device="cpu", precision="bf16").predict(pictures)

    assert np.abs(found.presence - exact.presence).max() < 0.05  # weights are random here, and spread
    assert np.abs(found.location - exact.location).max() < 0.05
    assert not np.array_equal(found.presence, exact.presence)
    assert np.abs(found.presence - exact.presence).mean() > 1e-6


def test_on_real_slices_bf16_agrees_with_fp32_within_a_hundredth(shared_data):
    exact, fast = (Classifier.load(device="cpu", precision=precision) for precision in ("fp32", "bf16"))
    geometry = preprocess.geometry_of(exact.checkpoint.metadata.preprocessing)
    files = sorted((shared_data / "head-ct" / "ge_hispeed_human_28").glob("*.dcm"))[::3]
    slices = [one for path in files for one in ct.read(path)]
    inputs = np.stack([preprocess.prepare(one, geometry=geometry).input for one in slices])

    found, expected = fast.predict(inputs), exact.predict(inputs)

    assert len(slices) > 6
    assert np.abs(found.presence - expected.presence).max() < 0.01
    assert np.abs(found.location - expected.location).max() < 0.01
