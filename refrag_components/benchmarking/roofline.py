"""The least time that a device could need: from its measured rates, and the work there is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from refrag_components.benchmarking.timing import measure
from refrag_components.modeling.layer_encoder import LayerEncoder

if TYPE_CHECKING:
    from refrag_components.modeling import RefragModel
    from refrag_components.modeling.chunk_encoder import ChunkEncoder

__all__ = ["Rates", "Work", "measure_rates"]

_GPU_SIDE, _CPU_SIDE = 8192, 1024  # of the square matrices that are multiplied
_GPU_BYTES, _CPU_BYTES = 2**31, 2**27  # far more than caches hold


@dataclass(frozen=True)
class Rates:
    """What a device reached in two simple measurements.

    Attributes:
        matrix: Operations per second in the product of large square matrices of random numbers.
        bandwidth: Bytes per second, read and written, when a large tensor is copied.
    """

    matrix: float
    bandwidth: float


def measure_rates(device: torch.device, dtype: torch.dtype, *, repeats: int = 10) -> Rates:
    """Measures a device; takes about a second.

    Args:
        device: The device.
        dtype: Of the matrices.
        repeats: Measurements of each; the best counts.
    """
    return Rates(_matrix_rate(device, dtype, repeats), _bandwidth(device, repeats))


def _matrix_rate(device: torch.device, dtype: torch.dtype, repeats: int) -> float:
    side = _GPU_SIDE if device.type == "cuda" else _CPU_SIDE
    matrix = torch.randn(side, side, device=device, dtype=dtype)
    product = torch.empty_like(matrix)
    timing = measure(
        lambda: torch.mm(matrix, matrix, out=product), device, repeats=repeats, warm_up=3
    )
    return 2 * side**3 / timing.low


def _bandwidth(device: torch.device, repeats: int) -> float:
    count = _GPU_BYTES if device.type == "cuda" else _CPU_BYTES
    values = torch.ones(count, dtype=torch.uint8, device=device)
    target = torch.empty_like(values)
    timing = measure(lambda: target.copy_(values), device, repeats=repeats, warm_up=3)
    return 2 * count / timing.low


class Work:
    """What a model has to compute and to read.

    Args:
        model: The model.
    """

    def __init__(self, model: RefragModel) -> None:
        decoder = model.decoder
        config: Any = decoder.config.get_text_config()
        heads = config.num_attention_heads
        head = getattr(config, "head_dim", None) or config.hidden_size // heads
        shared = getattr(config, "num_key_value_heads", None) or heads
        width = config.hidden_size
        self._model = model
        self._layers = config.num_hidden_layers
        self._attention = heads * head
        self._head = config.vocab_size * width
        table = decoder.get_input_embeddings().weight
        output = decoder.get_output_embeddings().weight
        unique = {id(p): p.numel() for p in decoder.parameters() if p is not table}
        unique.pop(id(output), None)
        self._per_position = sum(unique.values())
        self._item = table.element_size()
        #: Bytes of keys and values per decoder position.
        self.kv_bytes = 2 * self._layers * shared * head * self._item

    def first_token(
        self, rates: Rates, positions: int, *, embeddings: int = 0, encoded: int = 0
    ) -> float:
        """The least seconds to the first token.

        Either matrix products or reading the weights take them, whichever takes longer.

        Args:
            rates: Of the device.
            positions: Decoder positions of the prompt.
            embeddings: Chunk embeddings to project.
            encoded: Tokens of passages to encode.
        """
        operations = 2.0 * (positions * self._per_position + self._head)
        operations += 2.0 * self._layers * self._attention * positions**2  # causal: half of 4
        if embeddings:
            projector = sum(p.numel() for p in self._projector())
            operations += 2.0 * embeddings * projector
        operations += 2.0 * encoded * self._per_encoded_token()
        return max(operations / rates.matrix, self._weights() / rates.bandwidth)

    def token(self, rates: Rates, positions: int) -> float:
        """The least seconds per further token, after so many positions: reading takes them."""
        return (self._weights() + positions * self.kv_bytes) / rates.bandwidth

    def _weights(self) -> int:
        return (self._per_position + self._head) * self._item

    def _projector(self) -> list[Any]:
        """Parameters that make one chunk embedding: those of the finest rung."""
        projector: Any = self._model.projector
        first = str(self._model.config.rungs[0])
        return list((projector[first] if hasattr(projector, "keys") else projector).parameters())

    def _per_encoded_token(self) -> float:
        encoder, matcher = self._model.encoder, self._model.matcher
        values = 0.0 if matcher is None else _multiplied(matcher)
        if not isinstance(encoder, LayerEncoder):
            return values + _multiplied(encoder)
        # A matrix for each place, and one for its token.
        layers = float(sum(p.numel() for p in encoder.model.parameters()))
        return values + layers + 2 * encoder.width**2


def _multiplied(encoder: ChunkEncoder) -> float:
    """Weights that every token of a Hugging Face encoder is multiplied with."""
    table = encoder.model.get_input_embeddings().weight
    return float(sum(p.numel() for p in encoder.model.parameters()) - table.numel())
