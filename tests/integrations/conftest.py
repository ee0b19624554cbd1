"""For the tests of both frameworks: a checkpoint that calls tools, and who does what at first."""

from __future__ import annotations

import math
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from refrag_components.generation import shared_checkpoints
from refrag_components.generation.shared_checkpoints import load_checkpoint
from refrag_components.modeling import RefragModel
from refrag_components.records import RecordCollection
from tests.integrations.scripted import ScriptedEngine, follow_tools
from tests.tiny import TOOL_TEMPLATE


@pytest.fixture(scope="session")
def tool_folder(roomy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose chat template knows tools, with a window for their schemas."""
    folder = tmp_path_factory.mktemp("checkpoint") / "tools"
    shutil.copytree(roomy_folder / "tiny", folder)
    (folder / "decoder" / "chat_template.jinja").write_text(TOOL_TEMPLATE, encoding="utf-8")
    return folder


@pytest.fixture
def scripted(tool_folder: Path, monkeypatch: pytest.MonkeyPatch) -> ScriptedEngine:
    """Makes ``tool_folder`` call tools as a trained decoder would."""
    generator = load_checkpoint(str(tool_folder), "cpu").generator
    engine = ScriptedEngine(generator.model, follow_tools, generator.engine)
    monkeypatch.setattr(generator, "engine", engine)
    return engine


@pytest.fixture(params=["qdrant", "postgres"])
def no_records(request: pytest.FixtureRequest) -> Iterator[RecordCollection]:
    """A collection of records without any, in two databases that divide tenants in two ways."""
    # Imported here, for these fixtures are read where no database is installed as well.
    if request.param == "qdrant":
        from qdrant_client import QdrantClient

        from refrag_components.records.qdrant import QdrantRecords

        client = QdrantClient(":memory:")
        yield QdrantRecords(client)
        client.close()
        return
    import psycopg
    from psycopg_pool import ConnectionPool

    from refrag_components.records.postgres import PostgresRecords

    url = request.getfixturevalue("postgres")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector SCHEMA public")
    with ConnectionPool(url, min_size=1, open=True) as pool:
        yield PostgresRecords(pool)


@dataclass
class Watch:
    """Notes which functions run, and where.

    Attributes:
        ran: By name, whether it ran in the thread of the test, as often as it ran.
    """

    monkeypatch: pytest.MonkeyPatch
    ran: dict[str, list[bool]] = field(default_factory=dict)

    def __call__(self, owner: Any, name: str) -> None:
        """From now on, for a function of a class or a module."""
        real, own = getattr(owner, name), threading.current_thread()

        def watched(*arguments: Any, **options: Any) -> Any:
            self.ran.setdefault(name, []).append(threading.current_thread() is own)
            return real(*arguments, **options)

        self.monkeypatch.setattr(owner, name, watched)


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    return Watch(monkeypatch)


@pytest.fixture
def threads(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[bool]]:
    """Whether what takes long at first use ran in the thread of the test, as often as it ran."""
    monkeypatch.setattr(shared_checkpoints, "_LOOK_AGAIN", math.inf)
    watch(RefragModel, "from_pretrained")
    watch(shared_checkpoints, "_digest_of_files")
    watch(shared_checkpoints, "position_limit")  # after the tokenizer was loaded
    watch(httpx.Client, "get")
    return watch.ran
