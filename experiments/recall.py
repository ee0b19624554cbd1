"""What a checkpoint reads out of chunk embeddings: nats a token of text repeated and recalled.

    python experiments/recall.py data/valid CHECKPOINT... --chunk-size 4

Repeating a text needs its chunks to be read in order; recalling spans of 32 tokens from anywhere in
a context, the first two of each given, needs them to be looked up. A cloze question is a sentence
of the context without some of its words: these are its answer, and alone count. "text" is the same
context as tokens. Since experiments/010 a separator stands before what is recalled.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from refrag_components.corpus import ClozeForm, TokenisedCorpus, WindowSpec
from refrag_components.evaluation.continuation.recovery import window_losses
from refrag_components.modeling import RefragModel

REPEATED = (1, 4, 16, 64)  # chunks
CONTEXTS = (64, 256, 1024)  # tokens
PASSAGE, SPAN, OUTPUT = 128, 32, 256
TOKENS = 4096  # of context for each number
CLOZE_CONTEXTS, CLOZE_PASSAGES = (512, 1024), 8
CLOZE_WINDOWS = 96  # more than of the others: answers are some two dozen tokens a window


def mean_loss(
    model: RefragModel, corpus: TokenisedCorpus, spec: WindowSpec, form: ClozeForm
) -> float:
    """Nats a token of what is asked for, over windows drawn alike for every checkpoint."""
    count = CLOZE_WINDOWS if spec.cloze else max(8, TOKENS // spec.context_tokens)
    starts = np.random.default_rng(1).integers(0, len(corpus) - spec.span, size=count)
    losses = window_losses(model, corpus, spec, starts + spec.context_tokens, form=form)
    return float(np.nanmean(losses))  # some text has nothing to ask for


def main() -> None:
    """Prints one line of JSON a checkpoint."""
    parser = argparse.ArgumentParser()
    parser.add_argument("corpus", type=Path)
    parser.add_argument("checkpoints", nargs="+")
    parser.add_argument("--chunk-size", type=int, default=4)
    options = parser.parse_args()
    corpus = TokenisedCorpus.load(options.corpus)
    k = options.chunk_size
    specs = {}
    for chunks in REPEATED:
        specs[f"repeat {chunks}"] = WindowSpec(
            chunk_size=k,
            passages=1,
            passage_tokens=k * chunks,
            output_tokens=k * chunks,
            reconstruct=True,
        )
    for s in CONTEXTS:
        compressed = WindowSpec(
            chunk_size=k,
            passages=max(1, s // PASSAGE),
            passage_tokens=min(s, PASSAGE),
            output_tokens=min(s, OUTPUT),
            recalled=SPAN,
        )
        specs[f"recall {s}, text"] = replace(compressed, expanded=1.0)
        specs[f"recall {s}"] = compressed
    for s in CLOZE_CONTEXTS:
        compressed = WindowSpec(
            chunk_size=k,
            passages=CLOZE_PASSAGES,
            passage_tokens=s // CLOZE_PASSAGES,
            output_tokens=OUTPUT,
            cloze=True,
        )
        specs[f"cloze {s}, text"] = replace(compressed, expanded=1.0)
        specs[f"cloze {s}"] = compressed
    for checkpoint in options.checkpoints:
        model = RefragModel.from_pretrained(checkpoint, chunk_size=k)
        form = ClozeForm.of(model.tokenizer)
        found = {
            name: round(mean_loss(model, corpus, spec, form), 3) for name, spec in specs.items()
        }
        print(json.dumps({"checkpoint": str(checkpoint), "k": k, **found}), flush=True)


if __name__ == "__main__":
    main()
