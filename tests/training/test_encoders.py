"""Every encoder of both papers trains, with weights of its own or from a file; offline this is said at once."""

import copy
import importlib.util
import pathlib
import sys
import time

import pytest
import timm
import torch
from learning import batch_of, filed_heads, recipe, without_network, written
from safetensors.torch import save_file
from torchvision import models

from dtvit.checkpoint import describe
from dtvit.model import DTViT, UnknownEncoder
from train.learning import pretrained
from train.learning.learner import Learner, loss
from train.learning.optimiser import optimiser
from train.learning.pretrained import UnavailableWeights

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "encoder", ["resnet18", "vgg16_bn", "densenet161", "vit_base_patch16_224", "alexnet", "squeezenet1_0"]
)
def test_an_encoder_of_each_family_takes_a_step(encoder):
    torch.manual_seed(0)
    given = recipe(encoder=encoder, location_outputs=4, optimiser="sgd", learning_rate=1e-3, blood_loss=0.0)
    learner = Learner(DTViT(encoder, 4), blood_head=False).train()
    moved = [next(learner.model.encoder.parameters()), learner.model.presence.weight, learner.model.location.weight]
    before = [parameter.detach().clone() for parameter in moved]
    made = optimiser(learner, given)
    batch = batch_of([1], [1])
    batch.pictures.uniform_()

    cost = loss(learner(batch.pictures), batch, None, given)
    cost.backward()
    made.step()

    assert torch.isfinite(cost)
    for old, new in zip(before, moved, strict=True):
        assert torch.isfinite(new).all()
        assert not torch.equal(old, new)


@pytest.mark.parametrize("encoder", ["resnet34", "vit_large_patch16_224", "vit_huge_patch14_224"])
def test_the_larger_ones_can_be_built(encoder):
    with torch.device("meta"):
        model = DTViT(encoder, 4)
        presence, location = model(torch.zeros(1, 3, 224, 224))
    assert (presence.shape, location.shape) == ((1, 2), (1, 4))


def test_a_vit_with_patches_of_14_pixels_learns_where_blood_is():
    """Its patches cut the cells of the map of blood."""
    from train.learning.lessons import first_lessons

    learner = Learner(DTViT("vit_tiny_patch16_224"))
    learner.model.encoder = timm.create_model(
        "vit_tiny_patch16_224", patch_size=14, embed_dim=24, num_heads=2, depth=2, num_classes=0
    )
    learner.blood = torch.nn.Linear(24, 1)
    blood = torch.zeros(2, 56, 56, dtype=torch.uint8)
    blood[0, 20:30, 20:30] = 255
    pictures = torch.full((2, 224, 224), 100, dtype=torch.uint8)
    cost = first_lessons(learner, pictures, blood, 2, torch.autocast("cpu", enabled=False))
    assert 0 < cost < 5


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
@pytest.mark.parametrize("encoder", ["test_vit", "resnet18", "squeezenet1_0"])
def test_weights_come_from_a_file(tmp_path, encoder, ending):
    torch.manual_seed(7)
    whole = models.squeezenet1_0() if encoder == "squeezenet1_0" else timm.create_model(encoder)
    path = tmp_path / f"weights.{ending}"
    if ending == "pth":
        torch.save(whole.state_dict(), path)
    else:
        save_file({key: value.contiguous() for key, value in whole.state_dict().items()}, path)
    torch.manual_seed(8)

    model, start = pretrained.model(recipe(encoder=encoder, pretrained=str(path)))

    loaded, given = model.encoder.state_dict(), whole.state_dict()
    # test_vit's file is of another size, and timm fits its positions to ours
    assert all(torch.equal(value, given[key]) for key, value in loaded.items() if key != "pos_embed")
    assert start.told == f"weights of weights.{ending}"
    assert f"weights.{ending}, whose publisher knows" in start.licence


def test_weights_from_a_file_cost_one_encoder_and_leave_nothing_behind(tmp_path, monkeypatch):
    path, made, create = tmp_path / "weights.pth", [], timm.create_model
    torch.save(create("test_vit").state_dict(), path)

    def counted(*given, **named):
        made.append(create(*given, **named))
        return made[-1]

    monkeypatch.setattr(timm, "create_model", counted)
    model, _ = pretrained.model(recipe(encoder="test_vit", pretrained=str(path)))
    assert len(made) == 1
    copy.deepcopy(model).load_state_dict(model.state_dict())  # as the running mean does
    assert not any(module._load_state_dict_post_hooks for module in model.modules())


def test_a_weight_file_that_lacks_one_matrix_is_refused_naming_it(tmp_path):
    path, whole = tmp_path / "weights.pth", timm.create_model("test_vit").state_dict()
    del whole["blocks.1.mlp.fc1.weight"]
    torch.save(whole, path)
    with pytest.raises(UnavailableWeights, match=r"1 are missing, such as blocks\.1\.mlp\.fc1\.weight"):
        pretrained.model(recipe(encoder="test_vit", pretrained=str(path)))


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "no such file"), (b"not weights", ""), ([1.0], "no table of weights"), ({}, "no weight")],
)
def test_a_file_without_weights_is_refused(tmp_path, content, said):
    path = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(
        UnavailableWeights, match=rf"weights\.pth gives no weights for resnet18 \({said}.*--pretrained none"
    ):
        pretrained.model(recipe(encoder="resnet18", pretrained=str(path)))


class Creating:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


@pytest.mark.parametrize("encoder", ["test_vit", "alexnet"])
def test_no_program_in_a_weight_file_is_run(tmp_path, encoder):
    path, ran = tmp_path / "weights.pth", tmp_path / "ran"
    torch.save({"state_dict": Creating(ran)}, path)
    with pytest.raises(UnavailableWeights, match=r"neither safetensors nor a pth file of weights alone"):
        pretrained.model(recipe(encoder=encoder, pretrained=str(path)))
    assert not ran.exists()


def test_no_program_in_a_file_fetched_before_is_run(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    fetched = pathlib.Path(models.AlexNet_Weights.DEFAULT.url).name
    path, ran = tmp_path / "hub" / "checkpoints" / fetched, tmp_path / "ran"
    path.parent.mkdir(parents=True)
    torch.save({"features.0.weight": Creating(ran)}, path)
    with pytest.raises(UnavailableWeights, match="alexnet cannot be fetched"):
        pretrained.model(recipe(encoder="alexnet", pretrained="auto"))
    assert not ran.exists()


def test_weights_of_another_encoder_are_refused(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(timm.create_model("resnet18").state_dict(), path)
    with pytest.raises(UnavailableWeights, match="gives no weights for test_vit"):
        pretrained.model(recipe(encoder="test_vit", pretrained=str(path)))


@pytest.mark.parametrize("encoder", ["resnet18", "alexnet"])
def test_without_a_network_auto_says_what_to_do(tmp_path, monkeypatch, encoder):
    without_network(monkeypatch, tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("no_proxy", "*")
    started = time.monotonic()
    with pytest.raises(UnavailableWeights, match=rf"{encoder} cannot be fetched.*--pretrained FILE.*--pretrained none"):
        pretrained.model(recipe(encoder=encoder, pretrained="auto"))
    assert time.monotonic() - started < 20  # the hub's own client would try for three quarters of a minute


def test_a_custom_encoder_trains_and_is_measured_by_the_script_of_the_docs(tmp_path, monkeypatch):
    script, listed = tmp_path / "mine.py", filed_heads(tmp_path / "pictures")
    script.write_text(written("training.md", '"""python mine.py'))
    spec = importlib.util.spec_from_file_location("mine", script)
    mine = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "mine", mine)
    spec.loader.exec_module(mine)
    shared = ["--data", str(listed), "--device", "cpu", "--threads", "1"]

    given = ["--recipe", "v2", "--encoder", "mine", "--pretrained", "none", "--set", "epochs=0.1", "--split", "given"]
    assert mine.main(["fit", *shared, *given, "--output", str(tmp_path / "run")]) == 0
    made = tmp_path / "run" / "dtvit-v2.safetensors"
    assert describe(made).metadata.encoder == "mine"
    output = tmp_path / "evaluation"
    assert mine.main(["evaluate", str(made), *shared, "--output", str(output), "--resamples", "20"]) == 0
    assert (output / "report.html").exists()


def test_no_weights_are_from_scratch():
    assert pretrained.model(recipe())[1] == pretrained.Start("from scratch", licence="")


def test_an_unknown_encoder_is_refused_with_the_nearest_names():
    with pytest.raises(UnknownEncoder, match="squeezenet1_0"):
        pretrained.model(recipe(encoder="squeezenet1_1"))


@pytest.mark.parametrize(
    ("encoder", "said"),
    [
        ("vgg16_bn", "(timm/vgg16_bn.tv_in1k), for which timm states the licence bsd-3-clause"),
        ("alexnet", "(torchvision alexnet), for which torchvision states no licence"),
    ],
)
def test_the_licence_of_weights_is_what_their_library_says(encoder, said):
    assert said in pretrained.published(encoder)
