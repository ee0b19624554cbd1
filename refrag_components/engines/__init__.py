"""Engines, which run the decoder on layouts."""

from __future__ import annotations

from refrag_components.engines.base import (
    AsyncEngine,
    Engine,
    EngineDelta,
    EngineOutput,
    FinishReason,
    TokenLogprob,
)
from refrag_components.engines.sampling import SamplingParams
from refrag_components.engines.transformers_engine import TransformersEngine
from refrag_components.engines.vllm_engine import VllmEngine

__all__ = [
    "AsyncEngine",
    "Engine",
    "EngineDelta",
    "EngineOutput",
    "FinishReason",
    "SamplingParams",
    "TokenLogprob",
    "TransformersEngine",
    "VllmEngine",
]
