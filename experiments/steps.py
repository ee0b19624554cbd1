"""What a training step of stages 1 and 2 takes.

    python experiments/steps.py recipes/refrag-smollm2-135m.toml CORPUS --positions 32768

CORPUS comes from `refrag train prepare`. Needs CUDA.
"""

from __future__ import annotations

import argparse
import time

import torch

from refrag_components.corpus import Batch, TokenisedCorpus, WindowSpec
from refrag_components.modeling import RefragModel
from refrag_components.training.adapters import attach_adapters, store_frozen_in_bfloat16
from refrag_components.training.objective import TrainingModel
from refrag_components.training.plans import PlannedBatches
from refrag_components.training.recipe import Recipe


def window(k: int, expanded: float) -> WindowSpec:
    """Four passages of 256 tokens before 256 more."""
    return WindowSpec(
        chunk_size=k, passages=4, passage_tokens=256, output_tokens=256, expanded=expanded
    )


SPECS = {
    "reconstruct 1": WindowSpec(
        chunk_size=4, passages=1, passage_tokens=4, output_tokens=4, reconstruct=True
    ),
    "reconstruct 64": WindowSpec(
        chunk_size=4, passages=1, passage_tokens=256, output_tokens=256, reconstruct=True
    ),
    "k=4 p=0": window(4, 0.0),
    "k=4 p=.25": window(4, 0.25),
    "k=8 p=0": window(8, 0.0),
    "p=1": window(4, 1.0),
}


def prepared(recipe: Recipe, eager: bool) -> TrainingModel:
    """The recipe's untrained model on the GPU, compiled unless ``eager``."""
    torch.manual_seed(0)
    model = RefragModel.from_base(recipe.model)
    attach_adapters(model, recipe.lora)
    store_frozen_in_bfloat16(model.decoder)
    training = TrainingModel(model, distillation=1.0).cuda().train()
    if not eager:
        training.compile_layers()
    return training


def step(training: TrainingModel, batch: Batch, optimiser: torch.optim.Optimizer) -> float:
    """One step; returns the loss once the GPU is done."""
    with torch.autocast("cuda", torch.bfloat16):
        loss = training(**vars(batch.to(torch.device("cuda"))))["loss"]
    loss.backward()
    optimiser.step()
    optimiser.zero_grad()
    torch.cuda.synchronize()
    return float(loss.detach())


def main() -> None:
    """Prints seconds a step, the first one with its compilation apart."""
    parser = argparse.ArgumentParser()
    parser.add_argument("recipe")
    parser.add_argument("corpus")
    parser.add_argument("--positions", nargs="+", type=int, default=[32768])
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--eager", action="store_true", help="without torch.compile")
    parser.add_argument("--profile", action="store_true", help="also what the GPU does in a step")
    options = parser.parse_args()
    recipe = Recipe.load(options.recipe)
    corpus = TokenisedCorpus.load(options.corpus)
    training = prepared(recipe, options.eager)
    trained = [p for p in training.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=1e-4, fused=True)
    for positions in options.positions:
        for name, spec in SPECS.items():
            batches = PlannedBatches(
                corpus,
                [spec] * options.steps,
                training.refrag,
                positions,
                seed=0,
                with_full_text=not spec.reconstruct,
            )
            ready = [batches[i] for i in range(options.steps)]
            took = []
            for batch in ready:
                start = time.perf_counter()
                loss = step(training, batch, optimiser)
                took.append(time.perf_counter() - start)
            peak = torch.cuda.max_memory_allocated() / 2**30
            print(
                f"{positions} {name}: rows {len(ready[0].labels)},"
                f" {sorted(took)[len(took) // 2]:.3f} s a step, first {took[0]:.1f} s,"
                f" loss {loss:.3f}, peak {peak:.0f} GiB",
                flush=True,
            )
            if options.profile:
                with torch.profiler.profile() as profile:
                    step(training, ready[0], optimiser)
                times = profile.key_averages().table(
                    sort_by="self_device_time_total", row_limit=28, max_name_column_width=70
                )
                print(times, flush=True)


if __name__ == "__main__":
    main()
