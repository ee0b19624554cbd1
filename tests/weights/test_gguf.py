from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFWriter, TokenType
from transformers import AutoModelForCausalLM, AutoTokenizer

from refrag_components.weights.gguf import convert_gguf

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "model.layers": "blk",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def interleave(weight: np.ndarray, heads: int) -> np.ndarray:
    """Puts the rows of a rotary projection in llama.cpp's order."""
    rows, columns = weight.shape
    halves = weight.reshape(heads, 2, rows // heads // 2, columns)
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(rows, columns))


def write_gguf(folder: Path, file: Path) -> None:
    """Writes a saved Llama as llama.cpp's converter would."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    config = model.config
    writer = GGUFWriter(file, "llama")
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokens = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    special = set(tokenizer.all_special_tokens)
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    kinds = [TokenType.CONTROL if token in special else TokenType.NORMAL for token in tokens]
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(merge) for merge in backend["model"]["merges"]])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_unk_token_id(tokenizer.unk_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_chat_template(tokenizer.chat_template)

    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight":
            continue  # tied
        weight = tensor.numpy()
        for projection, count in heads.items():
            weight = interleave(weight, count) if projection in name else weight
        for theirs, llama_cpp in NAMES.items():
            name = name.replace(theirs, llama_cpp)
        writer.add_tensor(name, weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def converted(tiny_base: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gguf")
    write_gguf(tiny_base[0], folder / "tiny.gguf")
    convert_gguf(folder / "tiny.gguf", folder / "converted")
    return folder / "converted"


def test_the_model_is_the_same(tiny_base: tuple[Path, Path], converted: Path) -> None:
    original = AutoModelForCausalLM.from_pretrained(tiny_base[0], dtype=torch.bfloat16)
    model = AutoModelForCausalLM.from_pretrained(converted)
    ids = torch.arange(40).unsqueeze(0)
    with torch.inference_mode():
        assert torch.equal(model(ids).logits, original(ids).logits)
    assert model.dtype == torch.bfloat16
    assert model.config.tie_word_embeddings
    assert model.config.max_position_embeddings == original.config.max_position_embeddings
    assert model.config.rope_parameters == original.config.rope_parameters
    assert model.config.rms_norm_eps == original.config.rms_norm_eps
    assert not hasattr(model.config, "quantization_config")


def test_converting_prints_nothing(
    tiny_base: tuple[Path, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_gguf(tiny_base[0], tmp_path / "tiny.gguf")
    capfd.readouterr()
    convert_gguf(tmp_path / "tiny.gguf", tmp_path / "converted")
    assert capfd.readouterr() == ("", "")


def test_it_can_be_saved_again(converted: Path, tmp_path: Path) -> None:
    AutoModelForCausalLM.from_pretrained(converted).save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").is_file()


def test_the_tokenizer_keeps_its_specials_and_template(
    tiny_base: tuple[Path, Path], converted: Path
) -> None:
    original = AutoTokenizer.from_pretrained(tiny_base[0])
    tokenizer = AutoTokenizer.from_pretrained(converted)
    messages = [{"role": "user", "content": "Where is the harbour?"}]
    assert tokenizer.is_fast
    assert tokenizer.special_tokens_map == original.special_tokens_map
    assert tokenizer("<|im_start|>user").input_ids == original("<|im_start|>user").input_ids
    assert tokenizer.chat_template == original.chat_template
    assert (
        tokenizer.apply_chat_template(messages).input_ids
        == original.apply_chat_template(messages).input_ids
    )
    assert tokenizer.model_max_length == 512


@pytest.mark.parametrize(
    "text", ["In 2024 it cost 1,234.56€", "½ naïve 日本語 🙂\n\n\tdef f():\r\n "]
)
def test_digits_stand_alone_and_text_survives(converted: Path, text: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(converted)
    encoding = tokenizer(text, return_offsets_mapping=True)
    assert tokenizer.decode(encoding.input_ids) == text
    pieces = [text[start:end] for start, end in encoding.offset_mapping]
    assert all(len(piece) == 1 for piece in pieces if any(c.isdigit() for c in piece))
    ends = [end for _, end in encoding.offset_mapping]
    assert ends == sorted(ends) and ends[-1] == len(text)
