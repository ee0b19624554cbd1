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
from transformers import AutoModelForCausalLM

from refrag_components.atomic import atomic_folder
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
from refrag_components.modeling.encoded_question import EncodedQuestion
from refrag_components.modeling.huggingface import position_limit
from refrag_components.modeling.layer_encoder import LayerEncoder
from refrag_components.modeling.policy_network import POLICY_FILE, load_networks, save_networks
from refrag_components.modeling.projector import Ladder, make_projector
from refrag_components.modeling.search_encoder import SearchEncoder
from refrag_components.modeling.trained_weights import (
    LoadedWeights,
    encoder_files_digest,
    load_weights,
    save_weights,
)
from refrag_components.modeling.weight_difference import Bits
from refrag_components.text.chunking import Chunker
from refrag_components.text.token_check import TokenCheck
from refrag_components.text.tokenization import tokenizer_digest
from refrag_components.vectors import ChunkVectors, padded_token_ids
from refrag_components.weights.loading import load_pretrained, load_tokenizer, quietly
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
        retriever: Passages and questions to search vectors (a Hugging Face encoder, untouched).
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
        encoder: ChunkEncoder | LayerEncoder,
        retriever: SearchEncoder,
    ) -> None:
        super().__init__()
        self.config = config
        self.decoder: Any = decoder
        self.tokenizer: Any = tokenizer
        self.encoder: Any = encoder  # training reads what a ChunkEncoder alone has
        self.retriever = retriever
        embedding: Any = decoder.get_input_embeddings().weight
        scale = float(embedding.detach().float().std())
        self.projector = make_projector(config, encoder.width, embedding.shape[1], scale)
        self.policies = nn.ModuleDict()
        self.places: ChunkPlaces = PlacesOfThisThread()
        self.chunker = Chunker(tokenizer, config.chunk_size)
        self._encoder_digest = _digest(encoder)
        self._carried: dict[str, Path] = {}
        self.loaded_adapters: list[LoadedAdapter] = []
        self._loaded_weights: LoadedWeights | None = None

    # -- loading and saving ---------------------------------------------------------------------

    @classmethod
    def from_base(cls, config: RefragConfig) -> RefragModel:
        """Starts an untrained model from the base decoder and encoder that the config names.

        Raises:
            DownloadError: If base weights cannot be fetched.
            UnknownModelError: If no encoder can be made of the decoder's layers.
        """
        local = {part: Path(getattr(config, part)) for part in _PARTS}
        model = cls._assemble(config, {part: own for part, own in local.items() if own.is_dir()})
        if config.encoder_layers:
            parts: tuple[Any, ...] = (model.encoder, model.projector)
            for part in parts:
                part.randomise()
            model._encoder_digest = _digest(model.encoder)
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
        with damage_named(folder):
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
        """Loads a checkpoint folder to be trained further, on CPU in float32.

        Adapters are kept apart and trainable. Where the encoder is made of the decoder's layers,
        all weights are but the table of token embeddings.
        """
        source = checkpoint_folder(str(folder))
        with damage_named(source):
            return cls._load_to_train(source)

    @classmethod
    def _load_to_train(cls, source: Path) -> RefragModel:
        model = cls._load(source)
        if model.config.encoder_layers:
            model.decoder.get_input_embeddings().weight.requires_grad_(False)
            model._loaded_weights = None  # they will no longer be the model's
            return model
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
        if config.encoder_layers:
            model._loaded_weights = LoadedWeights(folder)
            load_weights(model._trainable(), folder)
            model._encoder_digest += encoder_files_digest(folder)
        else:
            model.projector.load_state_dict(read_tensors(folder / PROJECTOR_FILE))
        model.policies = load_networks(folder / POLICY_FILE, model.encoder.width)
        return model

    @classmethod
    def _assemble(cls, config: RefragConfig, carried: dict[str, Path]) -> RefragModel:
        """Puts the parts together; ``carried`` are bases that no public name leads to."""
        decoder, encoder = (
            carried.get(part) or base_folder(getattr(config, part)) for part in _PARTS
        )
        causal = load_pretrained(AutoModelForCausalLM, decoder)
        tokenizer = load_tokenizer(decoder)
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

    def _apply_adapter(self, part: str, folder: Path, *, trainable: bool) -> None:
        from peft import PeftModel

        if part == "encoder":
            # The file, not the merged weights: those differ in the last bits between machines.
            self._encoder_digest += state_digest(load_file(folder / ADAPTER_FILE))
        owner, name = (self, "decoder") if part == "decoder" else (self.encoder, "model")
        with quietly():
            base = getattr(owner, name)
            adapted = PeftModel.from_pretrained(base, folder, is_trainable=trainable)
        check_adapter(adapted, EVERYWHERE, folder)
        if not trainable:
            adapted = adapted.merge_and_unload()
            self.loaded_adapters.append(LoadedAdapter(folder))
        setattr(owner, name, adapted)

    def _apply_chunk_adapter(self, folder: Path) -> None:
        from peft import PeftModel

        with quietly():
            adapted = PeftModel.from_pretrained(self.decoder, folder, adapter_name=CHUNK_ADAPTER)
        check_adapter(adapted, CHUNK_ADAPTER, folder)
        fold_adapters(adapted, self.places)
        self.decoder = adapted.get_base_model()  # the adapter's layers stay in it
        self.loaded_adapters.append(LoadedAdapter(folder))

    def save_pretrained(self, folder: str | os.PathLike[str], *, bits: Bits = 4) -> None:
        """Writes the checkpoint: what training changed, plus bases that no public name leads to.

        What was loaded for inference, adapters or whole weights, is written as it was loaded. The
        folder appears at once, complete.

        Args:
            folder: Where to.
            bits: Per value of a matrix where the encoder is made of the decoder's layers and all
                weights train: 4 to ship them, 8 to train on from there.
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
        """All weights but the table of token embeddings, by part."""
        table = self.decoder.get_input_embeddings().weight
        return {
            part: {n: p for n, p in getattr(self, part).named_parameters() if p is not table}
            for part in ("decoder", "encoder", "projector")
        }

    def _save_weights(self, folder: Path, bits: Bits) -> None:
        if self._loaded_weights:
            self._loaded_weights.copy(folder)
        else:
            with torch.random.fork_rng(devices=[]):  # training draws on as if nothing was saved
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

    # -- facts ----------------------------------------------------------------------------------

    @cached_property
    def token_check(self) -> TokenCheck:
        """Tells token ids that are not a passage's own."""
        return TokenCheck(self.tokenizer)

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
        if config.encoder_layers:  # search vectors are stored beside the chunk vectors
            digest.update(config.encoder.encode())
        else:
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

    def encode_questions(
        self, texts: Sequence[str], *, batch_size: int = 256
    ) -> list[EncodedQuestion]:
        """Encodes questions for policies, each different one once.

        Args:
            texts: Questions; a blank one has no vectors.
            batch_size: Questions per forward pass of the encoder.

        Returns:
            One ``EncodedQuestion`` per text, in order.
        """
        cut = dict(zip(texts, self.chunker.cut_questions(texts), strict=True))
        rows = self.encoder.encode(list(cut.values()), batch_size=batch_size)
        encoded = {
            text: EncodedQuestion(text, passage.token_ids, vectors)
            for (text, passage), vectors in zip(cut.items(), rows, strict=True)
        }
        return [encoded[text] for text in texts]

    def token_embeddings(self, token_ids: np.ndarray) -> Tensor:
        """Embeds decoder tokens; shape (n,) to (n, d_dec)."""
        ids = torch.from_numpy(np.ascontiguousarray(token_ids, dtype=np.int64)).to(self.device)
        embedded: Tensor = self.decoder.get_input_embeddings()(ids)
        return embedded

    def chunk_embeddings(self, passages: Sequence[ChunkVectors], rung: int | None = None) -> Tensor:
        """Projects all chunks of the passages, in order.

        Args:
            passages: At least one.
            rung: Tokens per chunk embedding, one of the checkpoint's rungs; the smallest if None.

        Returns:
            Chunk embeddings, shape (total chunks, d_dec), or on a rung of g chunks ceil(n_chunks /
            g) for each passage; the decoder's dtype.

        Raises:
            FingerprintMismatchError: If a passage was encoded by another model.
            ValueError: If the checkpoint does not have this rung.
        """
        for passage in passages:
            if passage.fingerprint != self.fingerprint:
                msg = (
                    f"chunk vectors carry fingerprint {passage.fingerprint}, this model has "
                    f"{self.fingerprint}; encode the passage again with this model"
                )
                raise FingerprintMismatchError(msg)
        vectors = torch.from_numpy(np.concatenate([p.vectors for p in passages])).to(self.device)
        ids, used = (torch.from_numpy(a).to(self.device) for a in padded_token_ids(passages))
        counts = [passage.n_chunks for passage in passages]
        return self.project(vectors, ids, used, counts=counts, rung=rung).to(self.dtype)

    def project(
        self,
        vectors: Tensor,
        token_ids: Tensor,
        used: Tensor,
        *,
        counts: Sequence[int] | None = None,
        rung: int | None = None,
    ) -> Tensor:
        """Chunk vectors to chunk embeddings: what a projector reads is decided here alone.

        Args:
            vectors: Chunk vectors of passages in order, shape (chunks, d_enc), float32.
            token_ids: Token ids of each chunk, any where it has none, shape (chunks, k).
            used: True where ``token_ids`` holds a token, same shape.
            counts: Chunks of each passage; needed where a rung joins chunks.
            rung: Tokens per chunk embedding, one of the checkpoint's rungs; the smallest if None.

        Returns:
            Chunk embeddings, shape (chunks, d_dec), or on a rung of g chunks ceil(count / g) for
            each passage; the projector's dtype.

        Raises:
            ValueError: If the checkpoint does not have this rung, or if counts are needed.
        """
        rungs = self.config.rungs
        rung = rung or rungs[0]
        if rung not in rungs:
            msg = f"this checkpoint has the rungs {rungs}, not {rung}"
            raise ValueError(msg)
        if isinstance(self.projector, Ladder):
            if counts is None and rung != rungs[0]:
                raise ValueError(f"rung {rung} joins chunks of a passage; pass counts")
            ladder: Tensor = self.projector(vectors, counts or (), rung)
            return ladder
        tokens = None
        if self.config.token_mlp:
            tokens = self.decoder.get_input_embeddings()(token_ids).float() * used.unsqueeze(-1)
        embeddings: Tensor = self.projector(vectors, tokens)
        return embeddings

    def embed_passages(
        self, texts: Sequence[str], *, progress: Callable[[int], None] | None = None
    ) -> np.ndarray:
        """Search vectors of passages, shape (n, retriever.width), float32, length 1.

        Args:
            texts: Any number of passages.
            progress: Called with the number of passages embedded after each forward pass.
        """
        return self.retriever.embed(texts, device=self.device, progress=progress)

    def embed_query(self, text: str) -> np.ndarray:
        """Search vector of a question, shape (retriever.width,), float32, length 1."""
        rows: np.ndarray = self.embed_passages([text])[0]
        return rows


def _digest(encoder: ChunkEncoder | LayerEncoder) -> bytes:
    """Hash of an encoder's weights, those that it shares included."""
    if isinstance(encoder, LayerEncoder):
        return state_digest(encoder.state_dict() | {"table": encoder.table})
    return state_digest(encoder.model.state_dict())


def fold_adapters_for_training(model: RefragModel) -> None:
    """Folds the adapters of decoder and encoder, with places that all threads see.

    The backward pass on a GPU, which may compute layers again, has a thread of its own.
    """
    model.places = ChunkPlaces()
    fold_adapters(model, model.places)
