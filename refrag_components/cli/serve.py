"""``refrag serve``: the generator as a server."""

from __future__ import annotations

import ipaddress
import os
from typing import Annotated

import typer

from refrag_components.cli.common import (
    BfloatOption,
    DeviceOption,
    ThreadsOption,
    load_model,
    say,
)
from refrag_components.exceptions import RefragError
from refrag_components.generation.named_engines import (
    DEFAULT_ENGINE,
    ENGINES,
    check_engine,
    make_engine,
)
from refrag_components.serving.limits import Limits
from refrag_components.weights.lookup import DEFAULT_MODEL

__all__ = ["serve"]

_TOKENS = "REFRAG_SERVE_TOKENS"
_LIMITS = Limits()


def serve(
    model_name: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="Bundled name, checkpoint folder or Hugging Face hub id."
        ),
    ] = DEFAULT_MODEL,
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen at.")] = 8000,
    name: Annotated[
        str | None,
        typer.Option(help="What clients call the model.", show_default="MODEL"),
    ] = None,
    store: Annotated[
        str,
        typer.Option(
            metavar="URL",
            help="Where chunk vectors are kept: a path, or a URL such as postgresql://me@host/db.",
        ),
    ] = "memory:",
    bfloat16: BfloatOption = False,
    engine_name: Annotated[
        str,
        typer.Option(
            "--engine",
            help=f"Runs the decoder: {ENGINES}.",
        ),
    ] = DEFAULT_ENGINE,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
    batch_size: Annotated[
        int,
        typer.Option(min=1, help="Answers that transformers decodes at the same time."),
    ] = 32,
    max_bytes: Annotated[int, typer.Option(min=1, help="Bytes of a request.")] = _LIMITS.body_bytes,
    max_passages: Annotated[
        int, typer.Option(min=0, help="Passages of a request.")
    ] = _LIMITS.passages,
    max_running: Annotated[
        int, typer.Option(min=1, help="Requests that are answered at the same time.")
    ] = _LIMITS.running,
    max_waiting: Annotated[
        int, typer.Option(min=0, help="Requests that may wait for that.")
    ] = _LIMITS.waiting,
    seconds: Annotated[
        float, typer.Option(min=0.001, help="Time for a request, waiting included.")
    ] = _LIMITS.seconds,
) -> None:
    """Answer requests in OpenAI's format; clients need a token of REFRAG_SERVE_TOKENS.

    The variable holds tokens with commas between them. Only a server that nobody else can reach
    may do without.
    """
    tokens = [token for token in os.environ.get(_TOKENS, "").split(",") if token]
    if not tokens and not _is_local(host):
        msg = (
            f"others can reach {host}: put tokens for clients into the environment variable "
            f"{_TOKENS}, with commas between them, or listen at 127.0.0.1"
        )
        raise RefragError(msg)
    check_engine(engine_name)
    import uvicorn

    from refrag_components.engines import Engine, TransformersEngine
    from refrag_components.generation.generator import RefragGenerator
    from refrag_components.serving.app import create_app  # before a model is loaded in vain
    from refrag_components.stores import open_store

    limits = Limits(max_bytes, max_passages, max_running, max_waiting, seconds)
    with open_store(store) as opened:
        model = load_model(model_name, bfloat16=bfloat16, device=device, threads=threads)
        engine: Engine = (
            TransformersEngine(model, batch_size=batch_size)
            if engine_name == DEFAULT_ENGINE
            else make_engine(engine_name, model)
        )
        generator = RefragGenerator(model, store=opened, engine=engine)
        app = create_app(generator, name=name or model_name, tokens=tokens, limits=limits)
        say(f"Answering at http://{host}:{port}/v1")
        # On SIGTERM and SIGINT no new requests are taken, and those that run are finished.
        uvicorn.run(
            app, host=host, port=port, log_level="warning", timeout_graceful_shutdown=int(seconds)
        )


def _is_local(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
