"""An encoder made from the decoder's first layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    CpmAntConfig,
    GPT2Config,
    OPTConfig,
    PretrainedConfig,
    Qwen3Config,
)

from refrag_components.exceptions import UnknownModelError
from refrag_components.modeling.layer_encoder import LayerEncoder
from refrag_components.text.chunking import Chunker
from tests.tiny import TEXT, tiny_decoder_config, tiny_decoder_tokenizer


def decoder(config: PretrainedConfig | None = None) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config or tiny_decoder_config()).eval()


def encoder(**others: Any) -> LayerEncoder:
    settings: dict[str, Any] = {"layers": 1, "chunk_size": 4, "window": 512}
    return ready(LayerEncoder(decoder(), **settings | others))


def ready(layers: LayerEncoder) -> LayerEncoder:
    layers.randomise()
    return layers.eval()


@pytest.fixture(scope="module")
def chunker() -> Chunker:
    return Chunker(tiny_decoder_tokenizer(), 4)


def test_a_chunk_vector_is_the_sum_over_states_and_tokens_of_the_chunk(chunker: Chunker) -> None:
    model = decoder()
    layers = ready(LayerEncoder(model, layers=1, chunk_size=4, window=512))
    (passage,) = chunker.chunk([TEXT[0]])
    (vectors,) = layers.encode([passage])
    tokens = model.get_input_embeddings()(torch.from_numpy(passage.token_ids).long())
    with torch.no_grad():
        states = layers.model(inputs_embeds=tokens.unsqueeze(0)).last_hidden_state[0]
        for i, (first, last) in enumerate(passage.bounds):
            summed = torch.zeros(32)
            for j, token in enumerate(range(first, last + 1)):
                summed += states[token] @ layers.place[j]
                summed += tokens[token] / tokens.new_tensor(layers.scale) @ layers.mix[j]
            expected = summed / (summed.square().mean() + 1e-5).sqrt()
            np.testing.assert_allclose(vectors[i], expected.numpy(), rtol=1e-4, atol=1e-5)


def test_it_starts_as_the_decoders_first_layers_and_shares_its_table() -> None:
    model = decoder()
    layers = LayerEncoder(model, layers=1, chunk_size=4, window=512)
    ids = torch.arange(9).view(1, 9)
    inputs = model.get_input_embeddings()(ids)
    after_one = model.model(input_ids=ids, output_hidden_states=True).hidden_states[1]
    normed = torch.nn.functional.rms_norm(after_one, (32,), eps=model.config.rms_norm_eps)
    torch.testing.assert_close(layers.model(inputs_embeds=inputs).last_hidden_state, normed)
    vocabulary = len(tiny_decoder_tokenizer())
    assert not [p for p in layers.state_dict().values() if vocabulary in p.shape]
    layers.model.layers[0].mlp.up_proj.weight.data.zero_()
    assert model.model.layers[0].mlp.up_proj.weight.abs().sum() > 0


def test_passages_in_a_batch_equal_passages_alone(chunker: Chunker) -> None:
    layers = encoder()
    passages = chunker.chunk([*TEXT, "", "x", " ".join(TEXT)])
    done: list[int] = []
    for passage, rows in zip(
        passages, layers.encode(passages, batch_size=3, progress=done.append), strict=True
    ):
        assert rows.shape == (passage.n_chunks, 32)
        assert rows.dtype == np.float32
        np.testing.assert_allclose(rows, layers.encode([passage])[0], rtol=1e-4, atol=1e-5)
    assert sum(done) == len(passages) - 1  # the empty one has no window
    assert layers.encode([]) == []


def test_fewer_kernels_on_a_gpu_give_the_same_vectors(chunker: Chunker) -> None:
    model = LayerEncoder(decoder(), layers=2, chunk_size=4, window=512)
    layers = ready(model)
    passages = chunker.chunk(TEXT)
    expected = layers.encode(passages)
    plain = layers.model.layers[0].forward
    with layers._fewer_kernels(torch.device("cuda")):
        assert layers.model.layers[0].forward != plain
        found = layers.encode(passages)
    for left, right in zip(found, expected, strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-5)
    with layers._fewer_kernels(torch.device("cpu")):
        assert layers.model.layers[0].forward == plain


def test_a_chunk_vector_depends_on_the_text_before_it_and_not_after_it(chunker: Chunker) -> None:
    layers = encoder()
    (whole,) = layers.encode(chunker.chunk([TEXT[0] + TEXT[1]]))
    (first,) = layers.encode(chunker.chunk([TEXT[0]]))
    full = len(first) - 1  # the last one may be short
    np.testing.assert_allclose(whole[:full], first[:full], rtol=1e-4, atol=1e-5)
    (second,) = layers.encode(chunker.chunk([TEXT[1]]))
    assert np.abs(whole[-len(second) :] - second).max() > 0.01


def test_passages_longer_than_the_window_are_cut_at_chunk_boundaries(chunker: Chunker) -> None:
    layers = encoder(window=18)  # room for 4 chunks
    (passage,) = chunker.chunk([" ".join(TEXT)])
    windows = layers.windows(passage)
    assert [len(window) for window in windows[:-1]] == [16] * (len(windows) - 1)
    assert np.array_equal(np.concatenate(windows), passage.token_ids)
    (vectors,) = layers.encode([passage])
    assert len(vectors) == passage.n_chunks
    (again,) = layers.encode(chunker.chunk([chunker_text(passage, 16)]))
    np.testing.assert_allclose(vectors[4:8], again[:4], rtol=1e-4, atol=1e-5)


def chunker_text(passage: Any, first: int) -> str:
    text: str = passage.text[passage.offsets[first, 0] :]
    return text


def test_chunks_of_padding_are_zero() -> None:
    ids = torch.arange(16).view(2, 8)
    used = torch.tensor([[True] * 8, [True] * 3 + [False] * 5])
    with torch.no_grad():
        vectors = encoder()(ids, used)
    assert torch.equal(vectors.ne(0).any(dim=2), torch.tensor([[True, True], [True, False]]))


def test_parts_of_a_question_are_smaller_chunks(chunker: Chunker) -> None:
    layers = encoder()
    (question,) = chunker.cut_questions([TEXT[0]])
    (rows,) = layers.encode([question])
    assert rows.shape == (question.n_chunks, 32)
    larger = Chunker(tiny_decoder_tokenizer(), 8).chunk([TEXT[0]])
    with pytest.raises(ValueError, match="chunks of at most 4 tokens, got 8"):
        layers.encode(larger)


@pytest.mark.parametrize(
    "config",
    [
        tiny_decoder_config(GPT2Config, n_inner=64),
        tiny_decoder_config(
            OPTConfig, ffn_dim=64, word_embed_proj_dim=32, do_layer_norm_before=True
        ),
        tiny_decoder_config(Qwen3Config, head_dim=8),
    ],
    ids=["gpt2", "opt", "qwen3"],
)
def test_other_decoders_have_layers_too(config: PretrainedConfig, chunker: Chunker) -> None:
    layers = ready(LayerEncoder(decoder(config), layers=1, chunk_size=4, window=512))
    passages = chunker.chunk(TEXT)
    together = layers.encode(passages)
    for passage, rows in zip(passages, together, strict=True):
        np.testing.assert_allclose(rows, layers.encode([passage])[0], rtol=1e-3, atol=1e-4)


def test_what_has_too_few_layers_or_takes_no_embeddings_is_refused() -> None:
    with pytest.raises(UnknownModelError, match="has 2 layers; encoder_layers=3 is more"):
        encoder(layers=3)
    odd = CpmAntConfig(
        vocab_size=50, hidden_size=32, num_attention_heads=2, dim_head=16, dim_ff=32,
        num_hidden_layers=2, prompt_length=2, prompt_types=2, segment_types=2,
    )  # fmt: skip
    with pytest.raises(UnknownModelError, match=r"CpmAnt.*; choose another decoder, or"):
        LayerEncoder(decoder(odd), layers=1, chunk_size=4, window=512)
