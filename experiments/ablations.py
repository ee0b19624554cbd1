"""What each part of the recipe is worth: short runs of its second stage that differ in one thing.

    python experiments/ablations.py --recipe recipes/refrag-smollm2-135m.toml \
        --text data/train --validation data/valid --out runs/ablations [VARIANT...]

Every variant trains for the same number of steps and is measured on the same windows. Finished
ones are not run again; the table at the end has all that OUT holds. Uses one GPU: share the
variants among several by CUDA_VISIBLE_DEVICES.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import AutoModel, AutoTokenizer

from refrag_components.corpus import TokenisedCorpus
from refrag_components.evaluation.continuation.recovery import measure_recovery
from refrag_components.evaluation.reports.table import markdown_table
from refrag_components.modeling import RefragModel
from refrag_components.training.recipe import Recipe
from refrag_components.training.stages import run_stage
from refrag_components.weights.lookup import base_folder

Change = Callable[[Recipe], Recipe]


def with_k(k: int) -> Change:
    """The recipe for a single chunk size."""
    return lambda recipe: replace(
        recipe,
        model=replace(recipe.model, chunk_size=k, max_chunk_size=k),
        continual=replace(recipe.continual, chunk_sizes=(k,)),
    )


def with_model(**settings: Any) -> Change:
    """The recipe with another projector."""
    return lambda recipe: replace(recipe, model=replace(recipe.model, **settings))


def with_stage(**settings: Any) -> Change:
    """The recipe with other settings of the stage."""
    return lambda recipe: replace(recipe, continual=replace(recipe.continual, **settings))


def adapted_encoder(recipe: Recipe) -> Recipe:
    """The recipe with an encoder that learns too."""
    return replace(recipe, lora=replace(recipe.lora, encoder_rank=32))


VARIANTS: dict[str, Change] = {
    "k=4": with_k(4),
    "k=8": with_k(8),
    "k=16": with_k(16),
    "k=32": with_k(32),
    "no curriculum": with_stage(curriculum_steps=0, reconstruction_share=0.25),
    "no reconstruction": with_stage(curriculum_steps=0, reconstruction_share=0.0),
    "no recalls": with_stage(recall_share=0.0),
    "chunk vectors alone": with_model(token_mlp=0),
    "adapted encoder": adapted_encoder,
    "encoder of 2 layers": with_k(4),  # see main
    "no distillation": with_stage(
        distillation=0.0, base_teacher=False, alignment=0.0, context_alignment=0.0, next_token=1.0
    ),
    "no chunk adapter": with_stage(chunk_adapter_lr=0.0),
}


def short_encoder(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with the first two layers of its encoder."""
    base = base_folder(recipe.model.encoder)
    encoder = AutoModel.from_pretrained(base)
    encoder.encoder.layer = encoder.encoder.layer[:2]
    encoder.config.num_hidden_layers = 2
    encoder.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return replace(recipe, model=replace(recipe.model, encoder=str(folder)))


def main() -> None:
    """Runs variants and prints the table of all that were run."""
    parser = argparse.ArgumentParser()
    parser.add_argument("variants", nargs="*", default=list(VARIANTS))
    for name in ("recipe", "text", "validation", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--positions", type=int, default=32768)
    parser.add_argument("--windows", type=int, default=300)
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    base = with_k(4)(replace(Recipe.load(options.recipe), reconstruction=None))
    base = with_stage(
        steps=options.steps,
        curriculum_steps=options.steps // 2,
        positions=options.positions,
        max_seconds=None,
        conversation_share=0.0,
        evaluate_every=10**6,
    )(base)
    text = {
        "train": TokenisedCorpus.load(options.text),
        "validation": TokenisedCorpus.load(options.validation),
    }
    for name in options.variants:
        folder = options.out / name.replace(" ", "-")
        if (folder / "result.json").exists():
            continue
        start = time.perf_counter()
        recipe = VARIANTS[name](base)
        if name == "encoder of 2 layers":
            recipe = short_encoder(recipe, folder / "encoder")
        # Compiling would take as long as so short a run.
        checkpoint = run_stage("continual", recipe, **text, folder=folder, compiled=False)
        seconds = time.perf_counter() - start
        k = recipe.model.chunk_size
        found = measure_recovery(
            RefragModel.from_pretrained(checkpoint),
            text["validation"],
            chunk_size=k,
            fractions=(0.0, 0.25),
            max_windows=options.windows,
        )
        result = {"variant": name, "seconds": round(seconds), **found}
        (folder / "result.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    headings = ("variant", "k", "s", "none", "full", "p=0", "recovery", "p=.25", "recovery")
    rows = []
    for path in sorted(options.out.glob("*/result.json")):
        r = json.loads(path.read_text(encoding="utf-8"))
        cells = [r["variant"], r["chunk_size"], r["seconds"], f"{r['none']:.3f}"]
        cells.append(f"{r['full']:.3f}")
        for row in r["compressed"]:
            low, high = row["interval"]
            cells += [f"{row['log_ppl']:.3f}", f"{row['recovery']:.3f} ({low:.3f}-{high:.3f})"]
        rows.append(cells)
    print("\n".join(markdown_table(headings, rows)))


if __name__ == "__main__":
    main()
