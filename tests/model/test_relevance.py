"""Where the presence head looked."""

import copy
import threading

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import ParallelThingsBlock, VisionTransformer
from torch import nn
from untrained import untrained_checkpoint

from dtvit.inference import Classifier, NotFinite
from dtvit.model import DTViT
from dtvit.preprocess import GEOMETRIES, HEAD_BOX, in_slice, model_input, view_of
from dtvit.turning import upright
from dtvit.vit.relevance import NoAttention, relevance

PATCH = 56
GRID = 224 // PATCH  # 4 x 4 patches: 15 of 16 are wrong, and a test trains within two seconds
SUPINE = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def small(**options):
    """A DTViT with an encoder as timm's VisionTransformer makes it with `options`; its weights are larger than
    timm's, so that it answers differently to different images and learns fast."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = DTViT("test_vit")
        made = {"embed_dim": 64, "patch_size": PATCH, "depth": 2, "num_heads": 2, **options}
        model.encoder = VisionTransformer(img_size=224, num_classes=0, **made)
        model.presence = nn.Linear(model.encoder.num_features, 2)
        for parameter in model.parameters():
            if parameter.ndim == 2:
                nn.init.xavier_uniform_(parameter)
            elif parameter.ndim == 4:
                nn.init.normal_(parameter, std=0.02)
    return model.eval()


@torch.no_grad()
def reading_brightness(patch=PATCH):
    """A ViT whose score is known: the class token attends to patch i with softmax(b)_i and sums b_i, its brightness.

    So d score / d A_i = b_i, and the map is the positive part of b softmax(b).
    """
    model = small(embed_dim=2, depth=1, num_heads=1, patch_size=patch, norm_layer=nn.Identity)
    for parameter in model.parameters():
        parameter.zero_()
    encoder = model.encoder
    encoder.patch_embed.proj.weight[0] = 1 / (3 * patch**2)  # a token is (b, 0), the class token (0, 0)
    attention = encoder.blocks[0].attn
    attention.qkv.bias[0] = 2**0.5  # query (sqrt 2, 0), which undoes attention's division by sqrt(width)
    attention.qkv.weight[2, 0] = 1  # key (b, 0)
    attention.qkv.weight[5, 0] = 1  # value (0, b)
    attention.proj.weight.copy_(torch.eye(2))
    model.presence.weight[1, 1] = 1
    return model


def in_patches(brightness):
    """(N, rows, columns) of one value each as images (N, 3, 224, 224)."""
    side = 224 // brightness.shape[-1]
    return brightness[:, None].repeat_interleave(side, 2).repeat_interleave(side, 3).expand(-1, 3, -1, -1)


def as_published(model, images):
    """The ICCV 2021 paper's equations, with the whole of R, over timm's own attention in steps; first token's row."""
    model, maps = copy.deepcopy(model), []
    for block in model.encoder.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(lambda _module, args, _output: maps.append(args[0]))
    logits = model(images)[0]
    gradients = torch.autograd.grad((logits[:, 1] - logits[:, 0]).sum(), maps)
    relevances = torch.eye(maps[0].shape[-1]).expand(len(images), -1, -1)
    for attention, gradient in zip(maps, gradients, strict=True):
        relevances = relevances + (gradient * attention).clamp(min=0).mean(1) @ relevances
    row = relevances[:, 0, model.encoder.num_prefix_tokens :].detach()
    return (row / row.amax(1, keepdim=True)).view(len(images), GRID, GRID).numpy()


def test_relevance_is_what_a_known_model_must_give():
    brightness = torch.randn(6, GRID, GRID, generator=torch.Generator().manual_seed(1)) * 2

    maps = relevance(reading_brightness(), in_patches(brightness))

    flat = brightness.flatten(1)
    expected = (flat * flat.softmax(1)).clamp(min=0)
    expected = (expected / expected.amax(1, keepdim=True)).view(6, GRID, GRID)
    assert maps.dtype == np.float32
    assert np.allclose(maps, expected, atol=1e-3)
    assert np.all(maps[brightness.numpy() < 0] == 0)


def test_a_map_without_any_relevance_is_all_zero():
    maps = relevance(reading_brightness(), in_patches(torch.stack([-torch.ones(GRID, GRID), torch.zeros(GRID, GRID)])))

    assert np.array_equal(maps, np.zeros((2, GRID, GRID)))


@pytest.mark.parametrize("options", [{}, {"reg_tokens": 4}, {"depth": 5}, {"no_embed_class": True}])
def test_relevance_is_the_papers_rollout(options):
    model, images = small(**options), torch.rand(3, 3, 224, 224)

    assert np.allclose(relevance(model, images), as_published(model, images), atol=1e-4)


@pytest.mark.parametrize(("pool", "steps"), [("avg", 25), ("map", 60)])
def test_relevance_falls_on_the_patch_that_decides(pool, steps):
    """Bright patch: present. A dark patch is in all images; that it stands out as much must not matter."""
    generator = torch.Generator().manual_seed(2)

    def batch():
        patches = 0.1 * torch.randn(32, GRID**2, generator=generator)
        bright, dark = torch.rand(32, GRID**2, generator=generator).argsort(1)[:, :2].T
        patches[range(32), dark] -= 2
        patches[range(1, 32, 2), bright[1::2]] += 2
        return in_patches(patches.view(-1, GRID, GRID)), torch.arange(32) % 2, bright.numpy()

    model = small(global_pool=pool)
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=3e-3)
    for _ in range(steps):
        images, labels, _ = batch()
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images)[0], labels).backward()
        optimizer.step()
    images, labels, bright = batch()
    with torch.no_grad():
        assert (model.eval()(images)[0].argmax(1) == labels).float().mean() > 0.95

    brightest = relevance(model, images[1::2]).reshape(16, -1).argmax(1)
    with torch.no_grad():
        model.presence.weight.neg_()  # now it is the darkness that speaks for "present"
    of_opposite = relevance(model, images[1::2]).reshape(16, -1).argmax(1)

    assert np.mean(brightest == bright[1::2]) > 0.9
    assert np.mean(of_opposite == bright[1::2]) < 0.2


@pytest.mark.parametrize(
    ("encoder", "shape"),
    [
        ("test_vit", (14, 14)),
        ("test_vit2", (14, 14)),  # pools its patches
        ("test_vit3", (14, 14)),  # pools them by attention
        ("deit_tiny_distilled_patch16_224", (14, 14)),  # two class tokens
        ("vit_tiny_r_s16_p8_224", (7, 7)),  # patches of a small ResNet
    ],
)
def test_plain_vits_of_timm_have_maps(encoder, shape):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        maps = relevance(DTViT(encoder).eval(), torch.rand(2, 3, 224, 224))

    assert maps.shape == (2, *shape)
    assert np.allclose(maps.max((1, 2)), 1)
    assert maps.min() >= 0


def test_attentions_side_by_side_count_as_one_block():
    model = small(block_fn=ParallelThingsBlock)

    maps = relevance(model, torch.rand(2, 3, 224, 224))

    assert maps.shape == (2, GRID, GRID)
    assert np.allclose(maps.max((1, 2)), 1)


def test_images_of_a_batch_do_not_mix_and_repeating_gives_the_same():
    model, images = small(), torch.rand(3, 3, 224, 224)

    together = relevance(model, images)

    assert np.array_equal(together, relevance(model, images))
    assert np.allclose(together, np.concatenate([relevance(model, image[None]) for image in images]), atol=1e-5)
    assert relevance(model, images[:0]).shape == (0, GRID, GRID)


def test_the_model_stays_as_it_was():
    model, images = small(), torch.rand(2, 3, 224, 224)
    model.location.weight.requires_grad_(False)
    before = copy.deepcopy(model)
    with torch.no_grad():
        answers = model(images)

    relevance(model, images)

    for module, was in zip(model.modules(), before.modules(), strict=True):
        assert module.__dict__.keys() == was.__dict__.keys()
        assert not any(getattr(module, kind) for kind in vars(module) if kind.endswith("_hooks"))
        assert getattr(module, "fused_attn", None) == getattr(was, "fused_attn", None)
        assert not module.training
    for parameter, was in zip(model.parameters(), before.parameters(), strict=True):
        assert torch.equal(parameter, was)
        assert parameter.grad is None
        assert parameter.requires_grad == was.requires_grad
    assert images.grad is None
    assert not images.requires_grad
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(answers, model(images), strict=True))


def test_a_frozen_model_and_a_caller_without_gradients_get_the_same_maps():
    model, images = small(), torch.rand(2, 3, 224, 224)
    expected = relevance(model, images)

    with torch.inference_mode():
        assert np.array_equal(relevance(model, images + 0), expected)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert np.array_equal(relevance(model, images), expected)
    assert np.allclose(relevance(model.requires_grad_(False), images), expected, atol=1e-5)


def test_another_thread_may_use_the_model_meanwhile():
    model, images = small(), torch.rand(2, 3, 224, 224)
    expected, here, answers = relevance(model, images), threading.get_ident(), []

    def answer():
        with torch.no_grad():
            answers.append(model(images)[0])

    def amid(_module, _args):
        if threading.get_ident() == here:
            other = threading.Thread(target=answer)
            other.start()
            other.join()

    handle = model.encoder.blocks[1].register_forward_pre_hook(amid)
    found = relevance(model, images)
    handle.remove()

    answer()
    assert np.array_equal(found, expected)
    assert torch.equal(answers[0], answers[1])


@pytest.mark.parametrize("encoder", ["resnet18", "swin_tiny_patch4_window7_224"])
def test_encoders_without_attention_over_one_grid_are_refused(encoder):
    with pytest.raises(NoAttention, match="not a plain timm ViT"):
        relevance(DTViT(encoder).eval(), torch.zeros(1, 3, 224, 224))


def test_a_vit_with_a_block_without_attention_is_refused():
    model = small()
    model.encoder.blocks[0] = nn.Identity().eval()
    with pytest.raises(NoAttention, match="each of 2 blocks, found 1 of shape"):
        relevance(model, torch.zeros(1, 3, 224, 224))


def test_a_model_in_training_is_refused():
    with pytest.raises(ValueError, match="in training"):
        relevance(small().train(), torch.zeros(1, 3, 224, 224))


def test_numbers_that_are_not_finite_are_refused(tmp_path):
    with pytest.raises(FloatingPointError, match="pixel"):
        relevance(small(), torch.full((1, 3, 224, 224), float("nan")))

    classifier = Classifier.load(untrained_checkpoint(tmp_path / "untrained.safetensors"), device="cpu")
    with torch.no_grad():
        classifier._model.presence.weight.fill_(float("nan"))
    with pytest.raises(NotFinite, match=classifier.checkpoint.digest[:12]):
        classifier.relevance(np.zeros((1, 224, 224), np.uint8))


def test_the_classifier_gives_a_map_for_each_picture(tmp_path):
    classifier = Classifier.load(untrained_checkpoint(tmp_path / "untrained.safetensors"), device="cpu", batch=2)
    pictures = np.random.default_rng(5).integers(0, 256, (3, 224, 224), dtype=np.uint8)
    before = classifier.predict(pictures)

    maps = classifier.relevance(pictures)

    assert maps.shape == (3, 224, 224)
    assert maps.dtype == np.float32
    assert maps.min() >= 0
    assert np.all((maps.max((1, 2)) > 0.9) & (maps.max((1, 2)) <= 1))
    images = torch.from_numpy(pictures)[:, None].expand(-1, 3, -1, -1) / 127.5 - 1  # the default mean and std
    at_centres = (maps[:, 7::16, 7::16] + maps[:, 8::16, 8::16]) / 2
    assert np.allclose(at_centres, relevance(classifier._model, images), atol=0.05)
    assert np.array_equal(classifier.predict(pictures).presence, before.presence)
    assert classifier.relevance(pictures[:0]).shape == (0, 224, 224)
    with pytest.raises(ValueError, match="uint8 of shape"):
        classifier.relevance(maps)


SHAPES = [(512, 512), (512, 700), (700, 512), (300, 256), (1024, 1024), (256, 256), (513, 641)]
ORIENTATIONS = [
    None,
    SUPINE,
    (-1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
    (1.0, 0.0, 0.0, 0.0, -1.0, 0.0),
    (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0),
]


def centre(shown):
    """(row, column) of its mass."""
    return np.array([(np.arange(n) * shown.sum(1 - axis)).sum() for axis, n in enumerate(shown.shape)]) / shown.sum()


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_point_of_a_slice_comes_back_to_its_place(shape, orientation, geometry):
    row, column = shape[0] // 2 - 60, shape[1] // 2 + 45
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    marked = (254 * (np.hypot(rows - row, columns - column) < 9)).astype(np.uint8)
    marked[40:-30, 60:-90] += 1  # the head, off-centre
    seen = upright(marked, orientation)

    back = in_slice(model_input(seen, geometry) / np.float32(255), view_of(seen, geometry), shape, orientation)
    back[back < 0.1] = 0

    assert back.shape == shape
    assert back.dtype == np.float32
    assert np.abs(centre(back) - (row, column)).max() < 0.1
    assert back[row, column] > 0.9


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_nothing_is_said_of_what_the_model_did_not_see(shape, orientation):
    view = view_of(np.zeros(shape, np.uint8))
    seen = in_slice(np.ones((224, 224), np.float32), view, shape, orientation)

    assert set(np.unique(seen)) == {0, 1}
    assert seen.mean() == pytest.approx(224**2 / (256**2 * max(shape) / min(shape)), rel=0.02)
    where_seen = model_input(upright((255 * seen).astype(np.uint8), orientation))
    assert np.all(where_seen[1:-1, 1:-1] == 255)


def test_a_map_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"not \(14, 14\)"):
        in_slice(np.zeros((14, 14), np.float32), view_of(np.zeros((512, 512), np.uint8)), (512, 512), SUPINE)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_what_decided_is_shown_where_it_is_in_the_slice(tmp_path, orientation, geometry):
    classifier = Classifier.load(untrained_checkpoint(tmp_path / "untrained.safetensors"), device="cpu")
    classifier._model = reading_brightness(patch=16)
    shown = np.zeros((512, 640), np.uint8)
    if geometry == HEAD_BOX:
        shown[20:-20, 20:-20] = 1
    shown[90:170, 390:470] = 255  # a patch has 32 x 32 pixels of this slice, so that one at least is all bright

    upwards = upright(shown, orientation)
    maps = classifier.relevance(model_input(upwards, geometry)[None])
    back = in_slice(maps[0], view_of(upwards, geometry), shown.shape, orientation)
    row, column = np.unravel_index(back.argmax(), shown.shape)

    assert 90 <= row < 170
    assert 390 <= column < 470
