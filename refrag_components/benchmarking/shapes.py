"""Shapes of decoders: all that decides how long a random model takes."""

from __future__ import annotations

from dataclasses import dataclass

from refrag_components.exceptions import UnknownModelError

__all__ = ["SHAPES", "Shape", "shape_named"]


@dataclass(frozen=True)
class Shape:
    """What decides how long a decoder of the Llama family takes.

    Attributes:
        hidden: Width of the states.
        inner: Width inside the MLP.
        layers: Number of layers.
        heads: Attention heads.
        key_value_heads: Heads of keys and values.
        vocabulary: Size of the vocabulary.
        encoder_layers: Layers of the chunk encoder.
    """

    hidden: int
    inner: int
    layers: int
    heads: int
    key_value_heads: int
    vocabulary: int
    encoder_layers: int


#: Shapes by name, from the configurations that their makers publish; the encoder's depth is ours.
SHAPES: dict[str, Shape] = {
    "llama-2-7b": Shape(4096, 11_008, 32, 32, 32, 32_000, 4),
    "llama-3.1-8b": Shape(4096, 14_336, 32, 32, 8, 128_256, 4),
    "smollm2-135m": Shape(576, 1536, 30, 9, 3, 49_152, 12),
}


def shape_named(name: str) -> Shape:
    """Returns the shape of that name.

    Raises:
        UnknownModelError: If there is no such shape.
    """
    if name not in SHAPES:
        msg = f"there is no shape {name!r}; choose one of {', '.join(SHAPES)}"
        raise UnknownModelError(msg)
    return SHAPES[name]
