"""The states between a decoder's layers, to be like those of a reader of the full text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from refrag_components.corpus import Batch
    from refrag_components.modeling import RefragModel

__all__ = ["LayerStates", "context_places", "misalignment"]

_EVERY = 3  # layers; neighbours say nearly the same


class LayerStates:
    """Keeps what the last layer of a decoder and every third before it return in one pass.

    Args:
        refrag: The model, with adapters on its decoder.
    """

    def __init__(self, refrag: RefragModel) -> None:
        self.kept: list[Tensor] | None = None
        layers = next(m for m in refrag.decoder.modules() if isinstance(m, nn.ModuleList))
        for layer in reversed(layers[::-_EVERY]):
            layer.register_forward_hook(self._keep)

    def _keep(self, _layer: nn.Module, _inputs: Any, returned: Any) -> None:
        if self.kept is not None:  # not when a layer is computed again for the backward pass
            self.kept.append(returned if isinstance(returned, Tensor) else returned[0])

    def start(self) -> None:
        """Keeps what the layers return from now on."""
        self.kept = []

    def take(self) -> list[Tensor]:
        """Stops, and hands over the states by layer, (rows * positions, width) each."""
        kept, self.kept = self.kept or [], None
        return [states.flatten(0, 1) for states in kept]


def context_places(batch: Batch) -> Tensor:
    """Places of the context in a batch's flattened rows, as ``context_index`` has them in full."""
    assert batch.context_index is not None
    rows, length = batch.token_ids.shape
    places = torch.arange(rows * length, device=batch.token_ids.device).view(rows, length)
    return places[:, 1 : 1 + batch.context_index.shape[1]].flatten()


def misalignment(states: Tensor, teacher: Tensor) -> Tensor:
    """Share of the teacher's variance that the states miss, 0 where they are equal.

    Every dimension counts the same: in a decoder's residual stream a few are hundreds of times
    larger than the rest.

    Args:
        states: Of one layer, (n, width).
        teacher: At the same places, without gradient; same shape.
    """
    states, teacher = states.float(), teacher.float()
    variance = teacher.var(dim=0)
    missed = (states - teacher).square().mean(dim=0)
    return (missed / (variance + 1e-6 * variance.mean())).mean()
