"""What an optimiser remembers, in a file that holds plain data alone."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.optim import Optimizer

__all__ = ["load_optimizer", "save_optimizer"]

_GROUPS = "groups"


def save_optimizer(optimizer: Optimizer, path: Path) -> None:
    """Writes moments as tensors and the settings of its groups as JSON in the file's metadata.

    Args:
        optimizer: Whose state holds tensors alone.
        path: The file, in safetensors format.

    Raises:
        OSError: If it cannot be written.
    """
    content = optimizer.state_dict()
    moments = {
        f"{index}.{key}": value
        for index, moments_of in content["state"].items()
        for key, value in moments_of.items()
    }
    save_file(moments, path, metadata={_GROUPS: json.dumps(content["param_groups"])})


def load_optimizer(optimizer: Optimizer, path: Path) -> None:
    """Gives an optimiser what ``save_optimizer`` wrote.

    Args:
        optimizer: Of the same kind, over the same parameters.
        path: The file.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it belongs to another number of parameters.
    """
    moments: dict[int, dict[str, Tensor]] = {}
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 -- the file is not a dict
            index, key = name.split(".")
            moments.setdefault(int(index), {})[key] = file.get_tensor(name)
        groups = json.loads(file.metadata()[_GROUPS])
    optimizer.load_state_dict({"state": moments, "param_groups": groups})
