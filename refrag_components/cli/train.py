"""``refrag train``: from text and a recipe to a checkpoint."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from refrag_components.cli.common import BfloatOption, errors, output, say

__all__ = ["app"]

app = typer.Typer(help="Train a checkpoint on any Hugging Face decoder.", no_args_is_help=True)

RecipeOption = Annotated[
    Path, typer.Option("--recipe", help="TOML file with every setting; see recipes/.")
]


@app.command()
def prepare(
    texts: Annotated[
        list[Path],
        typer.Argument(help=".jsonl or .jsonl.zst with a 'text' per line, or plain text."),
    ],
    recipe: RecipeOption,
    out: Annotated[Path, typer.Option("--out", help="Folder to write; must not exist.")],
) -> None:
    """Tokenise text once, with the decoder's tokenizer."""
    from transformers import AutoTokenizer

    from refrag_components.corpus import prepare_corpus, read_texts
    from refrag_components.training.recipe import Recipe
    from refrag_components.weights.lookup import base_folder

    decoder = base_folder(Recipe.load(recipe).model.decoder)
    tokenizer = AutoTokenizer.from_pretrained(decoder)
    with _counting("documents") as progress:
        tokens = prepare_corpus(read_texts(texts), tokenizer, out, progress=progress)
    output.print(f"{tokens:,} tokens in {out}", highlight=False)


@app.command()
def questions(
    files: Annotated[
        list[Path], typer.Argument(help=".jsonl or .jsonl.zst of questions with passages.")
    ],
    recipe: RecipeOption,
    out: Annotated[Path, typer.Option("--out", help="Folder to write; must not exist.")],
    most: Annotated[
        int | None,
        typer.Option("--most", help="Maximum number of questions from each file; all by default."),
    ] = None,
    bf16: BfloatOption = False,
) -> None:
    """Tokenise questions once and find distractors for them; faster with a GPU."""
    import torch
    from transformers import AutoTokenizer

    from refrag_components.corpus.prepare_questions import prepare_questions
    from refrag_components.modeling.search_encoder import SearchEncoder
    from refrag_components.training.recipe import Recipe
    from refrag_components.weights.lookup import base_folder

    settings = Recipe.load(recipe)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    precision = torch.autocast(device, torch.bfloat16, enabled=bf16)
    with precision, _counting("texts") as progress:
        count = prepare_questions(
            files,
            AutoTokenizer.from_pretrained(base_folder(settings.model.decoder)),
            SearchEncoder(base_folder(settings.model.encoder)),
            out,
            device=device,
            most=most,
            seed=settings.seed,
            progress=progress,
        )
    output.print(f"{count:,} questions in {out}", highlight=False)


@app.command()
def run(
    recipe: RecipeOption,
    text: Annotated[
        Path, typer.Option("--text", help="Training text, from `refrag train prepare`.")
    ],
    validation: Annotated[
        Path, typer.Option("--validation", help="Held-out text, likewise prepared.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder of the run; a run in it is resumed.")],
    questions: Annotated[
        list[Path] | None,
        typer.Option(
            "--questions", help="Questions, from `refrag train questions`; may be repeated."
        ),
    ] = None,
    stage: Annotated[
        str | None, typer.Option("--stage", help="Only this stage; by default all, in order.")
    ] = None,
    start_from: Annotated[
        str | None,
        typer.Option("--start-from", help="Checkpoint from which the first stage starts."),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            "--teacher",
            help="Checkpoint whose decoder teaches the stages that the recipe says are taught; "
            "by default the run's own twin.",
        ),
    ] = None,
    decoder_from: Annotated[
        str | None,
        typer.Option(
            "--decoder-from",
            help="Checkpoint whose decoder the continual stage starts with, in place of the base "
            "decoder; the encoder starts anew.",
        ),
    ] = None,
    max_seconds: Annotated[
        float | None,
        typer.Option("--max-seconds", help="Time limit for each stage; by default the recipe's."),
    ] = None,
) -> None:
    """Run the training stages; a run that was killed continues where it stopped.

    For several GPUs: accelerate launch -m refrag_components.cli train run ...
    """
    from torch import distributed

    from refrag_components.corpus import QuestionSet, TokenisedCorpus
    from refrag_components.exceptions import TrainingError
    from refrag_components.training.recipe import STAGES, Recipe
    from refrag_components.training.stages import Run, check_stages, run_stage

    speaks = os.environ.get("RANK", "0") == "0"  # only one of the processes that train together
    settings = Recipe.load(recipe)
    if max_seconds is not None:
        settings = settings.within(max_seconds)
    if stage is not None and stage not in STAGES:
        msg = f"there is no stage {stage!r}; stages are {', '.join(STAGES)}"
        raise TrainingError(msg)
    whole = Run(
        recipe=settings,
        train=TokenisedCorpus.load(text),
        validation=TokenisedCorpus.load(validation),
        questions=(
            QuestionSet.joined([QuestionSet.load(each) for each in questions])
            if questions
            else None
        ),
        folder=out,
        teacher=teacher,
        decoder_from=decoder_from,
    )
    names = settings.stages if stage is None else (stage,)
    check_stages(names, whole)
    for name in names:
        if speaks:
            say(f"Stage {name}")
        finished = run_stage(name, whole, start_from=start_from)
        start_from = None
        if speaks:
            output.print(f"{name}: {finished}", highlight=False)
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


@contextmanager
def _counting(what: str) -> Iterator[Callable[[int], None]]:
    """Shows how many are done; yields the function that adds to the count."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=errors) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done: bar.advance(task, done)
