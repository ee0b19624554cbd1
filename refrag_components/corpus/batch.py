"""One training or evaluation batch and its way through encoder, projector and decoder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from refrag_components.modeling.layer_encoder import LayerEncoder
from refrag_components.text.chunking import Chunker

if TYPE_CHECKING:
    from refrag_components.modeling import RefragModel

__all__ = [
    "IGNORED",
    "Batch",
    "PassageGroup",
    "batch_embeddings",
    "batch_logits",
    "batch_vectors",
    "chunk_table",
    "policy_vectors",
]

#: Label of a position whose loss does not count.
IGNORED = -100


class _ByValue:
    """Goes between processes by value: each shared tensor would take a file descriptor."""

    def __getstate__(self) -> dict[str, Any]:
        return {name: _changed(value, Tensor, Tensor.numpy) for name, value in vars(self).items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(
            {name: _changed(value, np.ndarray, torch.from_numpy) for name, value in state.items()}
        )


def _changed(value: Any, kind: type, change: Callable[[Any], Any]) -> Any:
    """The value, with what is of a kind changed, also in a tuple."""
    if isinstance(value, tuple):
        return tuple(_changed(each, kind, change) for each in value)
    return change(value) if isinstance(value, kind) else value


@dataclass(frozen=True, eq=False)
class PassageGroup(_ByValue):
    """Passages of similar length that are encoded together.

    Attributes:
        token_ids: Decoder token ids, padded on the right with 0 to a multiple of every rung,
            (passages, tokens).
        used: True for tokens, False for padding, same shape.
    """

    token_ids: Tensor
    used: Tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class Batch(_ByValue):
    """Rows of mixed tokens and chunk embeddings with the tokens to predict.

    Rows are padded on the right, where causal attention hides the padding from all that counts.
    The chunk embeddings of all groups stand in one table: group by group, in each group rung by
    rung, in each rung passage by passage, padding included.

    Attributes:
        token_ids: Decoder token at each position, 0 under a chunk embedding; (rows, positions).
        chunk_index: Row of the table of chunk embeddings at each position, -1 under a token;
            (rows, positions).
        groups: Passages with chunk embeddings; none if everything is text.
        chunk_size: Tokens per chunk (k).
        rungs: The rungs that chunk embeddings are made on, in the order of the table.
        label_index: Places in the flattened rows whose next token counts, ascending, (labels,).
        labels: Those next tokens, (labels,).
        predicted: Number of columns at the end of the rows that hold all of these places.
        full_ids: The rows as text alone, as far as a teacher is asked, those of similar length
            together, (rows, any) each; None if none is.
        student_index: Places in the flattened rows that are compared with a teacher, (compared,);
            None likewise.
        teacher_index: Where the same tokens stand in ``full_ids``, which are flattened and follow
            each other, (compared,).
        weight: Weight of this batch in the loss of a step.
        name: Its kind, for the training log.
    """

    token_ids: Tensor
    chunk_index: Tensor
    groups: tuple[PassageGroup, ...]
    chunk_size: int
    rungs: tuple[int, ...]
    label_index: Tensor
    labels: Tensor
    predicted: int
    full_ids: tuple[Tensor, ...] | None = None
    student_index: Tensor | None = None
    teacher_index: Tensor | None = None
    weight: float = 1.0
    name: str = ""

    @property
    def chunk_mask(self) -> Tensor | None:
        """True at chunk embeddings, (rows, positions), bool; None if there are none."""
        return self.chunk_index >= 0 if self.groups else None

    @property
    def label_rows(self) -> Tensor:
        """Labels of the last ``predicted`` columns or ``IGNORED``; (rows, predicted)."""
        whole = torch.full_like(self.token_ids, IGNORED)
        whole.view(-1)[self.label_index] = self.labels
        return whole[:, whole.shape[1] - self.predicted :]

    @property
    def table_tokens(self) -> tuple[Tensor, Tensor]:
        """Token ids under each row of a table with one rung, and which are used; (entries, k)."""
        if len(self.rungs) > 1:
            raise ValueError(f"the table has several rungs: {self.rungs}")
        parts = [
            (group.token_ids.view(-1, rung), group.used.view(-1, rung))
            for group in self.groups
            for rung in self.rungs
        ]
        ids, used = zip(*parts, strict=True)
        return torch.cat(ids), torch.cat(used)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """Returns the batch on another device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """Returns the batch in memory that a GPU can read by itself."""
        return self._map(Tensor.pin_memory)

    def _map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        changed = {name: _changed(value, Tensor, change) for name, value in vars(self).items()}
        changed["groups"] = tuple(
            PassageGroup(change(g.token_ids), change(g.used)) for g in self.groups
        )
        return replace(self, **changed)


def batch_vectors(model: RefragModel, batch: Batch) -> list[Tensor]:
    """Encodes the passages of a batch, one group after another.

    An encoder of the decoder's own layers passes gradients on; any other encodes as it does when
    it serves, from the passages' text.

    Args:
        model: Provides encoder and tokenizer.
        batch: On the model's device.

    Returns:
        Chunk vectors of each group, shape (passages, chunks, d_enc), float32 without autocast; zero
        for chunks that are padding only.
    """
    if isinstance(model.encoder, LayerEncoder):
        return [model.encoder(g.token_ids, g.used, batch.chunk_size) for g in batch.groups]
    return _read_as_text(model, batch)


def policy_vectors(model: RefragModel, batch: Batch) -> list[Tensor]:
    """What policies read of the passages of a batch, as ``batch_vectors`` lays them out.

    Args:
        model: Provides encoders and tokenizer.
        batch: On the model's device.

    Returns:
        The same as ``batch_vectors`` unless the checkpoint has ``policy_vectors``; then the ends of
        the chunk vectors only, shape (passages, chunks, policy_width).
    """
    return batch_vectors(model, batch) if model.matcher is None else _read_as_text(model, batch)


def _read_as_text(model: RefragModel, batch: Batch) -> list[Tensor]:
    """What a Hugging Face encoder, which is what policies read then, makes of the passages."""
    chunker = Chunker(model.tokenizer, batch.chunk_size)
    encoded = []
    for group in batch.groups:
        ids, used = group.token_ids.cpu().numpy(), group.used.cpu().numpy()
        passages = [chunker.from_tokens(row[mask]) for row, mask in zip(ids, used, strict=True)]
        vectors = torch.zeros(len(ids), ids.shape[1] // batch.chunk_size, model.policy_width)
        for of_passage, rows in zip(vectors, model.encode_for_policies(passages), strict=True):
            of_passage[: len(rows)] = torch.from_numpy(rows)
        encoded.append(vectors.to(group.token_ids.device))
    return encoded


def chunk_table(model: RefragModel, batch: Batch, vectors: list[Tensor]) -> Tensor:
    """Makes all chunk embeddings of a batch.

    Args:
        model: Provides the projector.
        batch: On the model's device; at least one group.
        vectors: From ``batch_vectors``.

    Returns:
        The table that ``chunk_index`` points into, shape (entries, d_dec).
    """
    tables = []
    for group, of_group in zip(batch.groups, vectors, strict=True):
        ids, used = (t.unflatten(1, (-1, batch.chunk_size)) for t in (group.token_ids, group.used))
        ladder = isinstance(model.encoder, LayerEncoder)
        for rung in batch.rungs:
            embeddings = model.project(of_group, ids, used, rung=rung if ladder else None)
            tables.append(embeddings.flatten(0, 1))
    return torch.cat(tables)


def batch_embeddings(model: RefragModel, batch: Batch) -> Tensor:
    """Runs encoder and projector on a batch and puts tokens and chunk embeddings together.

    Args:
        model: The model.
        batch: On the model's device.

    Returns:
        The decoder's input embeddings, shape (rows, positions, d_dec).
    """
    inputs: Tensor = model.decoder.get_input_embeddings()(batch.token_ids)
    if not batch.groups:
        return inputs
    table = chunk_table(model, batch, batch_vectors(model, batch)).to(inputs.dtype)
    # Under a token any chunk will do. Always the same one would get all their (zero) gradients,
    # which a GPU adds up one after another: a tenth of a step's time.
    anywhere = torch.arange(batch.chunk_index.numel(), device=inputs.device) % len(table)
    is_chunk = batch.chunk_index >= 0
    placed = table[torch.where(is_chunk, batch.chunk_index, anywhere.view_as(is_chunk))]
    return torch.where(is_chunk.unsqueeze(-1), placed, inputs)


def batch_logits(model: RefragModel, batch: Batch) -> Tensor:
    """Runs encoder, projector and decoder on a batch.

    Args:
        model: The model.
        batch: On the model's device.

    Returns:
        Logits at ``label_index``, shape (labels, vocabulary).
    """
    inputs = batch_embeddings(model, batch)
    with model.chunk_mask.using(batch.chunk_mask):
        logits: Tensor = model.decoder(
            inputs_embeds=inputs, logits_to_keep=batch.predicted, use_cache=False
        ).logits
    row, column = batch.label_index // inputs.shape[1], batch.label_index % inputs.shape[1]
    return logits[row, column - (inputs.shape[1] - batch.predicted)]
