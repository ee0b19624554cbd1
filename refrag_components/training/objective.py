"""What the stages minimise: a REFRAG model whose forward pass is the loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, nn

from refrag_components.corpus import Batch, batch_embeddings
from refrag_components.modeling import RefragModel
from refrag_components.training.losses import OutputHead, SlicedLosses
from refrag_components.training.whole_rows import whole_rows

__all__ = ["TrainingModel"]


class TrainingModel(nn.Module):
    """A REFRAG model whose forward pass is the loss of a batch.

    That is the mean cross-entropy of the labels, plus the mean KL(teacher || student) wherever the
    batch names places to compare: what a reader of the full text says is a far denser signal than
    the one token that follows, and it keeps plain text as well read as before.

    Args:
        refrag: The model.
        teacher: The base decoder, which reads the full text; frozen here, in bfloat16 on a GPU.

    Attributes:
        parts: What the losses were made of, before weights, by kind of batch, since they were last
            taken.
    """

    def __init__(self, refrag: RefragModel, teacher: Any) -> None:
        super().__init__()
        self.refrag = refrag
        # In a tuple it is not part of this module: neither saved nor shared between processes.
        self._teacher = (teacher.requires_grad_(False).eval(),)
        self._head = OutputHead(refrag.decoder)
        self._teacher_head = OutputHead(teacher)
        self._losses = SlicedLosses(self._head, self._teacher_head)
        self.parts: dict[str, list[Tensor]] = {}

    def train(self, mode: bool = True) -> TrainingModel:
        """Keeps the encoder without dropout: chunk vectors are the same at every use."""
        super().train(mode)
        self.refrag.encoder.eval()
        return self

    def place_teacher(self, device: torch.device) -> None:
        """Moves the teacher to the device that trains."""
        kind = torch.bfloat16 if device.type == "cuda" else torch.float32
        self._teacher[0].to(device, kind)

    def compile_layers(self) -> None:
        """Compiles the layers of decoder, encoder and teacher, and the losses.

        One layer's code serves all layers of its model. In transformers all models' layers share
        one function; beyond the usual limit of 8 variants of it (with and without gradient, mask)
        torch would go on uncompiled without a word. Floats such as a scaling are constants: as
        inputs each would be a tensor on the CPU, and that takes a C++ compiler and minutes.
        """
        torch._dynamo.config.recompile_limit = 64
        torch._dynamo.config.specialize_float = True
        torch._dynamo.config.optimize_ddp = False  # would cut each layer once more
        for model in (self.refrag.decoder, self.refrag.encoder.model, self._teacher[0]):
            layers = next(m for m in model.modules() if isinstance(m, nn.ModuleList))
            for layer in layers:
                layer.forward = torch.compile(layer.forward, dynamic=True)
        self._losses.compile()

    def forward(self, batch: Batch) -> Tensor:
        """Returns the loss of a batch on the model's device, a scalar, before its weight.

        With an encoder of the decoder's layers nothing in it waits for a GPU, so that kernels are
        launched ahead.
        """
        with whole_rows():
            return self._loss(batch)

    def _loss(self, batch: Batch) -> Tensor:
        teacher = None if batch.full_ids is None else self._read_full_text(batch)
        inputs = batch_embeddings(self.refrag, batch)
        if distributed.is_available() and distributed.is_initialized():
            # Processes that train together wait for a gradient of every parameter.
            inputs = inputs + 0.0 * sum(p.sum() for p in self._compressing_parameters())
        states = self._head.states(inputs_embeds=inputs).flatten(0, 1)
        loss = self._losses.cross_entropy(states[batch.label_index], batch.labels)
        self._note(batch, "cross_entropy", loss)
        if teacher is not None:
            divergence = self._losses.divergence(states[batch.student_index], teacher)
            loss = loss + self._note(batch, "divergence", divergence)
        return loss

    def _note(self, batch: Batch, name: str, part: Tensor) -> Tensor:
        key = f"{batch.name} {name}".strip()
        self.parts.setdefault(key, []).append(part.detach())
        return part

    def _compressing_parameters(self) -> list[nn.Parameter]:
        """What trains and has no part in reading plain text."""
        parts = (self.refrag.encoder, self.refrag.projector)
        return [p for part in parts for p in part.parameters() if p.requires_grad]

    @torch.no_grad()
    def _read_full_text(self, batch: Batch) -> Tensor:
        """States of the teacher where they are compared, (compared, width)."""
        assert batch.full_ids is not None
        read = [self._teacher_head.states(input_ids=ids).flatten(0, 1) for ids in batch.full_ids]
        return torch.cat(read)[batch.teacher_index]
