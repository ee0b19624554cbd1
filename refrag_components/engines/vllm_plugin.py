"""What vLLM calls in each of its processes where this library is installed."""

from __future__ import annotations

__all__ = ["ARCHITECTURE", "register"]

#: In the ``config.json`` of a decoder with an adapter at chunk embeddings only.
ARCHITECTURE = "RefragLlamaForCausalLM"


def register() -> None:
    """Names the models that vLLM may find in a ``config.json``; imports none of them."""
    from vllm import ModelRegistry

    ModelRegistry.register_model(
        ARCHITECTURE, f"refrag_components.engines.vllm_llama:{ARCHITECTURE}"
    )
