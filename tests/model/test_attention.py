"""Attention in single steps is attention."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from dtvit.vit import attention as steps
from dtvit.vit.attention import InSteps, attention


def packed(scale: float = 1.0, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    """Query, key and value as a ViT has them: views of one tensor."""
    torch.manual_seed(4)
    of_all = scale * torch.randn(2, 19, 3, 4, 8)
    return of_all.to(dtype).permute(2, 0, 3, 1, 4).unbind(0)


@pytest.mark.parametrize(("dtype", "differs"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
def test_it_is_that_of_torch(dtype, differs):
    query, key, value = packed(dtype=dtype)
    expected = scaled_dot_product_attention(*packed())
    assert torch.allclose(attention(query, key, value).float(), expected, atol=differs)
    assert torch.allclose(attention(query[:, :, :1], key, value).float(), expected[:, :, :1], atol=differs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_memory_was_left_with_reaches_no_result(dtype, monkeypatch):
    query, key, value = packed(dtype=dtype)
    expected = attention(query, key, value)
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda made, *shape: made.new_full(shape, float("nan")))
    assert torch.equal(attention(query, key, value), expected)


@pytest.mark.parametrize("scale", [30.0, 300.0])
def test_logits_beyond_what_an_exponential_holds_are_torchs_own_affair(scale):
    query, key, value = packed(scale)
    assert (query @ key.transpose(-2, -1) * 8**-0.5).max() > 100
    found = attention(query, key, value / scale)
    assert torch.allclose(found, scaled_dot_product_attention(query, key, value / scale), atol=1e-4)


def test_rows_of_nothing_but_far_negative_logits_too():
    query, key, value = torch.full((1, 1, 2, 4), -40.0), torch.full((1, 1, 3, 4), 40.0), torch.randn(1, 1, 3, 4)
    assert torch.allclose(attention(query, key, value), value.mean(2, keepdim=True).expand(1, 1, 2, 4), atol=1e-5)


def test_what_is_no_number_stays_none():
    query, key, value = (part.clone() for part in packed())
    query[0, 0, 0, 0] = float("nan")
    assert attention(query, key, value)[0, 0, 0].isnan().all()


def test_within_it_a_model_goes_by_it_and_masks_are_left_to_torch(monkeypatch):
    query, key, value = packed()
    calls = []
    monkeypatch.setattr(steps, "attention", lambda *given: calls.append(given) or attention(*given))
    mask = torch.ones(19, 19, dtype=torch.bool).tril()
    with InSteps():
        plain = scaled_dot_product_attention(query, key, value, dropout_p=0.0)
        masked = scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=0.0)
        causal = scaled_dot_product_attention(query, key, value, dropout_p=0.0, is_causal=True)
    assert len(calls) == 1
    assert torch.allclose(plain, scaled_dot_product_attention(query, key, value), atol=1e-6)
    assert torch.equal(masked, scaled_dot_product_attention(query, key, value, attn_mask=mask))
    assert torch.equal(causal, scaled_dot_product_attention(query, key, value, is_causal=True))


@pytest.mark.parametrize("shape", [(2, 5, 8), (2, 3, 4, 5, 8)])
def test_models_that_cut_their_tokens_into_windows_are_left_to_torch(shape):
    query, key, value = torch.randn(3, *shape).unbind(0)
    expected = scaled_dot_product_attention(query, key, value)
    with InSteps():
        assert torch.equal(scaled_dot_product_attention(query, key, value), expected)


def test_heads_that_are_shared_are_left_to_torch():
    query, (key, value) = torch.randn(2, 4, 5, 8), torch.randn(2, 1, 4, 5, 8).unbind(0)
    expected = scaled_dot_product_attention(query, key, value)
    with InSteps():
        assert torch.equal(scaled_dot_product_attention(query, key, value), expected)
