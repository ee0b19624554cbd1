"""``refrag bench``: how fast a model answers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from refrag_components.benchmarking.shapes import SHAPES, shape_named
from refrag_components.cli.common import DEFAULT_MODEL, output, say
from refrag_components.policies.budget import RESTS

if TYPE_CHECKING:
    import torch

    from refrag_components.benchmarking.subject import Subject

__all__ = ["app"]

app = typer.Typer(help="Measure how fast a model answers.", no_args_is_help=True)

OutOption = Annotated[Path, typer.Option("--out", help="Folder to write results to.")]
ModelOption = Annotated[
    str, typer.Option("--model", help="Bundled name, checkpoint folder or Hugging Face hub id.")
]
DeviceOption = Annotated[
    str | None, typer.Option("--device", show_default="CUDA if available, else CPU")
]
DtypeOption = Annotated[
    str | None, typer.Option("--dtype", show_default="bfloat16 on CUDA, float32 on CPU")
]


@app.command()
def latency(
    out: OutOption,
    model: ModelOption = DEFAULT_MODEL,
    shape: Annotated[
        str | None,
        typer.Option("--shape", help=f"Random weights instead of a model: {', '.join(SHAPES)}."),
    ] = None,
    context: Annotated[
        list[int] | None,
        typer.Option(
            "--context",
            min=1,
            metavar="N",
            help="Tokens of all passages.",
            show_default="512 to 65536, doubling",
        ),
    ] = None,
    k: Annotated[
        list[int] | None,
        typer.Option(
            "--chunk-size",
            min=1,
            metavar="N",
            help="Tokens per chunk embedding, k.",
            show_default="8, 16, 32",
        ),
    ] = None,
    expanded: Annotated[
        list[float] | None,
        typer.Option(
            "--expanded",
            min=0,
            max=1,
            metavar="P",
            help="Fraction of the chunks that expand, p.",
            show_default="0, 0.05, 0.1, 0.25",
        ),
    ] = None,
    cached: Annotated[
        bool | None,
        typer.Option(
            "--cached/--not-cached",
            help="Chunk vectors from the store, or encoded within the measured time.",
            show_default="both",
        ),
    ] = None,
    rest: Annotated[
        str | None,
        typer.Option(
            "--rest",
            help=f"What becomes of other chunks: {' or '.join(RESTS)}.",
            show_default="both",
        ),
    ] = None,
    policy: Annotated[
        str, typer.Option("--policy", help="Chooses the chunks that expand.")
    ] = "auto",
    passage_tokens: Annotated[
        int, typer.Option("--passage-tokens", min=1, metavar="N", help="Tokens per passage.")
    ] = 256,
    repeats: Annotated[
        int, typer.Option("--repeats", min=1, metavar="N", help="Measurements of each time.")
    ] = 5,
    new_tokens: Annotated[
        int,
        typer.Option(
            "--new-tokens", min=0, metavar="N", help="Tokens after the first one; 0: none."
        ),
    ] = 16,
    throughput: Annotated[
        int,
        typer.Option(
            "--throughput",
            min=0,
            metavar="N",
            help="Tokens per answer to measure throughput with, in the largest batch that fits; "
            "0: none.",
        ),
    ] = 0,
    largest_batch: Annotated[
        int, typer.Option("--largest-batch", min=1, metavar="N", help="Prompts at once, at most.")
    ] = 256,
    store: Annotated[
        str, typer.Option("--store", metavar="URL", help="Where cached chunk vectors are.")
    ] = "memory:",
    attention: Annotated[
        str, typer.Option("--attention", help="How transformers computes attention.")
    ] = "sdpa",
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    plots: Annotated[bool, typer.Option("--plots/--no-plots", help="Draw the figures.")] = True,
) -> None:
    """Measure the time from retrieved passages to the first token, and what it is made of.

    Rows are written one by one; run the same command again to continue a stopped run.
    """
    from refrag_components.benchmarking.figures import draw_figures
    from refrag_components.benchmarking.latency import LatencySettings
    from refrag_components.benchmarking.run import measure_latency
    from refrag_components.benchmarking.scenario import CONTEXTS, FRACTIONS, RATES, Method, cases
    from refrag_components.evaluation.reports.chart import check_plotting
    from refrag_components.policies import check_policy

    check_policy(policy)
    if plots:
        check_plotting()
    rests: dict[str | None, tuple[Method, ...]] = {None: RESTS} | {name: (name,) for name in RESTS}
    if rest not in rests:
        msg = f"{rest!r} is not {' or '.join(RESTS)}"
        raise typer.BadParameter(msg, param_hint="--rest")
    where, kind = _device_and_dtype(device, dtype)
    chosen = cases(
        context or CONTEXTS,
        k or RATES,
        expanded or FRACTIONS,
        cached=(True, False) if cached is None else (cached,),
        rests=rests[rest],
    )
    results = measure_latency(
        _subject(model, shape, where, kind, attention),
        chosen,
        out,
        settings=LatencySettings(
            passage_tokens=passage_tokens,
            policy=policy,
            repeats=repeats,
            new_tokens=new_tokens,
            batch_tokens=throughput,
            largest_batch=largest_batch,
        ),
        description={
            "model": f"{shape}, random weights" if shape else model,
            "dtype": str(kind).removeprefix("torch."),
            "attention": attention,
        },
        store=store,
        progress=say,
    )
    drawn = draw_figures(results, out) if plots else []
    say(f"Wrote latency.json, latency.md and {len(drawn)} figures to {out}")


@app.command()
def calibrate(
    model: ModelOption = DEFAULT_MODEL,
    repeats: Annotated[
        int, typer.Option("--repeats", min=1, help="Measurements of each length.")
    ] = 5,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
) -> None:
    """Measure how much this machine reads in a time, for budgets such as 40ms.

    To be done once per model and machine; the result is kept in the folder of fetched models.
    """
    from refrag_components.benchmarking.calibration import calibrate as measure
    from refrag_components.generation.cost_model import costs_file, machine_of

    where, kind = _device_and_dtype(device, dtype)
    loaded = _subject(model, None, where, kind, "sdpa").at(0)
    costs = measure(loaded, repeats=repeats, progress=say)
    machine = machine_of(loaded)
    path = costs_file(machine)
    costs.save(path, machine)
    output.print(str(path), markup=False, highlight=False, soft_wrap=True)


@app.command()
def plot(
    folder: Annotated[Path, typer.Argument(help="The --out folder of a measurement.")],
) -> None:
    """Write a measurement's table and figures again, without the model."""
    from refrag_components.benchmarking.figures import draw_figures
    from refrag_components.benchmarking.report import write_markdown
    from refrag_components.benchmarking.results import Results

    results = Results.read(folder)
    for path in (write_markdown(results, folder), *draw_figures(results, folder)):
        output.print(str(path), markup=False, highlight=False, soft_wrap=True)


def _device_and_dtype(device: str | None, dtype: str | None) -> tuple[torch.device, torch.dtype]:
    import torch

    try:
        where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise typer.BadParameter(str(error), param_hint="--device") from error
    name = dtype or ("bfloat16" if where.type == "cuda" else "float32")
    kind: Any = getattr(torch, name, None)
    if not isinstance(kind, torch.dtype) or not kind.is_floating_point:
        msg = f"{name!r} is not a floating-point type of torch, such as bfloat16"
        raise typer.BadParameter(msg, param_hint="--dtype")
    return where, kind


def _subject(
    model: str, shape: str | None, device: torch.device, dtype: torch.dtype, attention: str
) -> Subject:
    from refrag_components.benchmarking.subject import CheckpointSubject, ShapeSubject

    if shape is not None:
        known = shape_named(shape)
        return ShapeSubject(known, device=device, dtype=dtype, attention=attention)
    say(f"Loading {model}")
    return CheckpointSubject(model, device=device, dtype=dtype, attention=attention)
