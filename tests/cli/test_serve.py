from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.cli.conftest import Run
from tests.engines import fake_vllm


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a server is started with, which then ends at once."""
    started: dict[str, Any] = {}
    monkeypatch.setattr("uvicorn.run", lambda app, **options: started.update(options, app=app))
    return started


def test_starts_with_model_store_and_limits(
    refrag: Run,
    tiny_folder: Path,
    tmp_path: Path,
    started: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("REFRAG_SERVE_TOKENS", "one,two")
    store = tmp_path / "vectors.sqlite"
    options = ("--name", "tiny", "--store", store, "--max-bytes", 5000, "--seconds", 7)
    result = refrag("serve", tiny_folder, "--host", "0.0.0.0", "--port", 8123, *options)
    assert result.exit_code == 0, result.output
    assert (started["host"], started["port"]) == ("0.0.0.0", 8123)
    assert started["timeout_graceful_shutdown"] == 7
    assert store.exists()
    client = TestClient(started["app"])
    assert client.get("/v1/models").status_code == 401
    for token in ("one", "two"):
        answer = client.get("/v1/models", headers={"authorization": f"Bearer {token}"})
        assert answer.json()["data"][0]["id"] == "tiny"
    assert client.post("/v1/completions", content=b"x" * 5001).status_code == 401
    answer = client.post(
        "/v1/completions", content=b"x" * 5001, headers={"authorization": "Bearer one"}
    )
    assert answer.status_code == 413


@pytest.mark.parametrize("host", ["0.0.0.0", "gpu.example.org", "::"])
def test_whom_others_can_reach_needs_a_token(
    refrag: Run, tiny_folder: Path, started: dict[str, Any], host: str
) -> None:
    result = refrag("serve", tiny_folder, "--host", host)
    assert result.exit_code == 1
    assert "REFRAG_SERVE_TOKENS" in result.stderr
    assert not started


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1"])
def test_who_is_alone_needs_none(
    refrag: Run, tiny_folder: Path, started: dict[str, Any], host: str
) -> None:
    result = refrag("serve", tiny_folder, "--host", host)
    assert result.exit_code == 0, result.output
    with TestClient(started["app"]) as client:
        assert client.get("/health").json() == {"status": "ok"}
        body = {"model": str(tiny_folder), "prompt": "The harbour", "max_tokens": 2}
        assert client.post("/v1/completions", json=body).json()["choices"][0]["text"] is not None


def test_an_engine_by_its_name(
    refrag: Run, layered_folder: Path, started: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients do not share vLLM's prefix cache, by whose speed they could guess at each other."""
    made = fake_vllm.install(monkeypatch)
    monkeypatch.setenv("REFRAG_SERVE_TOKENS", "one,two")
    result = refrag("serve", layered_folder, "--name", "tiny", "--engine", "vllm")
    assert result.exit_code == 0, result.output
    made[0].prompts.clear()
    body = {"model": "tiny", "prompt": "The harbour", "max_tokens": 2}
    with TestClient(started["app"]) as client:
        for token in ("one", "two", "one"):
            headers = {"authorization": f"Bearer {token}"}
            answer = client.post("/v1/completions", json=body, headers=headers)
            assert answer.status_code == 200, answer.text
    first, second, again = (prompt["cache_salt"] for prompt in made[0].prompts)
    assert first == again != second


def test_an_engine_that_does_not_exist(
    refrag: Run, layered_folder: Path, started: dict[str, Any]
) -> None:
    result = refrag("serve", layered_folder, "--engine", "triton")
    assert result.exit_code == 1
    assert "engine must be" in result.stderr
    assert not started
