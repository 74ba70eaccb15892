"""A ViT that is given one channel gives what it gives of three that are the same."""

import pytest
import timm
import torch

from dtvit.vit.classtoken import class_token, is_all_that_is_read
from dtvit.vit.onechannel import of_one_channel


def test_one_channel_stands_for_three_that_are_the_same():
    torch.manual_seed(3)
    encoder = timm.create_model("vit_tiny_patch16_224", num_classes=0, depth=3).eval()
    grey = of_one_channel(encoder)
    images = torch.randn(2, 1, 224, 224)
    with torch.inference_mode():
        expected = encoder(images.expand(-1, 3, -1, -1))
        assert torch.allclose(grey(images), expected, atol=1e-5)
        assert is_all_that_is_read(grey)
        assert torch.allclose(class_token(grey, images), expected, atol=1e-4)


def test_all_else_is_shared_and_the_encoder_is_what_it_was():
    encoder = timm.create_model("vit_tiny_patch16_224", num_classes=0, depth=2)
    grey = of_one_channel(encoder)
    assert encoder.patch_embed.proj.weight.shape[1] == 3
    assert grey.blocks is encoder.blocks
    assert grey.patch_embed is not encoder.patch_embed


@pytest.mark.parametrize("change", [{"padding": 1}, {"stride": 8}, {"dilation": 2}, {"groups": 3}])
def test_a_projection_that_is_no_cutting_into_patches_is_left_alone(change):
    encoder = timm.create_model("vit_tiny_patch16_224", num_classes=0, depth=1)
    encoder.patch_embed.proj = torch.nn.Conv2d(3, 192, 16, **({"stride": 16} | change))
    assert of_one_channel(encoder) is None
