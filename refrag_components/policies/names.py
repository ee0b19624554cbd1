"""The names of the library's policies, without their code: PyTorch takes seconds to load."""

from __future__ import annotations

from pkgutil import iter_modules

from refrag_components.policies import named

__all__ = ["DEFAULT_POLICY", "POLICIES", "module_of"]

#: The policy of models that name none: ``learned-query`` if the checkpoint carries it, else
#: ``late-interaction``.
DEFAULT_POLICY = "auto"

#: All others: each is a module of ``refrag_components.policies.named``.
POLICIES: tuple[str, ...] = tuple(
    sorted(module.name.replace("_", "-") for module in iter_modules(named.__path__))
)


def module_of(name: str) -> str:
    """The module with the policy of that name."""
    return f"{named.__name__}.{name.replace('-', '_')}"
