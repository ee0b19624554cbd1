"""The parts of the time to first token, each by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from refrag_components.benchmarking.timing import Timing, measure
from refrag_components.engines.decoder_batch import DecoderBatch
from refrag_components.engines.decoder_inputs import embed_layouts
from refrag_components.engines.sampling import Sampler, SamplingParams
from refrag_components.engines.static_caches import StaticCaches
from refrag_components.generation.passage_loader import PassageLoader
from refrag_components.policies import PolicyInputs
from refrag_components.policies.encoding import encode_questions
from refrag_components.prompts.parts import ControlPart, PassagePart, TextPart
from refrag_components.prompts.prompt_tokenizer import PromptTokenizer

if TYPE_CHECKING:
    from refrag_components.engines.layout import Layout
    from refrag_components.modeling import RefragModel
    from refrag_components.policies import Policy
    from refrag_components.prompts.parts import RenderedPart
    from refrag_components.stores.common.base import ChunkStore

__all__ = ["ENGINE_STAGES", "STAGES", "measure_stages"]

_WARM_UP = 2  # when a prompt's length comes again, a GPU records its kernels

#: Stages in the order of the data, with what they are.
STAGES: dict[str, str] = {
    "tokenising": "prompt text, and passages that are not cached, to tokens",
    "store": "chunk vectors from the store",
    "encoding": "passages that are not cached to chunk vectors",
    "policy": "the question's vectors, and scores of all chunks",
    "embedding": "projection, and the layout as decoder inputs",
    "prefill": "the decoder over all positions",
    "sampling": "logits to the first token, on the host",
}

#: The stages that an engine runs: from a layout to the first token.
ENGINE_STAGES = ("embedding", "prefill", "sampling")


def measure_stages(
    model: RefragModel,
    parts: Sequence[RenderedPart],
    layout: Layout,
    *,
    question: str,
    store: ChunkStore,
    cached: bool,
    policy: Policy | None,
    repeats: int,
) -> dict[str, Timing]:
    """Runs the pieces that a generator and its engine are made of, and waits for each to finish.

    The sum may exceed the time to first token: there, nothing waits between the stages.

    Args:
        model: The model.
        parts: The prompt.
        layout: What it becomes.
        question: The question.
        store: Holds the passages' chunk vectors.
        cached: Whether they come from it.
        policy: Scores the chunks; None if there is nothing to choose.
        repeats: Measurements of each stage.

    Returns:
        Timings by the names in ``STAGES``; stages that the case does not have are missing.
    """
    device = model.device
    passages = [part for part in parts if isinstance(part, PassagePart)]
    texts = [part.text for part in passages]
    prompts = PromptTokenizer(model.tokenizer)
    loader = PassageLoader(model, store)
    runs = _text_runs(parts)

    def tokenise() -> None:
        for run in runs:
            prompts.encode(run)
        if not cached:
            model.cut_passages(texts)

    work: dict[str, Callable[[], object]] = {"tokenising": tokenise}
    if passages and cached:
        work["store"] = lambda: loader.load(passages)
    elif passages:
        chunked = model.cut_passages(texts)
        work["encoding"] = lambda: model.encode_chunks(chunked)
    if policy is not None:
        vectors = [passage.vectors for passage in loader.load(passages)]

        def score() -> np.ndarray:
            (encoded,) = encode_questions(model, [(question, policy)])
            return policy.scores(PolicyInputs(vectors, encoded))

        work["policy"] = score
    caches = StaticCaches.for_model(model)
    begun: list[DecoderBatch] = []

    def prefill() -> None:
        begun.append(DecoderBatch(model, inputs, caches))

    def give_back() -> None:
        while begun:
            begun.pop().close()

    with torch.inference_mode():
        inputs = embed_layouts(model, [layout])
        batch = DecoderBatch(model, inputs)
        sampler = Sampler(SamplingParams(), torch.zeros(0, dtype=torch.int64, device=device))
        logits = batch.logits
        del batch  # its cache may be gigabytes
        work["embedding"] = lambda: embed_layouts(model, [layout])
        work["prefill"] = prefill
        work["sampling"] = lambda: sampler(logits[0]).tolist()
        return {
            name: measure(work[name], device, repeats=repeats, warm_up=_WARM_UP, before=give_back)
            for name in STAGES
            if name in work
        }


def _text_runs(parts: Sequence[RenderedPart]) -> list[list[TextPart | ControlPart]]:
    """The texts between passages, as a generator tokenises them."""
    runs: list[list[TextPart | ControlPart]] = [[]]
    for part in parts:
        if isinstance(part, PassagePart):
            runs.append([])
        else:
            runs[-1].append(part)
    return [run for run in runs if run]
