"""Trained weights as a coarsely quantised difference to public base weights.

A matrix is cut into groups of 64 values, row after row. A value is a level times the scale of its
group, and is stored as the index of its level. With 4 bits there are 16 levels, those that lose
least of a normal distribution; the error of even steps was a fifth larger on trained differences.
With 8 bits the levels are even steps. A scale is an 8-bit integer times one unit per matrix; with
scales in float16 the error was the same to four digits. Parameters that are not matrices (norms,
biases) are small and are stored exactly.

Reading weights back takes only products and sums of two float32 numbers, so every machine reads
the same bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from refrag_components.exceptions import UnknownModelError
from refrag_components.vectors.codecs import GAUSSIAN_LEVELS

__all__ = ["Bits", "apply_difference", "quantise_difference"]

Bits = Literal[4, 8]

_GROUP = 64
_CODES, _SCALES, _UNIT = ":codes", ":scales", ":unit"
_LARGEST_SCALE = 255  # units
_LEVELS = {
    4: torch.tensor(GAUSSIAN_LEVELS, dtype=torch.float32),
    8: torch.arange(-127, 128, dtype=torch.float32),
}
# Scales to try, as fractions of the one that puts a group's largest value on the last level.
_SCALES_TO_TRY = {4: (0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0), 8: (1.0,)}
_AT_ONCE = 2**16  # groups quantised together; bounds memory


def quantise_difference(
    base: Mapping[str, Tensor], tuned: Mapping[str, Tensor], bits: Bits
) -> dict[str, Tensor]:
    """Quantises the difference between base weights and trained ones.

    It is computed on the device of the trained weights.

    Args:
        base: Base weights by name.
        tuned: Trained weights, of the same names and shapes.
        bits: Bits per value of a matrix.

    Returns:
        Tensors to save, on CPU: for a matrix ``NAME:codes``, ``NAME:scales`` and ``NAME:unit``, for
        any other parameter the trained values in float32.

    Raises:
        ValueError: If names or shapes differ, or a value is not finite.
    """
    if set(base) != set(tuned):
        odd = min(set(base) ^ set(tuned))
        msg = f"base and trained weights must have the same names; only one of them has {odd}"
        raise ValueError(msg)
    made = {}
    for name, value in tuned.items():
        trained = value.detach().float()
        start = base[name].detach().float().to(trained.device)  # a GPU is far faster
        if trained.shape != start.shape:
            msg = f"{name} has shape {tuple(trained.shape)}, its base has {tuple(start.shape)}"
            raise ValueError(msg)
        if not trained.isfinite().all():
            raise ValueError(f"{name} contains NaN or infinite values")
        if trained.ndim < 2:
            made[name] = trained.cpu().clone()
        else:
            quantised = _quantise(_grouped(trained - start), bits)
            codes, scales, unit = (tensor.cpu() for tensor in quantised)
            made |= {name + _CODES: codes, name + _SCALES: scales, name + _UNIT: unit}
    return made


def apply_difference(
    base: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Adds a quantised difference to base weights.

    Args:
        base: Base weights by name; the result has the same names and shapes.
        tensors: What ``quantise_difference`` returned, as read from an untrusted file.

    Returns:
        Trained weights in float32, on the CPU.

    Raises:
        UnknownModelError: If a tensor is missing, unknown, of another shape or type, or not finite.
            The message names the tensor.
    """
    left = dict(tensors)
    weights = {}
    for name, value in base.items():
        start = value.detach().float().cpu()
        if start.ndim < 2:
            weights[name] = _exact(name, _take(left, name), start.shape)
        else:
            codes, scales, unit = (_take(left, name + part) for part in (_CODES, _SCALES, _UNIT))
            groups = _dequantise(name, codes, scales, unit, -(-start.numel() // _GROUP))
            weights[name] = start + groups.flatten()[: start.numel()].view_as(start)
    if left:
        msg = f"{min(left)} does not belong in this checkpoint; copy or download it again"
        raise UnknownModelError(msg)
    return weights


def _take(left: dict[str, Tensor], name: str) -> Tensor:
    if name not in left:
        raise UnknownModelError(f"{name} is missing from the checkpoint; copy or download it again")
    return left.pop(name)


def _exact(name: str, tensor: Tensor, shape: torch.Size) -> Tensor:
    if tensor.shape != shape or tensor.dtype != torch.float32 or not tensor.isfinite().all():
        msg = f"{name} must be finite float32 values of shape {tuple(shape)}, got {_what(tensor)}"
        raise UnknownModelError(msg)
    return tensor


def _dequantise(name: str, codes: Tensor, scales: Tensor, unit: Tensor, groups: int) -> Tensor:
    """Differences, shape (groups, 64), float32."""
    widths = {torch.uint8: _GROUP // 2, torch.int8: _GROUP}
    if codes.dtype not in widths or codes.shape != (groups, widths[codes.dtype]):
        msg = (
            f"{name + _CODES} must be uint8 of shape {(groups, _GROUP // 2)} or int8 of shape "
            f"{(groups, _GROUP)}, got {_what(codes)}"
        )
        raise UnknownModelError(msg)
    if scales.dtype != torch.uint8 or scales.shape != (groups,):
        msg = f"{name + _SCALES} must be uint8 of shape {(groups,)}, got {_what(scales)}"
        raise UnknownModelError(msg)
    _exact(name + _UNIT, unit, torch.Size())
    if codes.dtype == torch.uint8:
        indices = torch.stack([codes >> 4, codes & 15], dim=2).flatten(1)
        values = _LEVELS[4][indices.int()]
    else:
        values = codes.float()
    return values * (scales.float() * unit).unsqueeze(1)


def _what(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} of shape {tuple(tensor.shape)}" + (
        " with NaN or infinite values"
        if tensor.is_floating_point() and not tensor.isfinite().all()
        else ""
    )


def _grouped(values: Tensor) -> Tensor:
    flat = values.flatten()
    return pad(flat, (0, -len(flat) % _GROUP)).view(-1, _GROUP)


def _quantise(groups: Tensor, bits: Bits) -> tuple[Tensor, Tensor, Tensor]:
    """Codes as they are saved, scales in units, (groups,) uint8, and the unit, ()."""
    parts = groups.split(_AT_ONCE)
    best = torch.cat([_best_scales(part, bits) for part in parts])
    unit = best.amax() / _LARGEST_SCALE
    if not unit.isfinite():
        raise ValueError("weights differ from their base by more than float32 can hold")
    wanted = (best / torch.where(unit > 0, unit, 1.0)).split(_AT_ONCE)
    nearest = [_nearest(*pair, unit, bits) for pair in zip(parts, wanted, strict=True)]
    codes, scales = (torch.cat(pieces) for pieces in zip(*nearest, strict=True))
    if bits == 4:
        codes = codes[:, ::2] << 4 | codes[:, 1::2]
    else:
        codes = (codes.short() - 127).to(torch.int8)
    return codes.contiguous(), scales, unit


def _best_scales(groups: Tensor, bits: Bits) -> Tensor:
    """Scales by least squares, (groups,), float32.

    For each tried scale the levels are chosen, then the best scale for these levels.
    """
    levels = _LEVELS[bits].to(groups.device)
    peaks = groups.abs().amax(dim=1) / levels[-1]
    explained = groups.new_full((len(groups),), -torch.inf)  # part of a group's sum of squares
    best = groups.new_zeros(len(groups))
    for fraction in _SCALES_TO_TRY[bits]:
        chosen = levels[_choose(groups, peaks * fraction, bits)]
        products, squares = (groups * chosen).sum(dim=1), chosen.square().sum(dim=1)
        scale = products / squares.clamp(min=1e-9)
        better = products * scale > explained
        explained = torch.where(better, products * scale, explained)
        best = torch.where(better, scale, best)
    return best


def _nearest(groups: Tensor, wanted: Tensor, unit: Tensor, bits: Bits) -> tuple[Tensor, Tensor]:
    """Indices of levels, (groups, 64) uint8, and scales in units, (groups,) uint8.

    The wanted scale is rounded down or up to a whole number of units, whichever has less error.
    """
    levels = _LEVELS[bits].to(groups.device)
    least = groups.new_full((len(groups),), torch.inf)
    codes = torch.zeros_like(groups, dtype=torch.uint8)
    scales = torch.zeros_like(wanted, dtype=torch.uint8)
    for whole in (wanted.floor(), wanted.ceil().clamp(max=_LARGEST_SCALE)):
        chosen = _choose(groups, whole * unit, bits)
        values = levels[chosen] * (whole * unit).unsqueeze(1)
        errors = (groups - values).square().sum(dim=1)
        better = errors < least
        least = torch.where(better, errors, least)
        scales = torch.where(better, whole.to(torch.uint8), scales)
        codes = torch.where(better.unsqueeze(1), chosen.to(torch.uint8), codes)
    return codes, scales


def _choose(groups: Tensor, scales: Tensor, bits: Bits) -> Tensor:
    """Index of the nearest level of each value, (groups, 64), int64."""
    divided = groups / torch.where(scales > 0, scales, 1.0).unsqueeze(1)
    if bits == 8:
        return divided.round().clamp(-127, 127).long() + 127
    levels = _LEVELS[bits].to(groups.device)
    return torch.bucketize(divided, (levels[1:] + levels[:-1]) / 2)
