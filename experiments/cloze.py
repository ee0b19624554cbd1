"""How well questions made of running text are answered: nats a token of the answers, k=4.

    python experiments/cloze.py data/valid CHECKPOINT...

As tokens (p=1) and compressed (p=0), among passages of an eighth of the context. Best on a GPU.
"""

from __future__ import annotations

import json
import sys

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from refrag_components.corpus import (
    IGNORED,
    ClozeForm,
    TokenisedCorpus,
    WindowSpec,
    batch_logits,
    cut_windows,
)
from refrag_components.modeling import RefragModel

_ROWS = 96


def main(text: str, *models: str) -> None:
    """Prints a line a model: nats a token at p = 0 and p = 1, for 512 and 1,024 tokens of text."""
    corpus = TokenisedCorpus.load(text)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for name in models:
        model = RefragModel.from_pretrained(name, device=device)
        form = ClozeForm.of(model.tokenizer)
        row: dict[str, object] = {"model": name}
        for context in (512, 1024):
            for expanded in (0.0, 1.0):
                rng = np.random.default_rng(0)
                spec = WindowSpec(
                    chunk_size=4,
                    passages=8,
                    passage_tokens=context // 8,
                    output_tokens=256,
                    expanded=expanded,
                    cloze=True,
                )
                starts = rng.integers(0, len(corpus) - spec.span, size=_ROWS)
                losses = []
                for part in np.array_split(starts, _ROWS // 8):
                    batch = cut_windows(
                        corpus,
                        part,
                        spec,
                        encoder=model.encoder,
                        separator=model.first_token_id,
                        form=form,
                        rng=rng,
                    ).to(model.device)
                    with torch.inference_mode(), torch.autocast(device, torch.bfloat16):
                        logits = batch_logits(model, batch).flatten(0, 1)[batch.answer_index]
                    labels = batch.labels.flatten()
                    losses.append(
                        cross_entropy(logits.float(), labels[labels != IGNORED], reduction="none")
                    )
                row[f"{context}, p={expanded:g}"] = round(float(torch.cat(losses).mean()), 3)
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
