"""The short way to the class token gives what the encoder gives, and is taken where it may be alone."""

import pytest
import timm
import torch

from dtvit.vit.classtoken import class_token, is_all_that_is_read

PLAIN = [
    ("vit_tiny_patch16_224", {}),
    ("vit_tiny_patch16_224", {"init_values": 0.1, "qk_norm": True}),
    ("vit_tiny_patch16_224", {"reg_tokens": 4, "pre_norm": True}),
]


@pytest.mark.parametrize(("name", "options"), PLAIN)
def test_the_class_token_is_that_of_the_encoder(name, options):
    torch.manual_seed(3)
    encoder = timm.create_model(name, num_classes=0, depth=3, **options).eval()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))  # a norm or scale that is left out must show
    images = torch.randn(2, 3, 224, 224)

    assert is_all_that_is_read(encoder)
    with torch.inference_mode():
        assert torch.allclose(class_token(encoder, images), encoder(images), atol=1e-4)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vit_tiny_patch16_224", {"global_pool": "avg"}),
        ("vit_tiny_patch16_224", {"scale_attn_norm": True}),
        ("vit_tiny_patch16_224", {"depth": 1}),
        ("deit_tiny_distilled_patch16_224", {}),
        ("resnet18", {}),
    ],
)
def test_an_encoder_that_reads_more_goes_its_own_way(name, options):
    assert not is_all_that_is_read(timm.create_model(name, num_classes=0, **options))
