"""What stage 2 should practise: short runs that differ in a few of its settings.

    python experiments/mixtures.py experiments/mixtures.toml --recipe RECIPE --text data/train \
        --validation data/valid --questions data/questions --out runs/mixtures [VARIANT...]

The file has a table for each variant: settings of the recipe's [continual] table, and "start", a
checkpoint to start from instead of untrained adapters. Finished variants are not run again. The
table at the end has all that OUT holds; --best writes the recipe with the settings of the one that
recovers most, and the path of its checkpoint beside it (.start).
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import time
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from refrag_components.corpus import (
    QuestionSet,
    TokenisedCorpus,
    WindowSpec,
    batch_embeddings,
    cut_windows,
)
from refrag_components.evaluation.continuation.recovery import (
    PASSAGE_TOKENS,
    token_losses,
    window_starts,
)
from refrag_components.evaluation.reports.table import markdown_table
from refrag_components.modeling import RefragModel
from refrag_components.training.alignment import LayerStates, context_places, misalignment
from refrag_components.training.recipe import Recipe
from refrag_components.training.stages import run_stage

CONTEXT, OUTPUT = 1024, 256
WAYS = {"none": 1.0, "full": 1.0, "p=0": 0.0, "p=.25": 0.25, "last .25": 0.25}
WAYS |= {"recall full": 1.0, "recall p=0": 0.0}  # the output is spans from anywhere in the context
SPAN = 32
PARTS = {"all": (0, OUTPUT), "0-16": (0, 16), "16-64": (16, 64), "64-256": (64, OUTPUT)}


def measure(
    checkpoint: Path, corpus: TokenisedCorpus, k: int, windows: int
) -> dict[str, dict[str, float]]:
    """Log-perplexity of each part of the continuation after each way to read the context."""
    model = RefragModel.from_pretrained(checkpoint, chunk_size=k)
    starts = window_starts(corpus, CONTEXT, OUTPUT, windows)
    found = {}
    for way, expanded in WAYS.items():
        spec = WindowSpec(
            chunk_size=k,
            passages=0 if way == "none" else CONTEXT // PASSAGE_TOKENS,
            passage_tokens=PASSAGE_TOKENS,
            output_tokens=OUTPUT,
            expanded=expanded,
            recent=way == "last .25",
            recalled=SPAN if way.startswith("recall") else 0,
        )
        rng = np.random.default_rng(0)
        losses = np.concatenate(
            [
                token_losses(
                    model,
                    cut_windows(
                        corpus,
                        starts[first : first + 16] - spec.context_tokens,
                        spec,
                        encoder=model.encoder,
                        separator=model.first_token_id,
                        rng=rng,
                    ),
                )
                for first in range(0, len(starts), 16)
            ]
        )
        found[way] = {part: float(np.nanmean(losses[:, a:b])) for part, (a, b) in PARTS.items()}
    return found


@torch.no_grad()
def missed(checkpoint: Path, corpus: TokenisedCorpus, k: int, windows: int) -> dict[str, float]:
    """Misalignment of the chunk embeddings' states, by layer, and their mean."""
    model = RefragModel.from_pretrained(checkpoint, chunk_size=k, dtype=torch.float32)
    spec = WindowSpec(
        chunk_size=k,
        passages=CONTEXT // PASSAGE_TOKENS,
        passage_tokens=PASSAGE_TOKENS,
        output_tokens=OUTPUT,
    )
    batch = cut_windows(
        corpus,
        window_starts(corpus, CONTEXT, OUTPUT, windows) - CONTEXT,
        spec,
        encoder=model.encoder,
        separator=model.first_token_id,
        rng=np.random.default_rng(0),
        with_full_text=True,
    ).to(model.device)
    states = LayerStates(model)
    states.start()
    inputs = batch_embeddings(model, batch)
    with model.chunk_mask.using(batch.chunk_places):
        model.decoder(inputs_embeds=inputs, logits_to_keep=1, use_cache=False)
    own = states.take()
    states.start()
    model.decoder(input_ids=batch.full_ids, logits_to_keep=1, use_cache=False)
    assert batch.context_index is not None
    mine, places = context_places(batch), batch.context_index.flatten()
    layers = [
        float(misalignment(a[mine], b[places])) for a, b in zip(own, states.take(), strict=True)
    ]
    return {str(i): value for i, value in enumerate(layers)} | {"mean": float(np.mean(layers))}


def recovered(found: dict[str, dict[str, float]], way: str, part: str = "all") -> float:
    """Recovery (none - way) / (none - full) on a part of the continuation."""
    none, full = found["none"][part], found["full"][part]
    return (none - found[way][part]) / (none - full)


def table(out: Path) -> list[dict[str, Any]]:
    """Prints all results, best first, and returns them."""
    results = [json.loads(path.read_text()) for path in out.glob("*/result.json")]
    results.sort(key=lambda r: -recovered(r["found"], "p=0") - recovered(r["found"], "p=.25"))
    parts = [(way, part) for way in ("p=0", "p=.25") for part in PARTS] + [("last .25", "all")]
    recall = [way for way in WAYS if way.startswith("recall")]
    headings = ["variant", "s", "missed", "none", "full", *recall, *(f"{w} {p}" for w, p in parts)]
    rows = []
    for r in results:
        cells = [r["variant"], r["seconds"], f"{r['missed']['mean']:.2f}"]
        cells += [f"{r['found'][way]['all']:.3f}" for way in ("none", "full", *recall)]
        cells += [f"{recovered(r['found'], *part):.3f}" for part in parts]
        rows.append(cells)
    print("\n".join(markdown_table(headings, rows)))
    return results


def write_best(results: list[dict[str, Any]], recipe: Path, best: Path, out: Path) -> None:
    """Writes the recipe with the best variant's settings."""
    head, tail = recipe.read_text().split("[continual]\n")
    own, *others = tail.split("\n[", 1)
    for name, value in results[0]["settings"].items():
        own = re.sub(rf"^{name} = .*\n", "", own, flags=re.M)
        own = f"{name} = {json.dumps(value)}\n{own}"
    tail = "\n[".join([own, *others])
    best.write_text(f"{head}[continual]\n{tail}")
    folder = out / results[0]["variant"] / "continual" / "model"
    best.with_suffix(".start").write_text(f"{folder}\n")


def main() -> None:
    """Runs variants and prints the table of all that were run."""
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    parser.add_argument("variants", nargs="*")
    for name in ("recipe", "text", "validation", "questions", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=350)
    parser.add_argument("--positions", type=int, default=49152)
    parser.add_argument("--windows", type=int, default=192)
    parser.add_argument("--deadline", type=float, help="start none after this many seconds")
    parser.add_argument("--best", type=Path)
    options = parser.parse_intermixed_args()
    logging.basicConfig(level=logging.WARNING)
    begun = time.perf_counter()
    variants = tomllib.loads(options.file.read_text())
    recipe = Recipe.load(options.recipe)
    k = recipe.model.chunk_size
    text: dict[str, Any] = {
        "train": TokenisedCorpus.load(options.text),
        "validation": TokenisedCorpus.load(options.validation),
        "questions": QuestionSet.load(options.questions),
    }
    for name in options.variants if options.best is None else []:
        folder = options.out / name
        late = options.deadline is not None and time.perf_counter() - begun > options.deadline
        if late or (folder / "result.json").exists():
            continue
        settings = dict(variants[name])
        start = settings.pop("start", None)
        lists = {n: tuple(v) if isinstance(v, list) else v for n, v in settings.items()}
        common: dict[str, Any] = {"chunk_sizes": (k,), "evaluate_every": 10**6, "save_every": 10**6}
        common |= {"steps": options.steps, "max_seconds": None, "positions": options.positions}
        changed = replace(recipe.continual, **{**common, **lists})
        now = time.perf_counter()
        checkpoint = run_stage(
            "continual",
            replace(recipe, reconstruction=None, continual=changed),
            **text,
            folder=folder,
            start_from=start,
        )
        seconds = round(time.perf_counter() - now)
        found = measure(checkpoint, text["validation"], k, options.windows)
        result = {"variant": name, "seconds": seconds, "settings": settings, "found": found}
        result["missed"] = missed(checkpoint, text["validation"], k, 16)
        (folder / "result.json").write_text(json.dumps(result, indent=1) + "\n")
    results = table(options.out)
    if options.best is not None:
        write_best(results, options.recipe, options.best, options.out)


if __name__ == "__main__":
    main()
