import pytest
import torch

from dtvit.model import DTViT, UnknownEncoder

ENCODER = "test_vit"


@pytest.mark.parametrize("head", ["linear", "mlp"])
@pytest.mark.parametrize("classes", [3, 4])
def test_one_encoder_feeds_two_heads(head, classes):
    model = DTViT(ENCODER, classes, head).eval()

    presence, location = model(torch.zeros(2, 3, 224, 224))

    assert presence.shape == (2, 2)
    assert location.shape == (2, classes)


def test_both_heads_teach_the_encoder():
    model = DTViT(ENCODER)
    images = torch.rand(2, 3, 224, 224)
    for output in (0, 1):
        model.zero_grad()
        model(images)[output].square().sum().backward()
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.encoder.parameters())


def test_vit_large_has_the_parameters_of_the_paper():
    """ViT-L/16 with its 1000-class head has 304,326,632 (timm); without that head, and with our two, this many."""
    with torch.device("meta"):
        model = DTViT("vit_large_patch16_224")

    assert sum(p.numel() for p in model.parameters()) == 304_326_632 - 1000 * 1025 + 5 * 1025


@pytest.mark.parametrize("encoder", ["vit_base_patch16_384", "resnet18"])
def test_other_encoders_take_224_pixels(encoder):
    model = DTViT(encoder).eval()

    assert model(torch.zeros(1, 3, 224, 224))[1].shape == (1, 3)


def test_an_unknown_encoder_is_named_with_its_nearest():
    with pytest.raises(UnknownEncoder, match=r"vit_tinny_patch16_224.*vit_tiny_patch16_224"):
        DTViT("vit_tinny_patch16_224")


def test_an_unknown_head_is_refused():
    with pytest.raises(ValueError, match="quadratic"):
        DTViT(ENCODER, head="quadratic")
