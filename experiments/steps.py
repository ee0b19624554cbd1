"""What a training step takes.

    python experiments/steps.py recipes/refrag-smollm2-135m.toml CORPUS

CORPUS comes from `refrag train prepare`. Needs CUDA.
"""

from __future__ import annotations

import argparse
import time

import torch

from refrag_components.corpus import Batch, TokenisedCorpus
from refrag_components.modeling import RefragModel
from refrag_components.training.continual import ContinualBatches
from refrag_components.training.objective import TrainingModel
from refrag_components.training.optimizer import MuonAdamW
from refrag_components.training.recipe import Recipe
from refrag_components.training.text_batches import Frame, TextSource


def prepared(recipe: Recipe, eager: bool) -> TrainingModel:
    """The recipe's untrained model on the GPU, compiled unless ``eager``."""
    torch.manual_seed(0)
    model = RefragModel.from_base(recipe.model)
    model.decoder.get_input_embeddings().weight.requires_grad_(False)
    training = TrainingModel(model, model.base_decoder()).cuda().train()
    training.place_teacher(torch.device("cuda"))
    if not eager:
        training.compile_layers()
    return training


def passes(training: TrainingModel, batches: tuple[Batch, ...]) -> dict[str, float]:
    """Forward and backward pass of each batch; seconds until the GPU is done, by kind."""
    took = {}
    for batch in batches:
        start = time.perf_counter()
        with torch.autocast("cuda", torch.bfloat16):
            loss = training(batch.to("cuda")) * batch.weight
        loss.backward()
        torch.cuda.synchronize()
        took[batch.name] = time.perf_counter() - start
    return took


def main() -> None:
    """Prints the seconds of each batch and of the optimiser, the first step's apart."""
    parser = argparse.ArgumentParser()
    parser.add_argument("recipe")
    parser.add_argument("corpus")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--eager", action="store_true", help="without torch.compile")
    parser.add_argument("--profile", action="store_true", help="also what the GPU does in a step")
    options = parser.parse_args()
    recipe = Recipe.load(options.recipe)
    settings = recipe.continual
    assert settings is not None
    training = prepared(recipe, options.eager)
    frame = Frame.of(training.refrag, settings.rung_shares)
    source = TextSource(TokenisedCorpus.load(options.corpus), settings.text, frame)
    batches = ContinualBatches(settings, source, recipe.seed)
    optimiser = MuonAdamW([p for p in training.parameters() if p.requires_grad], lr=1e-4)
    first = sum(lesson.steps for lesson in settings.short)  # the usual contexts
    for step in range(options.steps):
        ready = batches[first + step]
        took = passes(training, ready)
        start = time.perf_counter()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        torch.cuda.synchronize()
        took["optimiser"] = time.perf_counter() - start
        rows = sum(len(batch.token_ids) for batch in ready)
        peak = torch.cuda.max_memory_allocated() / 2**30
        each = ", ".join(f"{name} {seconds:.3f}" for name, seconds in took.items())
        total = sum(took.values())
        print(
            f"step {step}: {rows} windows, {total:.3f} s ({each}), peak {peak:.0f} GiB", flush=True
        )
    if options.profile:
        with torch.profiler.profile() as profile:
            passes(training, batches[first])
        times = profile.key_averages().table(
            sort_by="self_device_time_total", row_limit=28, max_name_column_width=70
        )
        print(times, flush=True)


if __name__ == "__main__":
    main()
