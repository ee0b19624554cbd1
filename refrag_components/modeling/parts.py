"""The parts of a model and what they do together."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from refrag_components.cached import cached_property
from refrag_components.exceptions import FingerprintMismatchError
from refrag_components.forking import computing
from refrag_components.modeling.adapters import ChunkMask, ThreadChunkMask
from refrag_components.modeling.checkpoint_files import LoadedAdapter, state_digest
from refrag_components.modeling.chunk_encoder import ChunkEncoder
from refrag_components.modeling.config import RefragConfig
from refrag_components.modeling.encoded_question import EncodedQuestion
from refrag_components.modeling.huggingface import embedding_scale, position_limit
from refrag_components.modeling.layer_encoder import LayerEncoder
from refrag_components.modeling.projector import Ladder, make_projector, whole_groups
from refrag_components.modeling.search_encoder import SearchEncoder
from refrag_components.modeling.trained_weights import LoadedWeights
from refrag_components.modeling.transfer import vectors_on_device
from refrag_components.text.chunking import ChunkedPassage, Chunker
from refrag_components.text.token_check import TokenCheck
from refrag_components.text.tokenization import separator_id, tokenizer_digest
from refrag_components.vectors import ChunkVectors, padded_token_ids, unit_rows

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["ModelParts", "encoder_digest"]


class ModelParts(nn.Module):
    """Decoder, encoder and projector, wherever they come from.

    Args:
        config: What the checkpoint is made of.
        decoder: Hugging Face causal language model.
        tokenizer: The decoder's fast tokenizer.
        encoder: Chunks to chunk vectors.
        retriever: Passages and questions to search vectors.
        digest: Hash of the encoder's weights; computed if None.

    Attributes:
        config: What the checkpoint is made of.
        decoder: Hugging Face causal language model.
        tokenizer: The decoder's fast tokenizer.
        encoder: Chunks to chunk vectors.
        projector: Chunk vectors to chunk embeddings.
        retriever: Passages and questions to search vectors (a Hugging Face encoder, unchanged).
        matcher: The retriever's encoder as one of chunks, whose vectors policies read, if the
            checkpoint has ``policy_vectors``; otherwise None.
        policies: Networks of the learned policies by name; empty if none was trained.
        loaded_adapters: Adapters in the weights of a model that was loaded for inference.
        chunk_mask: Tells the decoder's chunk adapter which positions are chunk embeddings; whoever
            passes chunk embeddings to the decoder sets it for that pass.
    """

    def __init__(
        self,
        config: RefragConfig,
        decoder: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        encoder: ChunkEncoder | LayerEncoder,
        retriever: SearchEncoder,
        *,
        digest: bytes | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.decoder: Any = decoder
        self.tokenizer: Any = tokenizer
        self.encoder: Any = encoder  # training uses attributes that only ChunkEncoder has
        self.retriever = retriever
        self.matcher: ChunkEncoder | None = (
            retriever.for_chunks() if config.policy_vectors else None
        )
        embedding: Any = decoder.get_input_embeddings()
        scale = embedding_scale(decoder)
        self.projector = make_projector(config, encoder.width, embedding.weight.shape[1], scale)
        self.policies = nn.ModuleDict()
        self.chunk_mask: ChunkMask = ThreadChunkMask()
        self.chunker = Chunker(tokenizer, config.chunk_size)
        self._encoder_digest = encoder_digest(encoder) if digest is None else digest
        self._carried: dict[str, Path] = {}
        self.loaded_adapters: list[LoadedAdapter] = []
        self._loaded_weights: LoadedWeights | None = None

    def train(self, mode: bool = True) -> Self:
        """Keeps the search encoder, which does not train, without dropout."""
        super().train(mode)
        if self.matcher is not None:
            self.matcher.eval()
        return self

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
        """Longest input of the decoder in positions."""
        return position_limit(self.decoder.config, self.tokenizer)

    @property
    def vector_width(self) -> int:
        """Values per chunk vector as it is stored: what the projector reads, then the rest."""
        width: int = self.encoder.width
        return width if self.matcher is None else width + self.matcher.width

    @property
    def policy_width(self) -> int:
        """Values per vector of a question: policies read so many at the end of a chunk vector."""
        width: int = self.encoder.width
        return width if self.matcher is None else self.matcher.width

    @cached_property
    def token_check(self) -> TokenCheck:
        """Tells token ids that are not a passage's own."""
        return TokenCheck(self.tokenizer)

    @cached_property  # asking a tokenizer for its vocabulary takes 50 ms
    def first_token_id(self) -> int:
        """The token that goes before a chunk embedding which would otherwise come first."""
        return separator_id(self.tokenizer)

    @cached_property
    def fingerprint(self) -> str:
        """Short hash of encoder weights, pooling, chunk size and both tokenizers (hex).

        Chunk vectors with another fingerprint are useless to this model. The fingerprint describes
        the weights as they were loaded: after training, save the checkpoint and load it again.
        """
        config = self.config
        digest = hashlib.blake2b(self._encoder_digest, digest_size=8)
        digest.update(f"{config.chunk_size} {config.pooling} {config.contextual}".encode())
        digest.update(tokenizer_digest(self.tokenizer))
        if config.encoder_layers:  # search vectors are stored with the chunk vectors
            digest.update(config.encoder.encode())
        else:
            digest.update(tokenizer_digest(self.encoder.tokenizer))
        if self.matcher is not None:
            digest.update(b"policy_vectors" + encoder_digest(self.matcher))
            digest.update(tokenizer_digest(self.matcher.tokenizer))
        return digest.hexdigest()

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
            texts: Passages; an empty one has no chunks.
            batch_size: Encoder windows per forward pass.
            progress: Called with the number of encoder windows done after each pass.

        Returns:
            One ``ChunkVectors`` per passage, in order.
        """
        passages = self.cut_passages(texts)
        encoded = self.encode_chunks(passages, batch_size=batch_size, progress=progress)
        with computing():  # PyTorch rounds as NumPy does, in a third of the time
            halved = [torch.from_numpy(rows).half().numpy() for rows in encoded]
        return [
            ChunkVectors(
                vectors=rows,
                token_ids=passage.token_ids,
                chunk_size=passage.chunk_size,
                fingerprint=self.fingerprint,
            )
            for passage, rows in zip(passages, halved, strict=True)
        ]

    def cut_passages(self, texts: Sequence[str]) -> list[ChunkedPassage]:
        """Cuts passages into chunks to be encoded, with no more than the encoder reads of them.

        Args:
            texts: Passages; an empty one has no chunks.

        Returns:
            One per passage, in order; without offsets, if only the decoder's tokens are read.
        """
        tokens_alone = isinstance(self.encoder, LayerEncoder) and self.matcher is None
        return self.chunker.chunk(texts, offsets=not tokens_alone)

    def encode_chunks(
        self,
        passages: Sequence[ChunkedPassage],
        *,
        batch_size: int = 32,
        progress: Callable[[int], None] | None = None,
    ) -> list[np.ndarray]:
        """Encodes chunked passages.

        Args:
            passages: Chunked passages, with the checkpoint's chunk size.
            batch_size: Encoder windows per forward pass.
            progress: Called with the number of encoder windows done after each pass.

        Returns:
            All that chunk vectors hold, not rounded, one array per passage, shape (n_chunks,
            vector_width), float32.
        """
        rows: list[np.ndarray] = self.encoder.encode(
            passages, batch_size=batch_size, progress=progress
        )
        if self.matcher is None:
            return rows
        read = self.encode_for_policies(passages, batch_size=batch_size)
        return [np.concatenate(parts, axis=1) for parts in zip(rows, read, strict=True)]

    def encode_for_policies(
        self, passages: Sequence[ChunkedPassage], *, batch_size: int = 32
    ) -> list[np.ndarray]:
        """Encodes what policies read of chunked passages, and nothing else.

        Args:
            passages: Chunked passages.
            batch_size: Encoder windows per forward pass.

        Returns:
            The last ``policy_width`` values of the chunk vectors, not rounded, one array per
            passage, shape (n_chunks, policy_width), float32.
        """
        if self.matcher is None:
            rows: list[np.ndarray] = self.encoder.encode(passages, batch_size=batch_size)
            return rows
        # Of the size of what stands before them: codecs have one scale per chunk vector. Policies
        # look at directions.
        return [_unit_rms(rows) for rows in self.matcher.encode(passages, batch_size=batch_size)]

    def encode_questions(
        self, texts: Sequence[str], *, batch_size: int = 256
    ) -> list[EncodedQuestion]:
        """Encodes questions for policies; equal questions are encoded once.

        Args:
            texts: Questions; a blank one has no vectors.
            batch_size: Questions per forward pass of the encoder.

        Returns:
            One ``EncodedQuestion`` per text, in order.
        """
        cut = dict(zip(texts, self.chunker.cut_questions(texts), strict=True))
        encoder = self.matcher or self.encoder
        rows = encoder.encode(list(cut.values()), batch_size=batch_size)
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
            g) per passage; the decoder's dtype.

        Raises:
            FingerprintMismatchError: If a passage was encoded by another model.
            ValueError: If the checkpoint does not have this rung.
        """
        for passage in passages:
            if passage.fingerprint != self.fingerprint:
                msg = (
                    f"the chunk vectors have fingerprint {passage.fingerprint}, this model has "
                    f"{self.fingerprint}; encode the passage again with this model"
                )
                raise FingerprintMismatchError(msg)
        dtype = next(self.projector.parameters()).dtype
        vectors = vectors_on_device(passages, self.device)[:, : self.encoder.width].to(dtype)
        ids = used = None
        if self.config.token_mlp:
            ids, used = (torch.from_numpy(a).to(self.device) for a in padded_token_ids(passages))
        counts = [passage.n_chunks for passage in passages]
        return self.project(vectors, ids, used, counts=counts, rung=rung).to(self.dtype)

    def project(
        self,
        vectors: Tensor,
        token_ids: Tensor | None,
        used: Tensor | None,
        *,
        counts: Sequence[int] | None = None,
        rung: int | None = None,
    ) -> Tensor:
        """Maps chunk vectors to chunk embeddings; decides, here only, what the projector reads.

        Args:
            vectors: Chunk vectors, float32: of passages one after another, shape (chunks, d_enc),
                or of passages that are padded with zeros to one number of chunks, a multiple of
                all rungs, shape (passages, chunks, d_enc).
            token_ids: Token ids of each chunk, padded with any id, shape (..., chunks, k); None if
                the projector reads no tokens.
            used: True where ``token_ids`` holds a token, same shape; None likewise.
            counts: Chunks of each passage; needed if the passages are not padded and the rung
                joins chunks.
            rung: Tokens per chunk embedding, one of the checkpoint's rungs; the smallest if None.

        Returns:
            Chunk embeddings, shape (..., chunks, d_dec), or on a rung of g chunks ceil(count / g)
            per passage; the projector's dtype.

        Raises:
            ValueError: If the checkpoint does not have this rung, or if counts or tokens that are
                needed are missing.
        """
        rungs = self.config.rungs
        rung = rung or rungs[0]
        if rung not in rungs:
            msg = f"this checkpoint has the rungs {rungs}, not {rung}"
            raise ValueError(msg)
        if isinstance(self.projector, Ladder):
            if vectors.ndim == 2 and rung != rungs[0]:
                if counts is None:
                    raise ValueError(f"rung {rung} joins chunks of a passage; pass counts")
                vectors = whole_groups(vectors, counts, rung // rungs[0])
            ladder: Tensor = self.projector(vectors, rung)
            return ladder
        tokens = None
        if self.config.token_mlp and token_ids is not None and used is not None:
            tokens = self.decoder.get_input_embeddings()(token_ids).float() * used.unsqueeze(-1)
        embeddings: Tensor = self.projector(vectors, tokens)
        return embeddings

    def search_vectors(
        self, texts: Sequence[str], *, progress: Callable[[int], None] | None = None
    ) -> np.ndarray:
        """Embeds passages or questions for search.

        Args:
            texts: Any number of passages or questions.
            progress: Called with the number of texts embedded after each forward pass.

        Returns:
            Search vectors, shape (n, retriever.width), float32, each of length 1.
        """
        return self.retriever.embed(texts, device=self.device, progress=progress)

    def search_token_vectors(self, texts: Sequence[str]) -> tuple[np.ndarray, list[np.ndarray]]:
        """Embeds passages or questions for late interaction.

        Args:
            texts: Any number of passages or questions.

        Returns:
            Their search vectors as ``search_vectors`` returns them; and of each text the vectors
            of its tokens, shape (tokens, retriever.width), float32, each of length 1.
        """
        return self.retriever.embed_tokens(texts, device=self.device)

    def search_vector(self, text: str) -> np.ndarray:
        """Search vector of one text, shape (retriever.width,), float32, of length 1."""
        row: np.ndarray = self.search_vectors([text])[0]
        return row


def _unit_rms(rows: np.ndarray) -> np.ndarray:
    """Scales rows to a root mean square of 1; a row of zeros is left as it is."""
    scaled: np.ndarray = unit_rows(rows) * np.float32(rows.shape[1] ** 0.5)
    return scaled


def encoder_digest(encoder: ChunkEncoder | LayerEncoder) -> bytes:
    """Hash of an encoder's weights, including those that it shares with the decoder."""
    if isinstance(encoder, LayerEncoder):
        return state_digest(encoder.state_dict() | {"table": encoder.table})
    return state_digest(encoder.model.state_dict())
