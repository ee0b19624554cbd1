"""The REFRAG model: a decoder, an encoder and the projector between them."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from refrag_components.exceptions import FingerprintMismatchError
from refrag_components.modeling.adapters import (
    CHUNK_ADAPTER,
    EVERYWHERE,
    ChunkPlaces,
    PlacesOfThisThread,
    fold_adapters,
)
from refrag_components.modeling.checkpoint_files import (
    ADAPTER_FILE,
    PROJECTOR_FILE,
    LoadedAdapter,
    check_files,
    halve,
    save_adapter,
    state_digest,
)
from refrag_components.modeling.chunk_encoder import ChunkEncoder, load_encoder
from refrag_components.modeling.config import CONFIG_NAME, RefragConfig
from refrag_components.modeling.huggingface import position_limit
from refrag_components.modeling.policy_network import POLICY_FILE, load_networks, save_networks
from refrag_components.modeling.projector import make_projector
from refrag_components.modeling.search_encoder import PassageEncoder
from refrag_components.text.chunking import Chunker
from refrag_components.text.tokenization import tokenizer_digest
from refrag_components.vectors import ChunkVectors, padded_token_ids
from refrag_components.weights.loading import load_pretrained, quietly
from refrag_components.weights.lookup import base_folder, checkpoint_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["RefragModel", "fold_adapters_for_training"]

_PARTS = ("decoder", "encoder")


class RefragModel(nn.Module):
    """Decoder, encoder and projector of one checkpoint.

    Load one with ``from_pretrained``; start a new one with ``from_base`` (any Hugging Face decoder
    and encoder) and train it.

    Attributes:
        config: What the checkpoint is made of.
        decoder: Hugging Face causal language model.
        tokenizer: The decoder's fast tokenizer.
        encoder: Chunks to chunk vectors.
        projector: Chunk vectors to chunk embeddings.
        retriever: Passages and questions to search vectors (the base encoder, untouched).
        policies: Networks of the learned policies by name; empty where none was trained.
        loaded_adapters: Those in the weights of a model that was loaded for inference.
        places: Tells the decoder's chunk adapter where chunk embeddings stand; whoever hands the
            decoder any sets them for that pass.
    """

    def __init__(
        self,
        config: RefragConfig,
        decoder: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        encoder: ChunkEncoder,
        retriever: PassageEncoder,
    ) -> None:
        super().__init__()
        self.config = config
        self.decoder: Any = decoder
        self.tokenizer: Any = tokenizer
        self.encoder = encoder
        self.retriever = retriever
        embedding: Any = decoder.get_input_embeddings().weight
        scale = float(embedding.detach().float().std())
        self.projector = make_projector(config, encoder.width, embedding.shape[1], scale)
        self.policies = nn.ModuleDict()
        self.places: ChunkPlaces = PlacesOfThisThread()
        self.chunker = Chunker(tokenizer, config.chunk_size)
        self._encoder_digest = state_digest(encoder.model.state_dict())
        self._carried: dict[str, Path] = {}
        self.loaded_adapters: list[LoadedAdapter] = []

    # -- loading and saving ---------------------------------------------------------------------

    @classmethod
    def from_base(cls, config: RefragConfig) -> RefragModel:
        """Starts an untrained model from the base decoder and encoder that the config names.

        Raises:
            DownloadError: If base weights cannot be fetched.
        """
        local = {part: Path(getattr(config, part)) for part in _PARTS}
        return cls._assemble(config, {part: path for part, path in local.items() if path.is_dir()})

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str],
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        chunk_size: int | None = None,
    ) -> RefragModel:
        """Loads a checkpoint for inference; adapters are merged into their base weights.

        But for the chunk adapter, which works at chunk embeddings alone.

        Args:
            name_or_path: A bundled checkpoint's name, a checkpoint folder, or a Hugging Face hub
                id "org/name".
            device: Where to put it; CUDA where there is one, else CPU.
            dtype: Of the decoder; bfloat16 on CUDA, float32 on CPU. Encoder and projector stay
                in float32: they are small and their output is stored.
            chunk_size: Another k than the checkpoint's default, at most its ``max_chunk_size``.

        Raises:
            UnknownModelError: If there is no such checkpoint, or it is incomplete.
            DownloadError: If base weights cannot be fetched.
        """
        folder = checkpoint_folder(str(name_or_path))
        device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        dtype = dtype or (torch.bfloat16 if device.type == "cuda" else torch.float32)
        model = cls._load(folder, chunk_size)
        for part in _PARTS:
            if (folder / f"{part}_adapter").is_dir():
                model._apply_adapter(part, folder / f"{part}_adapter", trainable=False)
        if (folder / CHUNK_ADAPTER).is_dir():
            model._apply_chunk_adapter(folder / CHUNK_ADAPTER)
        model.to(device)
        model.decoder.to(dtype)
        return model.eval()

    @classmethod
    def for_training(cls, folder: str | os.PathLike[str]) -> RefragModel:
        """Loads a checkpoint folder with its adapters kept apart and trainable, on CPU."""
        source = checkpoint_folder(str(folder))
        model = cls._load(source)
        for part in _PARTS:
            if (source / f"{part}_adapter").is_dir():
                model._apply_adapter(part, source / f"{part}_adapter", trainable=True)
        if (source / CHUNK_ADAPTER).is_dir():
            with quietly():
                model.decoder.load_adapter(source / CHUNK_ADAPTER, CHUNK_ADAPTER, is_trainable=True)
        fold_adapters_for_training(model)
        return model

    @classmethod
    def _load(cls, folder: Path, chunk_size: int | None = None) -> RefragModel:
        """Base weights, full weights and projector of a checkpoint folder, without adapters."""
        config = RefragConfig.from_folder(folder)
        check_files(folder, config)  # before base weights are fetched
        if chunk_size is not None:
            config = config.at_chunk_size(chunk_size)
        own = {part: folder / part for part in _PARTS if (folder / part).is_dir()}
        model = cls._assemble(config, own)
        model.projector.load_state_dict(load_file(folder / PROJECTOR_FILE))
        model.policies = load_networks(folder / POLICY_FILE, model.encoder.width)
        return model

    @classmethod
    def _assemble(cls, config: RefragConfig, carried: dict[str, Path]) -> RefragModel:
        """Puts the parts together; ``carried`` are bases that no public name leads to."""
        decoder, encoder = (
            carried.get(part) or base_folder(getattr(config, part)) for part in _PARTS
        )
        model = cls(
            config,
            load_pretrained(AutoModelForCausalLM, decoder),
            AutoTokenizer.from_pretrained(decoder),
            ChunkEncoder(
                load_encoder(encoder),
                AutoTokenizer.from_pretrained(encoder),
                pooling=config.pooling,
                contextual=config.contextual,
            ),
            PassageEncoder(encoder),
        )
        model._carried.update(carried)
        return model

    def _apply_adapter(self, part: str, folder: Path, *, trainable: bool) -> None:
        from peft import PeftModel

        if part == "encoder":
            # The file, not the merged weights: those differ in the last bits between machines.
            self._encoder_digest += state_digest(load_file(folder / ADAPTER_FILE))
        owner, name = (self, "decoder") if part == "decoder" else (self.encoder, "model")
        with quietly():
            base = getattr(owner, name)
            adapted = PeftModel.from_pretrained(base, folder, is_trainable=trainable)
        if not trainable:
            adapted = adapted.merge_and_unload()
            self.loaded_adapters.append(LoadedAdapter(folder))
        setattr(owner, name, adapted)

    def _apply_chunk_adapter(self, folder: Path) -> None:
        from peft import PeftModel

        with quietly():
            adapted = PeftModel.from_pretrained(self.decoder, folder, adapter_name=CHUNK_ADAPTER)
        fold_adapters(adapted, self.places)
        self.decoder = adapted.get_base_model()  # the adapter's layers stay in it
        self.loaded_adapters.append(LoadedAdapter(folder))

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Writes the checkpoint: what training changed, plus bases that no public name leads to.

        Adapters that were loaded for inference are written as they were loaded. The folder appears
        at once, complete.
        """
        from peft import PeftModel

        target = Path(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        try:
            for adapter in self.loaded_adapters:
                adapter.copy(scratch)
            save_file(self.projector.state_dict(), scratch / PROJECTOR_FILE)
            halve(scratch / PROJECTOR_FILE)
            if self.policies:
                save_networks(dict(self.policies.items()), scratch / POLICY_FILE)
            self._save_part("decoder", self.decoder, self.tokenizer, scratch)
            if isinstance(self.decoder, PeftModel) and CHUNK_ADAPTER in self.decoder.peft_config:
                save_adapter(self.decoder, CHUNK_ADAPTER, scratch, self.config.decoder)
            self._save_part("encoder", self.encoder.model, self.encoder.tokenizer, scratch)
            folders = tuple(sorted(path.name for path in scratch.iterdir() if path.is_dir()))
            config = dataclasses.replace(self.config, folders=folders)
            (scratch / CONFIG_NAME).write_text(config.to_json(), encoding="utf-8")
            scratch.chmod(0o755)
            if target.exists():
                shutil.rmtree(target)
            scratch.rename(target)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

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

    # -- facts ----------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where the decoder is."""
        return next(self.decoder.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The decoder's floating-point type."""
        return next(self.decoder.parameters()).dtype

    @property
    def window(self) -> int:
        """The decoder's longest input in positions."""
        return position_limit(self.decoder.config, self.tokenizer)

    @cached_property  # asking a tokenizer for its vocabulary takes 50 ms
    def first_token_id(self) -> int:
        """The token before a chunk embedding that would otherwise come first.

        The document separator where the vocabulary has one, else BOS, else EOS.
        """
        separator = self.tokenizer.get_vocab().get("<|endoftext|>")
        candidates = (separator, self.tokenizer.bos_token_id, self.tokenizer.eos_token_id)
        return next((int(i) for i in candidates if i is not None), 0)

    @cached_property
    def fingerprint(self) -> str:
        """Short hash of encoder weights, pooling, chunk size and both tokenizers (hex).

        Chunk vectors of another fingerprint mean nothing to this model. It describes the weights
        as they were loaded: after training, save the checkpoint and load it again.
        """
        config = self.config
        digest = hashlib.blake2b(self._encoder_digest, digest_size=8)
        digest.update(f"{config.chunk_size} {config.pooling} {config.contextual}".encode())
        digest.update(tokenizer_digest(self.tokenizer))
        digest.update(tokenizer_digest(self.encoder.tokenizer))
        return digest.hexdigest()

    # -- work -----------------------------------------------------------------------------------

    def encode_passages(
        self,
        texts: Sequence[str],
        *,
        batch_size: int = 32,
        progress: Callable[[int], None] | None = None,
    ) -> list[ChunkVectors]:
        """Cuts passages into chunks and encodes them.

        Vectors are rounded to float16 so that fresh ones equal stored ones.

        Args:
            texts: Passages; an empty one gives no chunks.
            batch_size: Encoder windows a forward pass.
            progress: Called with the number of encoder windows done after each pass.

        Returns:
            One ``ChunkVectors`` a passage.
        """
        passages = self.chunker.chunk(texts)
        encoded = self.encoder.encode(passages, batch_size=batch_size, progress=progress)
        return [
            ChunkVectors(
                vectors=rows.astype(np.float16).astype(np.float32),
                token_ids=passage.token_ids,
                chunk_size=passage.chunk_size,
                fingerprint=self.fingerprint,
            )
            for passage, rows in zip(passages, encoded, strict=True)
        ]

    def token_embeddings(self, token_ids: np.ndarray) -> Tensor:
        """Embeds decoder tokens; shape (n,) to (n, d_dec)."""
        ids = torch.from_numpy(np.ascontiguousarray(token_ids, dtype=np.int64)).to(self.device)
        embedded: Tensor = self.decoder.get_input_embeddings()(ids)
        return embedded

    def chunk_embeddings(self, passages: Sequence[ChunkVectors]) -> Tensor:
        """Projects all chunks of the passages, in order.

        Returns:
            Chunk embeddings, shape (total chunks, d_dec), the decoder's dtype.

        Raises:
            FingerprintMismatchError: If a passage was encoded by another model.
        """
        for passage in passages:
            if passage.fingerprint != self.fingerprint:
                msg = (
                    f"chunk vectors carry fingerprint {passage.fingerprint}, this model has "
                    f"{self.fingerprint}; encode the passage again with this model"
                )
                raise FingerprintMismatchError(msg)
        vectors = torch.from_numpy(np.concatenate([p.vectors for p in passages])).to(self.device)
        tokens = None
        if self.config.token_mlp:
            ids, used = padded_token_ids(passages)
            tokens = self.token_embeddings(ids.ravel()).view(*ids.shape, -1).float()
            tokens = tokens * torch.from_numpy(used).to(tokens.device).unsqueeze(-1)
        return self.projector(vectors, tokens).to(self.dtype)

    def embed_question(self, text: str) -> np.ndarray:
        """The question in chunk-vector space: the mean of its parts; shape (d_enc,)."""
        rows = self.encoder.encode(self.chunker.cut_questions([text]))[0]
        return rows.mean(axis=0) if len(rows) else np.zeros(self.encoder.width, np.float32)

    def embed_passages(self, texts: Sequence[str], *, batch_size: int = 32) -> np.ndarray:
        """Search vectors of passages, shape (n, d_enc), float32, length 1."""
        return self.retriever.embed(texts, device=self.device, batch_size=batch_size)

    def embed_query(self, text: str) -> np.ndarray:
        """Search vector of a question, shape (d_enc,), float32, length 1."""
        rows: np.ndarray = self.embed_passages([text])[0]
        return rows


def fold_adapters_for_training(model: RefragModel) -> None:
    """Folds the adapters of decoder and encoder, with places that all threads see.

    The backward pass on a GPU, which may compute layers again, has a thread of its own.
    """
    model.places = ChunkPlaces()
    fold_adapters(model, model.places)
