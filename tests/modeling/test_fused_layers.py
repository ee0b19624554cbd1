"""Fewer kernels, the same numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    DynamicCache,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from refrag_components.modeling.decoder_call import DecoderCall
from refrag_components.modeling.fused_layers import _joined, _suits, fused_layers
from refrag_components.modeling.fused_norms import fused_norms

_SIZES: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "initializer_range": 0.3,
}


def make(kind: type, **others: Any) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(kind(**_SIZES, **others)).eval()


@torch.inference_mode()
def read(decoder: Any, embeds: Tensor) -> list[Tensor]:
    """Logits after a prompt and after two further tokens, and the keys and values."""
    call, cache = DecoderCall(decoder), DynamicCache(config=decoder.config)
    rows, length, _ = embeds.shape
    positions = torch.arange(length).expand(rows, -1)
    found = [call(None, cache, inputs_embeds=embeds, position_ids=positions)]
    for step in range(2):
        ids = torch.full((rows, 1), 7 + step)
        found.append(call(None, cache, input_ids=ids, position_ids=positions[:, -1:] + 1 + step))
    return found + [states for layer in cache.layers for states in (layer.keys, layer.values)]


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize(
    ("kind", "others"),
    [
        (LlamaConfig, {}),
        (LlamaConfig, {"attention_bias": True, "mlp_bias": True}),
        (LlamaConfig, {"num_key_value_heads": 4}),
        (MistralConfig, {"sliding_window": None}),
        (Qwen2Config, {}),
    ],
)
def test_the_numbers_are_the_decoders_own(kind: type, others: dict[str, Any], rows: int) -> None:
    sizes = {name: value for name, value in others.items() if name in _SIZES}
    decoder = make(kind, **{name: others[name] for name in others.keys() - sizes.keys()})
    if sizes:
        torch.manual_seed(0)
        decoder = AutoModelForCausalLM.from_config(kind(**_SIZES | others)).eval()
    for name, parameter in decoder.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter)
    embeds = torch.randn(rows, 9, 32)
    before = embeds.clone()
    expected = read(decoder, embeds)
    assert sum(map(_suits, decoder.modules())) == 3
    with fused_layers(decoder):
        found = read(decoder, embeds)
    for left, right in zip(found, expected, strict=True):
        torch.testing.assert_close(left, right, atol=1e-4, rtol=1e-4)
    assert torch.equal(embeds, before)
    for left, right in zip(read(decoder, embeds), expected, strict=True):  # as it was again
        torch.testing.assert_close(left, right, atol=1e-5, rtol=1e-5)


def test_weights_keep_their_values_and_move_once(tmp_path: Path) -> None:
    decoder = make(LlamaConfig)
    before = {name: p.detach().clone() for name, p in decoder.named_parameters()}
    with fused_layers(decoder):
        read(decoder, torch.randn(1, 4, 32))
    places = {name: p.data_ptr() for name, p in decoder.named_parameters()}
    for name, parameter in decoder.named_parameters():
        assert torch.equal(parameter, before[name])
        assert isinstance(parameter, nn.Parameter)
        assert not parameter.is_inference()
    with fused_layers(decoder):
        read(decoder, torch.randn(1, 4, 32))
    assert places == {name: p.data_ptr() for name, p in decoder.named_parameters()}
    attention = decoder.model.layers[0].self_attn
    together = [attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight]
    assert torch.equal(_joined(together), torch.cat(together))
    decoder.save_pretrained(tmp_path / "saved")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    for name, parameter in again.named_parameters():
        assert torch.equal(parameter, before[name])
    save_file(decoder.model.layers.state_dict(), tmp_path / "layers.safetensors")
    assert (
        load_file(tmp_path / "layers.safetensors").keys()
        == decoder.model.layers.state_dict().keys()
    )


def test_weights_that_were_changed_since_are_put_together_again() -> None:
    decoder = make(LlamaConfig)
    embeds = torch.randn(1, 4, 32)
    with fused_layers(decoder):
        read(decoder, embeds)
    decoder.double()
    expected = read(decoder, embeds.double())
    with fused_layers(decoder):
        found = read(decoder, embeds.double())
    for left, right in zip(found, expected, strict=True):
        torch.testing.assert_close(left, right)


def test_others_may_read_without_a_cache_or_with_gradients_meanwhile() -> None:
    decoder = make(LlamaConfig)
    embeds = torch.randn(2, 5, 32)
    expected = decoder(inputs_embeds=embeds, use_cache=False).logits
    with fused_layers(decoder):
        with torch.inference_mode():
            found = decoder(inputs_embeds=embeds, use_cache=False).logits
        torch.testing.assert_close(found, expected.detach(), atol=1e-4, rtol=1e-4)
        decoder(inputs_embeds=embeds, use_cache=False).logits.sum().backward()
    gradient = decoder.model.layers[0].self_attn.q_proj.weight.grad
    assert gradient is not None
    assert gradient.any()


def test_other_layers_stay_as_they_are() -> None:
    """Norms of heads, adapters, hooks that replace a pass, and training."""
    assert not any(map(_suits, make(Qwen3Config).modules()))
    decoder = make(LlamaConfig)
    first, second, third = decoder.model.layers
    first.mlp.up_proj = nn.Sequential(first.mlp.up_proj)
    second.self_attn.forward = second.self_attn.forward
    third.train()
    assert not any(map(_suits, decoder.modules()))


def test_weights_that_were_made_in_inference_mode_are_left_where_they_are() -> None:
    """They cannot be moved, and a decoder whose weights were tried to be is of no use any more."""
    with torch.inference_mode():
        decoder = make(LlamaConfig)
    embeds = torch.randn(1, 4, 32)
    expected = read(decoder, embeds)
    with fused_layers(decoder):
        found = read(decoder, embeds)
    for left, right in zip([*found, *read(decoder, embeds)], expected * 2, strict=True):
        assert torch.equal(left, right)


def test_another_thread_has_left_before() -> None:
    decoder = make(LlamaConfig)
    embeds = torch.randn(1, 9, 32)
    expected = read(decoder, embeds)
    with fused_norms(decoder), fused_layers(decoder):
        for module in decoder.modules():
            vars(module).pop("forward", None)
    for left, right in zip(read(decoder, embeds), expected, strict=True):
        torch.testing.assert_close(left, right)
