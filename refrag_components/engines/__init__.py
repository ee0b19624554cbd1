"""Engines, which run the decoder on layouts."""

from __future__ import annotations

from refrag_components.engines.base import Engine, EngineDelta, EngineOutput, FinishReason
from refrag_components.engines.sampling import SamplingParams
from refrag_components.engines.transformers_engine import TransformersEngine

__all__ = [
    "Engine",
    "EngineDelta",
    "EngineOutput",
    "FinishReason",
    "SamplingParams",
    "TransformersEngine",
]
