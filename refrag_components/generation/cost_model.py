"""How long a machine takes to the first token, and how much it reads in a given time."""

from __future__ import annotations

import hashlib
import json
import math
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from refrag_components.atomic import atomic_file
from refrag_components.cached import cached_property
from refrag_components.exceptions import BudgetError
from refrag_components.weights.wheels import cache_folder

if TYPE_CHECKING:
    from refrag_components.modeling import RefragModel

__all__ = ["CostModel", "costs_file", "load_costs", "machine_of"]


@dataclass(frozen=True)
class CostModel:
    """Times from a layout to its first token, as measured; between them they grow evenly.

    Attributes:
        positions: Decoder positions that were measured, ascending, at least one.
        seconds: What each took.

    Raises:
        ValueError: If there is none, they are not ascending, or a time is not a number above 0.
    """

    positions: tuple[int, ...]
    seconds: tuple[float, ...]

    def __post_init__(self) -> None:
        """Checks that it can be read in both directions."""
        ascending = all(a < b for a, b in zip(self.positions, self.positions[1:], strict=False))
        sound = all(math.isfinite(value) and value > 0 for value in self.seconds)
        if not (
            self.positions and len(self.positions) == len(self.seconds) and ascending and sound
        ):
            msg = f"{self.positions} positions in {self.seconds} seconds are not a cost model"
            raise ValueError(msg)

    @cached_property
    def _rising(self) -> np.ndarray:
        """The times without dips, which only noise makes: more positions never take less."""
        return np.maximum.accumulate(np.asarray(self.seconds))

    def first_token(self, positions: int) -> float:
        """Seconds to the first token; beyond the longest measured layout as for that one."""
        return float(np.interp(positions, self.positions, self._rising))

    def within(self, seconds: float) -> int:
        """The most positions that take no longer; 0 if not even the shortest layout does."""
        rising = self._rising
        last = int(np.searchsorted(rising, seconds, side="right")) - 1
        if last < 0:
            return 0
        if last + 1 == len(rising):
            return self.positions[-1]
        share = (seconds - rising[last]) / (rising[last + 1] - rising[last])
        return int(self.positions[last] + share * (self.positions[last + 1] - self.positions[last]))

    def save(self, path: Path, machine: dict[str, Any]) -> None:
        """Writes the file; it is never incomplete.

        Args:
            path: From ``costs_file``.
            machine: From ``machine_of``; for people to read.
        """
        content = {"machine": machine, "positions": self.positions, "seconds": self.seconds}
        with atomic_file(path) as scratch:
            scratch.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def machine_of(model: RefragModel) -> dict[str, Any]:
    """All that decides how long a prompt takes: the device, and the size of what runs on it."""
    device, decoder = model.device, model.decoder
    config = decoder.config.get_text_config()
    on_gpu = device.type == "cuda"
    parts: Sequence[Any] = (decoder, model.projector)
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else platform.processor() or "cpu",
        "threads": None if on_gpu else torch.get_num_threads(),
        "torch": torch.__version__,
        "dtype": str(decoder.dtype).removeprefix("torch."),
        "attention": decoder.config._attn_implementation,
        "parameters": [sum(p.numel() for p in part.parameters()) for part in parts],
        "layers": config.num_hidden_layers,
        "rungs": list(model.config.rungs),
    }


def costs_file(machine: dict[str, Any]) -> Path:
    """Where the cost model of a machine is kept, in the folder of fetched models."""
    text = json.dumps(machine, sort_keys=True)
    digest = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
    return cache_folder() / "costs" / f"{digest}.json"


def load_costs(model: RefragModel) -> CostModel:
    """Reads what was measured for a model on this machine.

    Raises:
        BudgetError: If nothing was, or the file is damaged.
    """
    path = costs_file(machine_of(model))
    fix = "run `refrag bench calibrate` with this model, device and number of threads"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return CostModel(tuple(map(int, content["positions"])), tuple(content["seconds"]))
    except FileNotFoundError as error:
        msg = f"how much this machine reads in a time was never measured; {fix}"
        raise BudgetError(msg) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BudgetError(f"{path} cannot be read ({error}); {fix} again") from error
