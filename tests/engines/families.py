"""Tiny random decoders of many families, and what ``docs/decoders.md`` says of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM

from refrag_components.weights.loading import quietly
from tests.tiny import tiny_decoder_config, tiny_decoder_tokenizer

__all__ = ["REFUSED", "SERVED", "save_family"]

_VOCABULARY = len(tiny_decoder_tokenizer())
_OLDER: dict[str, Any] = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512}
_ALTERNATING = {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]}
_EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
_MAMBA_2 = {
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_d_state": 4,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 8,
}
_DELTA_NET = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}

#: Config class and settings of each family, by the name in the table.
SERVED: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama": ("LlamaConfig", {}),
    "Qwen2": ("Qwen2Config", {}),
    "Qwen3": ("Qwen3Config", {"head_dim": 8}),
    "Qwen3 MoE": ("Qwen3MoeConfig", {"head_dim": 8, "num_experts": 4, **_EXPERTS}),
    "Qwen3-Next": (
        "Qwen3NextConfig",
        {
            "head_dim": 8,
            "num_experts": 4,
            "shared_expert_intermediate_size": 16,
            **_EXPERTS,
            **_DELTA_NET,
        },
    ),
    "Qwen3.5": ("Qwen3_5TextConfig", {"head_dim": 8, **_DELTA_NET}),
    "Mistral": ("MistralConfig", {"sliding_window": 16}),
    "Mixtral": ("MixtralConfig", {"num_local_experts": 4}),
    "Gemma": ("GemmaConfig", {"head_dim": 8}),
    "Gemma 2": ("Gemma2Config", {"head_dim": 8, "sliding_window": 16, "query_pre_attn_scalar": 8}),
    "Gemma 3": ("Gemma3TextConfig", {"head_dim": 8, "query_pre_attn_scalar": 8, **_ALTERNATING}),
    "GPT-2": ("GPT2Config", _OLDER),
    "GPT-J": ("GPTJConfig", {**_OLDER, "rotary_dim": 4}),
    "GPT-NeoX": ("GPTNeoXConfig", {}),
    "GPT-OSS": ("GptOssConfig", {"head_dim": 8, "num_local_experts": 4, **_ALTERNATING}),
    "OPT": ("OPTConfig", {"ffn_dim": 64, "word_embed_proj_dim": 32, "init_std": 0.3}),
    "XGLM": ("XGLMConfig", {"d_model": 32, "ffn_dim": 64, "num_layers": 2, "attention_heads": 4}),
    "BioGPT": ("BioGptConfig", {}),
    "BLOOM": ("BloomConfig", {"n_layer": 2, "n_head": 4}),
    "Falcon": ("FalconConfig", {}),
    "Phi": ("PhiConfig", {}),
    "Phi-3": ("Phi3Config", {}),
    "OLMo 2": ("Olmo2Config", {}),
    "Cohere 2": ("Cohere2Config", {"head_dim": 8, **_ALTERNATING}),
    "Granite": ("GraniteConfig", {}),
    "Granite 4 hybrid": (
        "GraniteMoeHybridConfig",
        {
            "layer_types": ["mamba", "attention"],
            "num_local_experts": 2,
            "num_experts_per_tok": 1,
            "shared_intermediate_size": 32,
            **_MAMBA_2,
        },
    ),
    "SmolLM3": ("SmolLM3Config", {}),
    "GLM-4": ("Glm4Config", {"head_dim": 8}),
    "DeepSeek-V2": (
        "DeepseekV2Config",
        {
            "num_key_value_heads": 4,
            "q_lora_rank": 16,
            "kv_lora_rank": 16,
            "qk_rope_head_dim": 4,
            "qk_nope_head_dim": 8,
            "v_head_dim": 8,
            "head_dim": 4,
            "n_routed_experts": 4,
            "n_group": 1,
            "topk_group": 1,
            "first_k_dense_replace": 1,
            **_EXPERTS,
        },
    ),
    "Mamba": ("MambaConfig", {"state_size": 4}),
    "Mamba 2": (
        "Mamba2Config",
        {"state_size": 4, "num_heads": 8, "head_dim": 8, "n_groups": 2, "chunk_size": 8},
    ),
    "Falcon Mamba": ("FalconMambaConfig", {"state_size": 4}),
    "Falcon-H1": ("FalconH1Config", {"head_dim": 8, "mamba_d_ssm": 64, **_MAMBA_2}),
    "Bamba": ("BambaConfig", {"attn_layer_indices": [1], **_MAMBA_2}),
    "Jamba": (
        "JambaConfig",
        {
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
            "num_experts": 2,
            "mamba_d_state": 4,
            "mamba_dt_rank": 4,
        },
    ),
    "LFM2": ("Lfm2Config", {"layer_types": ["conv", "full_attention"]}),
}

#: The same of families that are refused, and what the error says of them.
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "Gemma 4 with per-layer embeddings": (
        "Gemma4TextConfig",
        {
            "head_dim": 8,
            "global_head_dim": 8,
            "hidden_size_per_layer_input": 8,
            "vocab_size_per_layer_input": _VOCABULARY,
            "num_kv_shared_layers": 0,
            **_ALTERNATING,
        },
        "fails at positions that are chunk embeddings",
    ),
    "Gemma 3n": (
        "Gemma3nTextConfig",
        {
            "head_dim": 8,
            "hidden_size_per_layer_input": 8,
            "vocab_size_per_layer_input": _VOCABULARY,
            "laurel_rank": 4,
            "num_kv_shared_layers": 0,
            "activation_sparsity_pattern": [0.0, 0.0],
            **_ALTERNATING,
        },
        "looks ahead, or reads token ids besides their embeddings",
    ),
    "RecurrentGemma": (
        "RecurrentGemmaConfig",
        {
            "block_types": ["recurrent", "attention"],
            "lru_width": 32,
            "attention_window_size": 16,
        },
        "reads the padding of shorter prompts in a batch",
    ),
    "RWKV": ("RwkvConfig", {"attention_hidden_size": 32}, "takes no cache of keys and values"),
    "CPM-Ant": (
        "CpmAntConfig",
        {"dim_ff": 64, "dim_head": 8},
        "takes no inputs_embeds, through which chunk embeddings enter",
    ),
    "BERT": ("BertConfig", {}, "looks ahead, or reads token ids besides their embeddings"),
    "MiniMax": (
        "MiniMaxConfig",
        {
            "num_local_experts": 2,
            "layer_types": ["linear_attention", "full_attention"],
            "block_size": 8,
        },
        "fails at positions that are chunk embeddings",
    ),
}


def save_family(folder: Path, name: str) -> Path:
    """Saves a random decoder of a family, two layers deep, with its tokenizer."""
    kind, settings = (SERVED.get(name) or REFUSED[name])[:2]
    config = tiny_decoder_config(getattr(transformers, kind), **settings)
    torch.manual_seed(0)
    with quietly():
        decoder = AutoModelForCausalLM.from_config(config)
        for parameter in decoder.parameters():
            if not parameter.any():  # such as biases, which training would not leave at zero
                torch.nn.init.normal_(parameter, std=0.3)
        decoder.save_pretrained(folder)
    tiny_decoder_tokenizer().save_pretrained(folder)
    return folder
