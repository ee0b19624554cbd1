"""How fast a decoder learns to read a chunk (experiments/002).

    python experiments/reading.py CORPUS DECODER ENCODER --seconds 30 RUN...

CORPUS comes from `refrag train prepare`; its last tenth is held out. A RUN is
mix:adapter:rate:ratio:projector, such as IR:56:4e-4:8:1e-3; the adapter is a rank or "full".
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from peft import LoraConfig, get_peft_model

from refrag_components.configuration import RefragConfig
from refrag_components.corpus import TokenisedCorpus, WindowSpec, batch_logits, cut_windows
from refrag_components.modeling import RefragModel

PLACES = 4
LENGTHS, SHARES = (1, 4, 16), (0.4, 0.3, 0.3)
MEASURED = (1, 4, 16, 64)


def mix_start(kind: str, embeddings: torch.Tensor) -> torch.Tensor:
    """R: rotations, I: identity, S: a whitened subspace a place; letters together: their mean."""
    width, scale = embeddings.shape[1], embeddings.std()
    part = width // PLACES
    parts = []
    if "R" in kind:
        turns = [torch.linalg.qr(torch.randn(width, width))[0] for _ in range(PLACES)]
        parts.append(torch.stack(turns) / (scale * PLACES**0.5))
    if "I" in kind:
        parts.append(torch.eye(width).repeat(PLACES, 1, 1) / (scale * PLACES**0.5))
    if "S" in kind:
        centred = embeddings - embeddings.mean(0)
        values, vectors = torch.linalg.eigh(centred.T @ centred / len(centred))
        white = vectors.flip(1)[:, :part] / values.flip(0)[:part].sqrt()
        blocks = torch.zeros(PLACES, width, width)
        for place in range(PLACES):
            blocks[place, :, place * part : (place + 1) * part] = white
        parts.append(blocks)
    return torch.stack(parts).sum(0) / len(parts) ** 0.5


def spec(chunks: int) -> WindowSpec:
    """Repeat a text of that many chunks."""
    tokens = PLACES * chunks
    return WindowSpec(
        chunk_size=PLACES,
        passages=1,
        passage_tokens=tokens,
        output_tokens=tokens,
        reconstruct=True,
    )


def loss_of(model: RefragModel, batch: object, everywhere: bool) -> torch.Tensor:
    """Cross-entropy in nats over the repeated text, or over every label."""
    labels = batch.labels
    if everywhere:
        labels = torch.cat([batch.context_labels, labels], dim=1)
    on_cuda = model.device.type == "cuda"
    with torch.autocast("cuda", torch.bfloat16, enabled=on_cuda):
        logits = batch_logits(model, batch, everywhere=everywhere)
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1).float(), labels.flatten(), ignore_index=-100
    )


def optimiser(model: RefragModel, adapter: str, rate: float, ratio: float, projector: float):
    """Attaches adapters and returns AdamW over all that trains."""
    model.requires_grad_(False)
    model.projector.requires_grad_(True)
    model.encoder.model = get_peft_model(
        model.encoder.model, LoraConfig(r=32, lora_alpha=64, target_modules="all-linear")
    )
    if adapter == "full":
        model.decoder.requires_grad_(True)
        model.decoder.get_input_embeddings().requires_grad_(False)
    else:
        rank = int(adapter)
        model.decoder = get_peft_model(
            model.decoder, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear")
        )
    rates = {"decoder": rate, "lora_B": rate * ratio, "other": projector}
    groups: dict[str, list[torch.nn.Parameter]] = {name: [] for name in rates}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            in_decoder = name.startswith("decoder")
            kind = ("lora_B" if "lora_B" in name else "decoder") if in_decoder else "other"
            groups[kind].append(parameter)
    return torch.optim.AdamW(
        [{"params": p, "lr": rates[n], "peak": rates[n]} for n, p in groups.items() if p],
        betas=(0.9, 0.98),
        weight_decay=0.0,
    )


def run(name: str, options: argparse.Namespace, corpus: TokenisedCorpus) -> None:
    """Trains one run for its time and prints what it reads."""
    mix, adapter, *numbers = name.split(":")
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    model = RefragModel.from_base(
        RefragConfig(
            decoder=options.decoder,
            encoder=options.encoder,
            chunk_size=PLACES,
            max_chunk_size=PLACES,
        )
    )
    embeddings = model.decoder.get_input_embeddings().weight.detach().float()
    model.projector.mix.data = mix_start(mix, embeddings)
    adamw = optimiser(model, adapter, *map(float, numbers))
    model.to(options.device).train()
    model.encoder.eval()
    split = int(len(corpus) * 0.9)

    def batch(chunks: int, low: int, high: int, draws: np.random.Generator):
        shape = spec(chunks)
        rows = max(1, options.positions // (shape.positions + 6))
        return cut_windows(
            corpus,
            draws.integers(low, high - shape.span - 1, size=rows),
            shape,
            encoder=model.encoder,
            separator=model.first_token_id,
            rng=draws,
            with_context_labels=True,
        ).to(model.device)

    start, steps = time.monotonic(), 0
    while (done := (time.monotonic() - start) / options.seconds) < 1:
        for group in adamw.param_groups:
            group["lr"] = group["peak"] * min(1, (steps + 1) / 15, max(0.02, (1 - done) / 0.3))
        loss_of(model, batch(int(rng.choice(LENGTHS, p=SHARES)), 0, split, rng), True).backward()
        torch.nn.utils.clip_grad_norm_([p for g in adamw.param_groups for p in g["params"]], 1.0)
        adamw.step()
        adamw.zero_grad(set_to_none=True)
        steps += 1
    model.eval()
    read = {}
    with torch.no_grad():
        for chunks in MEASURED:
            draws = np.random.default_rng(1)
            losses = [
                float(loss_of(model, batch(chunks, split, len(corpus), draws), False))
                for _ in range(3)
            ]
            read[chunks] = round(float(np.mean(losses)), 3)
    print(name, "steps", steps, "nats a token by chunks", read, flush=True)


def main() -> None:
    """Runs what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus")
    parser.add_argument("decoder")
    parser.add_argument("encoder")
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--positions", type=int, default=32768)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    for name in options.runs:
        run(name, options, TokenisedCorpus.load(options.corpus))


if __name__ == "__main__":
    main()
