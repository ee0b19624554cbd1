"""The chunk adapter in a loaded model: at chunk embeddings, for one reader at a time."""

from __future__ import annotations

import copy
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from refrag_components.modeling import RefragModel
from refrag_components.modeling.adapters import CHUNK_ADAPTER
from refrag_components.modeling.config import RefragConfig

IDS = torch.arange(24).reshape(2, 12)


@pytest.fixture
def mask() -> torch.Tensor:
    at_chunks = torch.zeros(2, 12, dtype=torch.bool)
    at_chunks[0, 3:5] = True
    return at_chunks


def test_a_loaded_model_reads_as_peft_says(tiny_folder: Path, mask: torch.Tensor) -> None:
    """Plain text with the adapter for all positions alone, chunk embeddings with both."""
    loaded = RefragModel.from_pretrained(tiny_folder, device="cpu")
    base = RefragModel.from_base(loaded.config).decoder
    peft: Any = PeftModel.from_pretrained(base, tiny_folder / "decoder_adapter")
    peft.load_adapter(tiny_folder / CHUNK_ADAPTER, CHUNK_ADAPTER)
    with torch.inference_mode():
        plain, everywhere = peft(input_ids=IDS).logits, torch.ones_like(mask)
        peft.base_model.set_adapter(["default", CHUNK_ADAPTER])
        both = peft(input_ids=IDS).logits
        near = {"atol": 1e-2, "rtol": 1e-2}  # adapters are stored in float16
        torch.testing.assert_close(loaded.decoder(input_ids=IDS).logits, plain, **near)
        with loaded.chunk_mask.using(everywhere):
            torch.testing.assert_close(loaded.decoder(input_ids=IDS).logits, both, **near)
        assert not torch.allclose(plain, both, **near)
        with loaded.chunk_mask.using(mask):
            mixed = loaded.decoder(input_ids=IDS).logits
        torch.testing.assert_close(mixed[0, :3], plain[0, :3], **near)
        torch.testing.assert_close(mixed[1], plain[1], **near)
        assert not torch.allclose(mixed[0, 3:], plain[0, 3:], **near)


def test_other_threads_do_not_see_the_mask(tiny_model: RefragModel, mask: torch.Tensor) -> None:
    with torch.inference_mode():
        plain = tiny_model.decoder(input_ids=IDS).logits

    @torch.inference_mode()
    def elsewhere() -> torch.Tensor:
        logits: torch.Tensor = tiny_model.decoder(input_ids=IDS).logits
        return logits

    with tiny_model.chunk_mask.using(mask), ThreadPoolExecutor(1) as pool:
        assert torch.equal(pool.submit(elsewhere).result(), plain)


def test_the_mask_is_reset_when_reading_fails(tiny_model: RefragModel, mask: torch.Tensor) -> None:
    with pytest.raises(RuntimeError, match="stop"), tiny_model.chunk_mask.using(mask):
        raise RuntimeError("stop")
    assert tiny_model.chunk_mask.mask is None


def test_a_loaded_model_is_saved_as_it_was_loaded(tiny_folder: Path, tmp_path: Path) -> None:
    model = RefragModel.from_pretrained(tiny_folder, device="cpu")
    model.save_pretrained(tmp_path / "again")
    for path in tiny_folder.rglob("*adapter*/*"):
        assert (tmp_path / "again" / path.relative_to(tiny_folder)).read_bytes() == (
            path.read_bytes()
        )
    again = RefragModel.from_pretrained(tmp_path / "again", device="cpu")
    assert again.fingerprint == model.fingerprint


def test_a_model_is_not_saved_with_adapters_that_it_was_not_loaded_from(
    tiny_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "source"
    shutil.copytree(tiny_folder, folder)
    model = RefragModel.from_pretrained(folder, device="cpu")
    model.save_pretrained(folder)  # onto itself, twice
    model.save_pretrained(folder)
    path = folder / CHUNK_ADAPTER / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes())  # as a new training run would
    with pytest.raises(ValueError, match="load the model again"):
        model.save_pretrained(tmp_path / "copy")
    shutil.rmtree(folder)
    with pytest.raises(ValueError, match="removed or replaced"):
        model.save_pretrained(tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_copy_of_a_model_reads_for_itself(tiny_folder: Path, mask: torch.Tensor) -> None:
    model = RefragModel.from_pretrained(tiny_folder, device="cpu")
    twin = copy.deepcopy(model)
    with torch.inference_mode():
        plain = model.decoder(input_ids=IDS).logits
        with model.chunk_mask.using(mask):
            read = model.decoder(input_ids=IDS).logits
            assert torch.equal(twin.decoder(input_ids=IDS).logits, plain)
        with twin.chunk_mask.using(mask):
            assert torch.equal(twin.decoder(input_ids=IDS).logits, read)


def test_a_checkpoint_without_the_adapter_reads_chunk_embeddings_plainly(
    tiny_folder: Path, tmp_path: Path, mask: torch.Tensor
) -> None:
    folder = tmp_path / "without"
    shutil.copytree(tiny_folder, folder)
    shutil.rmtree(folder / CHUNK_ADAPTER)
    config = RefragConfig.from_folder(folder)
    folders = [name for name in config.folders if name != CHUNK_ADAPTER]
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace(f'"{CHUNK_ADAPTER}",', ""))
    assert list(RefragConfig.from_folder(folder).folders) == folders
    model = RefragModel.from_pretrained(folder, device="cpu")
    with torch.inference_mode():
        plain = model.decoder(input_ids=IDS).logits
        with model.chunk_mask.using(mask):
            assert torch.equal(model.decoder(input_ids=IDS).logits, plain)


def test_a_damaged_adapter_is_refused_by_name(tiny_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(tiny_folder, folder)
    path = folder / CHUNK_ADAPTER / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"chunk_adapter.*damaged"):
        RefragModel.from_pretrained(folder, device="cpu")
