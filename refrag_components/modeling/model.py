"""The REFRAG model: a decoder, an encoder and the projector between them."""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from refrag_components.atomic import atomic_folder
from refrag_components.exceptions import UnknownModelError
from refrag_components.modeling.adapters import CHUNK_ADAPTER, EVERYWHERE, apply_at_chunks
from refrag_components.modeling.checkpoint_files import (
    ADAPTER_FILE,
    PROJECTOR_FILE,
    LoadedAdapter,
    check_adapter,
    check_files,
    damage_named,
    halve,
    read_tensors,
    save_adapter,
    state_digest,
)
from refrag_components.modeling.chunk_encoder import ChunkEncoder, load_encoder
from refrag_components.modeling.config import CONFIG_NAME, RefragConfig
from refrag_components.modeling.decoder_check import check_decoder
from refrag_components.modeling.huggingface import position_limit
from refrag_components.modeling.layer_encoder import LayerEncoder
from refrag_components.modeling.parts import ModelParts, encoder_digest
from refrag_components.modeling.policy_network import POLICY_FILE, load_networks, save_networks
from refrag_components.modeling.search_encoder import SearchEncoder
from refrag_components.modeling.trained_weights import (
    LoadedWeights,
    encoder_files_digest,
    load_weights,
    save_weights,
)
from refrag_components.modeling.weight_difference import Bits
from refrag_components.weights.loading import load_pretrained, load_tokenizer, quietly
from refrag_components.weights.lookup import base_folder, checkpoint_folder

__all__ = ["RefragModel"]

_PARTS = ("decoder", "encoder")


class RefragModel(ModelParts):
    """Decoder, encoder and projector of one checkpoint.

    Load one with ``from_pretrained``; start a new one with ``from_base`` (any Hugging Face decoder
    and encoder) and train it. Its parts are those of ``ModelParts``.
    """

    @classmethod
    def from_base(cls, config: RefragConfig) -> RefragModel:
        """Starts an untrained model from the base decoder and encoder that the config names.

        Raises:
            DownloadError: If base weights cannot be fetched.
            UnknownModelError: If the decoder cannot read chunk embeddings, or no encoder can be
                made from its layers.
        """
        paths = {part: Path(getattr(config, part)) for part in _PARTS}
        local = {part: path for part, path in paths.items() if path.is_dir()}
        model = cls._assemble(config, local)
        if config.encoder_layers:
            parts: tuple[Any, ...] = (model.encoder, model.projector)
            for part in parts:
                part.randomise()
            model._encoder_digest = encoder_digest(model.encoder)
        return model

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str],
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        chunk_size: int | None = None,
    ) -> RefragModel:
        """Loads a checkpoint for inference.

        Adapters are merged into their base weights, except the chunk adapter, which works at chunk
        embeddings only.

        Args:
            name_or_path: A bundled checkpoint's name, a checkpoint folder, or a Hugging Face hub
                id "org/name".
            device: Where to put it; by default CUDA if available, else CPU.
            dtype: Type of the decoder; by default bfloat16 on CUDA, float32 on CPU. Encoder and
                projector stay in float32: they are small and their output is stored.
            chunk_size: A k other than the checkpoint's default, at most its ``max_chunk_size``.

        Raises:
            UnknownModelError: If there is no such checkpoint, or it is incomplete.
            DownloadError: If base weights cannot be fetched.
        """
        folder = checkpoint_folder(str(name_or_path))
        device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        dtype = dtype or (torch.bfloat16 if device.type == "cuda" else torch.float32)
        with damage_named(folder):
            model = cls._load(folder, chunk_size)
            for part in _PARTS:
                model._apply_adapter(part, folder)
            if (folder / CHUNK_ADAPTER).is_dir():
                model._apply_chunk_adapter(folder / CHUNK_ADAPTER)
        model.to(device)
        model.decoder.to(dtype)
        return model.eval()

    @classmethod
    def for_training(cls, folder: str | os.PathLike[str]) -> RefragModel:
        """Loads a checkpoint folder for further training, on CPU in float32.

        Args:
            folder: A checkpoint whose encoder is made of the decoder's layers. All of its weights
                are trainable except the table of token embeddings.

        Raises:
            UnknownModelError: If its encoder is another one; such checkpoints serve only.
        """
        source = checkpoint_folder(str(folder))
        with damage_named(source):
            return cls._load_to_train(source)

    @classmethod
    def _load_to_train(cls, source: Path) -> RefragModel:
        config = RefragConfig.from_folder(source)
        if not config.encoder_layers:
            check_files(source, config)
            msg = (
                f"{source} has a Hugging Face encoder ({config.encoder}); such checkpoints "
                "load and serve, but are not trained any further: start from a base decoder with "
                "encoder_layers"
            )
            raise UnknownModelError(msg)
        model = cls._load(source)
        model.decoder.get_input_embeddings().weight.requires_grad_(False)
        model._loaded_weights = None  # training changes them
        return model

    @classmethod
    def text_decoder(cls, name_or_path: str | os.PathLike[str]) -> Any:
        """Loads a checkpoint's decoder as it reads text, in float32 on CPU, without adapters.

        An adapter for all positions is merged into it; the one at chunk embeddings is left out.

        Args:
            name_or_path: As for `from_pretrained`; any checkpoint, also one that only serves.

        Raises:
            UnknownModelError: If there is no such checkpoint, or it is incomplete.
            DownloadError: If base weights cannot be fetched.
        """
        folder = checkpoint_folder(str(name_or_path))
        with damage_named(folder):
            model = cls._load(folder)
            model._apply_adapter("decoder", folder)
        return model.decoder

    def base_decoder(self) -> Any:
        """Loads the decoder that the checkpoint was made from, untrained, in float32 on CPU."""
        folder = self._carried.get("decoder") or base_folder(self.config.decoder)
        return load_pretrained(AutoModelForCausalLM, folder)

    @classmethod
    def _load(cls, folder: Path, chunk_size: int | None = None) -> RefragModel:
        """Loads base weights, full weights and projector of a checkpoint folder, not adapters."""
        config = RefragConfig.from_folder(folder)
        check_files(folder, config)  # before base weights are fetched
        if chunk_size is not None:
            config = config.at_chunk_size(chunk_size)
        carried = {part: folder / part for part in _PARTS if (folder / part).is_dir()}
        model = cls._assemble(config, carried)
        if config.encoder_layers:
            model._loaded_weights = LoadedWeights(folder)
            load_weights(model._trainable(), folder)
            model._encoder_digest += encoder_files_digest(folder)
        else:
            model.projector.load_state_dict(read_tensors(folder / PROJECTOR_FILE))
        model.policies = load_networks(folder / POLICY_FILE, model.policy_width)
        return model

    @classmethod
    def _assemble(cls, config: RefragConfig, carried: dict[str, Path]) -> RefragModel:
        """Puts the parts together; ``carried`` are folders of bases that have no public name."""
        decoder, encoder = (
            carried.get(part) or base_folder(getattr(config, part)) for part in _PARTS
        )
        causal = load_pretrained(AutoModelForCausalLM, decoder)
        tokenizer = load_tokenizer(decoder)
        check_decoder(causal, tokenizer, decoder)
        chunk_encoder: ChunkEncoder | LayerEncoder
        if config.encoder_layers:
            chunk_encoder = LayerEncoder(
                causal,
                layers=config.encoder_layers,
                chunk_size=config.chunk_size,
                window=position_limit(causal.config, tokenizer),
            )
        else:
            chunk_encoder = ChunkEncoder(
                load_encoder(encoder),
                load_tokenizer(encoder),
                pooling=config.pooling,
                contextual=config.contextual,
            )
        model = cls(config, causal, tokenizer, chunk_encoder, SearchEncoder(encoder))
        model._carried.update(carried)
        return model

    def _apply_adapter(self, part: str, checkpoint: Path) -> None:
        """Merges a part's adapter for all positions into it, if the checkpoint has one."""
        folder = checkpoint / f"{part}_adapter"
        if not folder.is_dir():
            return
        from peft import PeftModel

        if part == "encoder":
            # Hash the file: merged weights differ in the last bits between machines.
            self._encoder_digest += state_digest(load_file(folder / ADAPTER_FILE))
        owner, name = (self, "decoder") if part == "decoder" else (self.encoder, "model")
        with quietly():
            base = getattr(owner, name)
            adapted = PeftModel.from_pretrained(base, folder)
        check_adapter(adapted, EVERYWHERE, folder)
        self.loaded_adapters.append(LoadedAdapter(folder))
        setattr(owner, name, adapted.merge_and_unload())

    def _apply_chunk_adapter(self, folder: Path) -> None:
        from peft import PeftModel

        with quietly():
            adapted = PeftModel.from_pretrained(self.decoder, folder, adapter_name=CHUNK_ADAPTER)
        check_adapter(adapted, CHUNK_ADAPTER, folder)
        apply_at_chunks(adapted, self.chunk_mask)
        self.decoder = adapted.get_base_model()  # the adapter's layers stay in it
        self.loaded_adapters.append(LoadedAdapter(folder))

    def save_pretrained(self, folder: str | os.PathLike[str], *, bits: Bits = 4) -> None:
        """Writes the checkpoint: what training changed, plus bases that have no public name.

        What was loaded for inference, adapters or whole weights, is written as it was loaded. The
        folder appears in one step, complete.

        Args:
            folder: Folder to write to.
            bits: Bits per value of a matrix, if the encoder is made of the decoder's layers and all
                weights train: 4 to ship them, 8 to continue training from there.
        """
        with atomic_folder(Path(folder), replace=True) as scratch:
            if self.policies:
                save_networks(dict(self.policies.items()), scratch / POLICY_FILE)
            if self.config.encoder_layers:
                self._save_weights(scratch, bits)
            else:
                self._save_adapters(scratch)
            folders = tuple(sorted(path.name for path in scratch.iterdir() if path.is_dir()))
            config = dataclasses.replace(self.config, folders=folders)
            (scratch / CONFIG_NAME).write_text(config.to_json(), encoding="utf-8")

    def _trainable(self) -> dict[str, dict[str, Tensor]]:
        """All weights except the table of token embeddings, by part."""
        table = self.decoder.get_input_embeddings().weight
        return {
            part: {n: p for n, p in getattr(self, part).named_parameters() if p is not table}
            for part in ("decoder", "encoder", "projector")
        }

    def _save_weights(self, folder: Path, bits: Bits) -> None:
        if self._loaded_weights:
            self._loaded_weights.copy(folder)
        else:
            with torch.random.fork_rng(devices=[]):  # saving does not change what training draws
                base = self._assemble(self.config, self._carried)
            save_weights(self._trainable(), base._trainable(), folder, bits)
        for part, carried in self._carried.items():
            shutil.copytree(carried, folder / part)

    def _save_adapters(self, folder: Path) -> None:
        from peft import PeftModel

        for adapter in self.loaded_adapters:
            adapter.copy(folder)
        save_file(self.projector.state_dict(), folder / PROJECTOR_FILE)
        halve(folder / PROJECTOR_FILE)
        self._save_part("decoder", self.decoder, self.tokenizer, folder)
        if isinstance(self.decoder, PeftModel) and CHUNK_ADAPTER in self.decoder.peft_config:
            save_adapter(self.decoder, CHUNK_ADAPTER, folder, self.config.decoder)
        self._save_part("encoder", self.encoder.model, self.encoder.tokenizer, folder)

    def _save_part(self, name: str, model: Any, tokenizer: Any, folder: Path) -> None:
        from peft import PeftModel

        base = self._carried.get(name)
        if isinstance(model, PeftModel):
            save_adapter(model, EVERYWHERE, folder / f"{name}_adapter", getattr(self.config, name))
        if base and (isinstance(model, PeftModel) or self.loaded_adapters):
            shutil.copytree(base, folder / name)
        elif base:
            model.save_pretrained(folder / name)
            tokenizer.save_pretrained(folder / name)

    def push_to_hub(self, repo_id: str, *, private: bool = False) -> str:
        """Uploads the checkpoint to the Hugging Face hub and returns its address."""
        from huggingface_hub import HfApi

        api = HfApi()
        api.create_repo(repo_id, private=private, exist_ok=True)
        with tempfile.TemporaryDirectory() as scratch:
            self.save_pretrained(Path(scratch) / "checkpoint")
            info = api.upload_folder(repo_id=repo_id, folder_path=Path(scratch) / "checkpoint")
        return str(info)
