"""What stages 1 to 3 minimise: a REFRAG model whose forward pass is the loss."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor, nn

from refrag_components.corpus import Batch, batch_embeddings
from refrag_components.modeling import RefragModel
from refrag_components.modeling.adapters import CHUNK_ADAPTER, FoldedWeights
from refrag_components.training.alignment import LayerStates, context_places, misalignment
from refrag_components.training.losses import OutputHead, SlicedLosses

__all__ = ["TrainingModel"]


class TrainingModel(nn.Module):
    """A REFRAG model whose forward pass is the training loss.

    Args:
        refrag: The model, adapters attached.
        distillation: Weight of KL(full text || compressed) on the output tokens and the tokens of
            expanded chunks, 0 for none: what a reader of the full text says is a far denser signal
            than the one token that follows. That reader is the decoder in its present state, or the
            base decoder.
        alignment: Weight of the difference from that reader's states between the layers, at the
            same tokens; 0 for none.
        context_alignment: The same for the context of running text: a chunk embedding's states
            should be those at its last token. Such states alone, every k-th, tell the base
            decoder much of the context (experiments/005).
        next_token: Weight of the cross-entropy of the tokens that follow, where there is such a
            reader; elsewhere it is all there is.
        base_teacher: Whether that reader is the base decoder.
        fold_at_once: As ``at_once`` of ``FoldedWeights``.

    Attributes:
        parts: What the loss of each batch was made of, before weights, since they were last taken.
    """

    def __init__(
        self,
        refrag: RefragModel,
        distillation: float = 0.0,
        alignment: float = 0.0,
        context_alignment: float = 0.0,
        next_token: float = 1.0,
        *,
        base_teacher: bool = False,
        fold_at_once: bool = True,
    ) -> None:
        super().__init__()
        self.refrag = refrag
        self.distillation = distillation
        self.alignment = alignment
        self.context_alignment = context_alignment
        self.next_token = next_token
        self.base_teacher = base_teacher
        self.parts: dict[str, list[Tensor]] = {}
        self._folded = FoldedWeights(refrag, at_once=fold_at_once)
        self._head = OutputHead(refrag)
        self._losses = SlicedLosses(self._head)
        self._misalignment = misalignment
        self._layers = LayerStates(refrag) if alignment or context_alignment else None

    def train(self, mode: bool = True) -> TrainingModel:
        """Keeps the encoder without dropout: chunk vectors are the same at every use."""
        super().train(mode)
        self.refrag.encoder.eval()
        return self

    def compile_layers(self) -> None:
        """Compiles the layers of decoder and encoder, and the losses.

        One layer's code serves all layers of its model. In transformers both models' layers share
        one function; beyond the usual limit of 8 variants of it (with and without gradient,
        adapter, mask) torch would go on uncompiled without a word. Floats such as an adapter's
        scaling are constants: as inputs each would be a tensor on the CPU, and that takes a C++
        compiler and minutes.
        """
        torch._dynamo.config.recompile_limit = 64
        torch._dynamo.config.specialize_float = True
        torch._dynamo.config.optimize_ddp = False  # would cut each layer once more
        for model in (self.refrag.decoder, self.refrag.encoder.model):
            layers = next(m for m in model.modules() if isinstance(m, nn.ModuleList))
            for layer in layers:
                # Not layer.compile(): that would take the hooks of LayerStates into the graphs.
                layer.forward = torch.compile(layer.forward, dynamic=True)
        self._losses.compile()
        self._misalignment = torch.compile(misalignment, dynamic=True)

    def forward(self, **tensors: Tensor | None) -> dict[str, Tensor]:
        """Returns the mean loss over the labels of a ``Batch``'s tensors."""
        batch = Batch(**tensors)  # type: ignore[arg-type]
        self._folded.make()
        with self._folded.left_out() if self.base_teacher else nullcontext():
            full = None if batch.full_ids is None else self._read_full_text(batch)
        inputs = batch_embeddings(self.refrag, batch)
        if batch.chunk_places is None:  # nothing was encoded (p = 1)
            # Processes that train together wait for a gradient of every parameter.
            inputs = inputs + 0.0 * sum(p.sum() for p in self.compressing_parameters())
        self.refrag.chunk_mask.mask = batch.chunk_places
        if self._layers is not None:
            self._layers.start()
        states = self._head.states(inputs_embeds=inputs).flatten(0, 1)
        compared = _last_places(batch.token_ids, batch.labels)
        labels = batch.labels.flatten()
        if batch.answer_index is not None:
            compared, labels = compared[batch.answer_index], labels[batch.answer_index]
        between = [] if self._layers is None else self._layers.take()
        loss = states.new_zeros((), dtype=torch.float32)
        if self.next_token or full is None:
            if batch.context_labels is None:
                loss = self._losses.cross_entropy(states[compared], labels)
            else:
                everywhere = torch.cat([batch.context_labels, batch.labels], dim=1).flatten()
                loss = self._losses.cross_entropy(states, everywhere)
            self._note("cross_entropy" if full is None else "cross_entropy_compressed", loss)
        if full is None:
            return {"loss": loss}
        teacher, aims, full_places = full
        loss = self.next_token * loss
        if batch.expanded_index is not None:
            compared = torch.cat([compared, batch.expanded_index.flatten()])
        if self.distillation:
            divergence = self._losses.divergence(states[compared], teacher)
            loss = loss + self.distillation * self._note("divergence", divergence)
        if self.alignment:
            missed = self._missed(between, compared, aims, full_places)
            loss = loss + self.alignment * self._note("missed", missed)
        if self.context_alignment and batch.context_index is not None:
            full_places = batch.context_index.flatten()
            missed = self._missed(between, context_places(batch), aims, full_places)
            loss = loss + self.context_alignment * self._note("missed_in_context", missed)
        return {"loss": loss}

    def forget_batch(self) -> None:
        """Ends a step: its backward pass, which may compute layers again, is over."""
        self.refrag.chunk_mask.mask = None
        self._folded.forget()

    def _note(self, name: str, part: Tensor) -> Tensor:
        self.parts.setdefault(name, []).append(part.detach())
        return part

    def encoding_parameters(self) -> list[nn.Parameter]:
        """What trains of encoder and projector."""
        return _trainable(self.refrag.encoder) + _trainable(self.refrag.projector)

    def compressing_parameters(self) -> list[nn.Parameter]:
        """What trains and has no part in reading plain text."""
        named = self.refrag.decoder.named_parameters()
        chunks = [p for name, p in named if p.requires_grad and CHUNK_ADAPTER in name]
        return self.encoding_parameters() + chunks

    def _missed(
        self, own: list[Tensor], places: Tensor, teacher: list[Tensor], full_places: Tensor
    ) -> Tensor:
        """Misalignment at some places, mean over the layers."""
        pairs = zip(own, teacher, strict=True)
        missed = [self._misalignment(mine[places], its[full_places]) for mine, its in pairs]
        return torch.stack(missed).mean()

    @torch.no_grad()
    def _read_full_text(self, batch: Batch) -> tuple[Tensor, list[Tensor], Tensor]:
        """States of the teacher: where they are compared, between the layers; those places.

        They are the output tokens and the tokens of expanded chunks.
        """
        assert batch.full_ids is not None
        self.refrag.chunk_mask.mask = None
        if self._layers is not None:
            self._layers.start()
        states = self._head.states(input_ids=batch.full_ids)
        places = batch.full_index
        if places is None:
            places = _last_places(batch.full_ids, batch.labels)
        if batch.expanded_full_index is not None:
            places = torch.cat([places, batch.expanded_full_index.flatten()])
        between = [] if self._layers is None else self._layers.take()
        return states.flatten(0, 1)[places], between, places


def _last_places(rows: Tensor, labels: Tensor) -> Tensor:
    """Places in the flattened rows of the last positions, which predict the labels."""
    n, length = rows.shape
    places = torch.arange(n * length, device=rows.device).view(n, length)
    return places[:, length - labels.shape[1] :].flatten()


def _trainable(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]
