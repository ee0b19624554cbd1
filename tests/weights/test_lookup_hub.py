"""The hub's own client against a hub on this machine."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

COMMIT = "c" * 40


class FakeHub(ThreadingHTTPServer):
    """Serves one model, ``me/tiny``, with a pickle that nobody should fetch.

    Attributes:
        files: Name to content.
        requests: Paths asked for, in order.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), FakeHubHandler)
        self.files = {path.name: path.read_bytes() for path in folder.iterdir()}
        self.files["pytorch_model.bin"] = b"pickle"
        self.requests: list[str] = []


class FakeHubHandler(BaseHTTPRequestHandler):
    server: FakeHub

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.server.requests.append(path)
        files = self.server.files
        if "/tree/" in path and "/me/tiny/" in path:
            self._send_json(
                [
                    {"type": "file", "path": name, "size": len(data), "oid": digest(data)}
                    for name, data in files.items()
                ]
            )
        elif path.startswith("/api/models/me/tiny"):
            siblings = [{"rfilename": name} for name in files]
            self._send_json({"id": "me/tiny", "sha": COMMIT, "siblings": siblings})
        elif path.startswith("/me/tiny/resolve/"):
            data = files[path.rpartition("/")[2]]
            self._send(data, ETag=f'"{digest(data)}"', **{"X-Repo-Commit": COMMIT})
        else:
            self._send(b"{}", 404, **{"X-Error-Code": "RepoNotFound"})

    do_HEAD = do_GET  # noqa: N815

    def _send_json(self, value: object) -> None:
        self._send(json.dumps(value).encode(), **{"Content-Type": "application/json"})

    def _send(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


def digest(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


@pytest.fixture
def hub(tiny_base: tuple[Path, Path]) -> Iterator[FakeHub]:
    with FakeHub(tiny_base[1]) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def find(hub: FakeHub, name: str, home: Path, function: str = "base_folder", **more: str) -> str:
    """Calls a function of ``lookup`` in a fresh process; returns what it returns or raises."""
    code = (
        "import sys\n"
        "from refrag_components import exceptions\n"
        "from refrag_components.weights import lookup\n"
        "try: print(getattr(lookup, sys.argv[1])(sys.argv[2]))\n"
        "except exceptions.RefragError as error: print(type(error).__name__, error)\n"
    )
    environment = {
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}",
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
    }
    process = [sys.executable, "-c", code, function, name]
    result = subprocess.run(
        process, env=os.environ | environment | more, capture_output=True, text=True, check=True
    )
    return result.stdout.strip()


def test_a_model_is_fetched_once_without_its_pickle(hub: FakeHub, tmp_path: Path) -> None:
    folder = Path(find(hub, "me/tiny", tmp_path))
    assert {path.name for path in folder.iterdir()} == set(hub.files) - {"pytorch_model.bin"}
    assert (folder / "model.safetensors").read_bytes() == hub.files["model.safetensors"]

    hub.requests.clear()
    assert find(hub, "me/tiny", tmp_path) == str(folder)
    assert not [path for path in hub.requests if "me/tiny" in path]
    assert find(hub, "me/tiny", tmp_path, HF_HUB_OFFLINE="1") == str(folder)


def test_a_checkpoint_follows_the_hub_and_outlives_it(hub: FakeHub, tmp_path: Path) -> None:
    hub.files = {"config.json": b"{}", "projector.safetensors": b"weights"}
    folder = find(hub, "me/tiny", tmp_path, "checkpoint_folder")
    assert (Path(folder) / "projector.safetensors").read_bytes() == b"weights"

    hub.requests.clear()
    assert find(hub, "me/tiny", tmp_path, "checkpoint_folder") == folder
    assert "/api/models/me/tiny" in hub.requests
    offline = {"HF_HUB_OFFLINE": "1"}
    assert find(hub, "me/tiny", tmp_path, "checkpoint_folder", **offline) == folder


@pytest.mark.parametrize("function", ["base_folder", "checkpoint_folder"])
def test_a_model_that_does_not_exist_is_unknown(
    hub: FakeHub, tmp_path: Path, function: str
) -> None:
    assert find(hub, "me/typo", tmp_path, function).startswith("UnknownModelError")


def test_a_model_with_nothing_but_pickles_is_refused(hub: FakeHub, tmp_path: Path) -> None:
    del hub.files["model.safetensors"]
    answer = find(hub, "me/tiny", tmp_path)
    assert answer.startswith("UnknownModelError") and "safetensors" in answer
