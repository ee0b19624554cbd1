"""How much of the context may enter the decoder, and what becomes of the rest."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from numbers import Integral, Real
from typing import ClassVar, Literal, TypeAlias, TypeGuard, get_args

from refrag_components.exceptions import BudgetError, shown

__all__ = [
    "BUDGETS",
    "DEFAULT_REST",
    "RESTS",
    "Budget",
    "FractionBudget",
    "Milliseconds",
    "PositionBudget",
    "Rest",
    "parse_budget",
    "parse_rest",
]

#: What becomes of the chunks that do not expand.
Rest = Literal["compress", "drop"]

RESTS: tuple[Rest, ...] = get_args(Rest)

#: Text that a policy chooses is worth more than embeddings in as many positions (docs/results.md).
DEFAULT_REST: Rest = "drop"


@dataclass(frozen=True)
class FractionBudget:
    """A fraction of the chunks expands.

    Attributes:
        fraction: p in 0..1; round(p n) of n chunks expand.

    Raises:
        BudgetError: If it is not in 0..1.
    """

    fraction: float

    #: What a user writes for it, with an example.
    meaning: ClassVar[str] = "a fraction of the chunks (a number in 0..1, such as 0.25)"

    def __post_init__(self) -> None:
        if not (_is_real(self.fraction) and 0.0 <= self.fraction <= 1.0):
            raise BudgetError(_refusal(self.fraction))

    @property
    def number(self) -> float:
        """What a user writes for it; ``parse_budget`` makes an equal budget of it."""
        return self.fraction

    def count(self, n_chunks: int) -> int:
        """How many of the chunks expand: the fraction, rounded to whole chunks."""
        return round(self.fraction * n_chunks)


@dataclass(frozen=True)
class PositionBudget:
    """A number of decoder positions for all passages together.

    They are filled from the top: the best chunks as text, then passages on the finest rung, on
    coarser ones, and what does not fit is dropped (``refrag_components.generation.choosing``).

    Attributes:
        positions: At least 1. A chunk embedding takes one, an expanded chunk as many as it has
            tokens.

    Raises:
        BudgetError: If it is less than 1.
    """

    positions: int

    #: As for ``FractionBudget``.
    meaning: ClassVar[str] = (
        "a number of decoder positions for all passages (an int of at least 2, such as 512)"
    )

    def __post_init__(self) -> None:
        if not (_is_whole(self.positions) and self.positions >= 1):
            raise BudgetError(_refusal(self.positions))

    @property
    def number(self) -> int:
        """As for ``FractionBudget``."""
        return self.positions


@dataclass(frozen=True)
class Milliseconds:
    """A time from the request to the first token, for a request that has the machine to itself.

    It becomes a number of positions, as many as this machine was measured to read in what is left
    of the time once the policy has scored the chunks (``refrag bench calibrate`` measures it).

    Attributes:
        milliseconds: Above 0.

    Raises:
        BudgetError: If it is not a finite number above 0.
    """

    milliseconds: float

    #: As for ``FractionBudget``.
    meaning: ClassVar[str] = 'a time to first token (such as "40ms" or Milliseconds(40))'

    def __post_init__(self) -> None:
        value = self.milliseconds
        if not (_is_real(value) and math.isfinite(value) and value > 0):
            raise BudgetError(_refusal(value))

    @property
    def number(self) -> str:
        """As for ``FractionBudget``."""
        return f"{self.milliseconds:.15g}ms"


Budget: TypeAlias = FractionBudget | PositionBudget | Milliseconds

#: The kinds of budget.
BUDGETS: tuple[type[Budget], ...] = get_args(Budget)

_MILLISECONDS = re.compile(r"(\d+(?:\.\d+)?(?:e[+-]?\d+)?) ?ms", re.ASCII)


def parse_budget(value: float | str | Budget) -> Budget:
    """Reads what a user gives as a budget.

    Args:
        value: 0 to 1 is a fraction of the chunks (0 and 1 may be ints), an int of at least 2
            is a number of decoder positions for all passages together, "40ms" a time to first
            token; a budget is returned as it is.

    Raises:
        BudgetError: If it is none of these: NaN, negative, a float beyond 1, a bool.
    """
    if isinstance(value, BUDGETS):
        return value
    if isinstance(value, str) and (found := _MILLISECONDS.fullmatch(value)):
        return Milliseconds(float(found[1]))
    if _is_whole(value) and value >= 2:
        return PositionBudget(int(value))
    if _is_real(value) and 0.0 <= value <= 1.0:
        return FractionBudget(float(value))
    raise BudgetError(_refusal(value))


def parse_rest(value: object) -> Rest:
    """Reads what a user gives as the rest.

    Raises:
        BudgetError: If it is none of ``RESTS``.
    """
    for rest in RESTS:
        if isinstance(value, str) and value == rest:
            return rest
    raise BudgetError(f"rest {shown(value)} is not {' or '.join(map(repr, RESTS))}")


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_real(value: object) -> TypeGuard[float]:
    return isinstance(value, Real) and not isinstance(value, bool)


def _refusal(value: object) -> str:
    return f"budget {shown(value)} is not {' or '.join(kind.meaning for kind in BUDGETS)}"
