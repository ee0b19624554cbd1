"""What ships of trained weights: a quantised difference to the base."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from refrag_components.exceptions import UnknownModelError
from refrag_components.modeling.weight_difference import (
    Bits,
    apply_difference,
    quantise_difference,
)


def weights() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"layer.weight": (96, 50), "norm.weight": (50,), "place": (3, 16, 16)}
    base = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    changed = {
        name: value + 0.02 * torch.randn(value.shape, generator=generator)
        for name, value in base.items()
    }
    return base, changed


def relative_error(base: dict[str, Tensor], tuned: dict[str, Tensor], bits: Bits) -> float:
    """Relative error of the difference that is read back."""
    read = apply_difference(base, quantise_difference(base, tuned, bits))
    matrix = "layer.weight"
    difference = tuned[matrix] - base[matrix]
    return ((read[matrix] - tuned[matrix]).norm() / difference.norm()).item()


def test_four_bits_keep_nine_tenths_of_a_difference_and_eight_almost_all() -> None:
    base, tuned = weights()
    assert relative_error(base, tuned, 4) < 0.09
    assert relative_error(base, tuned, 8) < 0.006


def test_four_bits_take_an_eighth_of_float32_and_one_scale_for_64_values() -> None:
    base, tuned = weights()
    tensors = quantise_difference(base, tuned, 4)
    assert tensors["layer.weight:codes"].nbytes == 96 * 50 // 2
    assert tensors["layer.weight:scales"].nbytes == 96 * 50 // 64


@pytest.mark.parametrize("bits", [4, 8])
def test_what_was_not_trained_stays_and_norms_are_exact(bits: Bits) -> None:
    base, tuned = weights()
    tuned["place"] = base["place"].clone()
    read = apply_difference(base, quantise_difference(base, tuned, bits))
    assert torch.equal(read["place"], base["place"])
    assert torch.equal(read["norm.weight"], tuned["norm.weight"])


@pytest.mark.parametrize("bits", [4, 8])
def test_files_hold_the_same_bits_each_time(bits: Bits, tmp_path: Path) -> None:
    base, tuned = weights()
    for name in ("one", "two"):
        save_file(quantise_difference(base, tuned, bits), tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    read = apply_difference(base, load_file(tmp_path / "one"))
    again = apply_difference(base, quantise_difference(base, tuned, bits))
    assert all(torch.equal(read[name], again[name]) for name in base)


def test_differences_of_any_size_are_kept_unless_float32_cannot_hold_them() -> None:
    base, tuned = weights()
    base["place"][:] = 0
    for size in (1e-12, 1e6):
        tuned["place"] = size * torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(1))
        read = apply_difference(base, quantise_difference(base, tuned, 4))
        assert (read["place"] - tuned["place"]).norm() < 0.09 * tuned["place"].norm()
    base["place"] -= 3e38
    tuned["place"] = -base["place"]
    with pytest.raises(ValueError, match="more than float32 can hold"):
        quantise_difference(base, tuned, 4)


def test_weights_that_do_not_belong_together_are_refused() -> None:
    base, tuned = weights()
    with pytest.raises(ValueError, match=r"only one of them has place"):
        quantise_difference(base, {n: t for n, t in tuned.items() if n != "place"}, 4)
    with pytest.raises(ValueError, match=r"place has shape \(2,\), its base has \(3, 16, 16\)"):
        quantise_difference(base, tuned | {"place": torch.zeros(2)}, 4)
    tuned["place"][0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="place contains NaN"):
        quantise_difference(base, tuned, 4)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("place:codes", None, "place:codes is missing from the checkpoint"),
        ("place:scales", None, "place:scales is missing"),
        ("norm.weight", None, "norm.weight is missing"),
        ("other", torch.zeros(2), "other does not belong in this checkpoint"),
        ("place:codes", torch.zeros(12, 31, dtype=torch.uint8), "place:codes must be uint8 of"),
        ("place:codes", torch.zeros(12, 64), "got float32 of shape"),
        ("place:unit", None, "place:unit is missing"),
        ("place:scales", torch.zeros(12), r"place:scales must be uint8 of shape \(12,\), got fl"),
        ("place:scales", torch.zeros(11, dtype=torch.uint8), "place:scales must be uint8 of"),
        ("place:unit", torch.tensor(torch.nan), "place:unit must be finite .* with NaN or inf"),
        ("place:unit", torch.zeros(2), r"place:unit must be finite .* got float32 of shape \(2,\)"),
        ("place:unit", torch.tensor(3), "place:unit must be finite float32 .* got int64"),
        ("norm.weight", torch.full((50,), torch.inf), "norm.weight must be finite .* infinite val"),
        ("norm.weight", torch.zeros(51), r"norm.weight must be .* got float32 of shape \(51,\)"),
        ("norm.weight", torch.zeros(50).half(), "norm.weight must be .* got float16"),
    ],
)
def test_what_is_damaged_is_named(name: str, value: Tensor | None, message: str) -> None:
    base, tuned = weights()
    tensors = quantise_difference(base, tuned, 4)
    tensors.pop(name, None)
    if value is not None:
        tensors[name] = value
    with pytest.raises(UnknownModelError, match=message):
        apply_difference(base, tensors)
