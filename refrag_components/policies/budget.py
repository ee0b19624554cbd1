"""How much of the context may enter the decoder as tokens."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING, ClassVar

from refrag_components.exceptions import BudgetError, shown

if TYPE_CHECKING:  # the command line shows what budgets there are, and numpy takes time
    import numpy as np

__all__ = ["BUDGETS", "Budget", "FractionBudget", "PositionBudget", "parse_budget"]


class Budget(ABC):
    """Says how many chunks may expand; ``parse_budget`` makes one from a user's number."""

    #: What a user writes for it, with an example.
    meaning: ClassVar[str]

    @property
    @abstractmethod
    def number(self) -> float | int:
        """What a user writes for it; ``parse_budget`` makes an equal budget of it."""

    @abstractmethod
    def count(self, lengths: np.ndarray) -> int:
        """How many chunks may expand.

        Args:
            lengths: Tokens of each chunk, in the order in which they expand, shape (n_chunks,).

        Returns:
            0 to n_chunks.

        Raises:
            BudgetError: If it cannot even hold the chunks compressed.
        """


@dataclass(frozen=True)
class FractionBudget(Budget):
    """A fraction of the chunks.

    Attributes:
        fraction: p in 0..1; round(p n) of n chunks expand.

    Raises:
        BudgetError: If it is not in 0..1.
    """

    fraction: float

    meaning: ClassVar[str] = "a fraction of the chunks (a number in 0..1, such as 0.25)"

    def __post_init__(self) -> None:
        if not (_is_real(self.fraction) and 0.0 <= self.fraction <= 1.0):
            raise BudgetError(_refusal(self.fraction))

    @property
    def number(self) -> float:
        """The fraction."""
        return self.fraction

    def count(self, lengths: np.ndarray) -> int:
        """The fraction, rounded to whole chunks."""
        return round(self.fraction * len(lengths))


@dataclass(frozen=True)
class PositionBudget(Budget):
    """A number of decoder positions for all passages together.

    Attributes:
        positions: At least 1. A compressed chunk takes one, an expanded one as many as it has
            tokens.

    Raises:
        BudgetError: If it is less than 1.
    """

    positions: int

    meaning: ClassVar[str] = (
        "a number of decoder positions for all passages (an int of at least 2, such as 512)"
    )

    def __post_init__(self) -> None:
        if not (_is_whole(self.positions) and self.positions >= 1):
            raise BudgetError(_refusal(self.positions))

    @property
    def number(self) -> int:
        """The positions."""
        return self.positions

    def count(self, lengths: np.ndarray) -> int:
        """As many as fit together with those that stay compressed."""
        spare = self.positions - len(lengths)
        if spare < 0:
            msg = (
                f"a budget of {self.positions} positions cannot hold {len(lengths)} chunks, which "
                "take one position each; raise the budget, retrieve fewer passages, or give a "
                "fraction"
            )
            raise BudgetError(msg)
        wanted = (lengths - 1).cumsum()
        if not len(wanted) or spare >= wanted[-1]:  # it may be too large for an array
            return len(wanted)
        return int(wanted.searchsorted(spare, side="right"))


#: The kinds of budget.
BUDGETS: tuple[type[Budget], ...] = (FractionBudget, PositionBudget)


def parse_budget(value: float | Budget) -> Budget:
    """Reads what a user gives as a budget.

    Args:
        value: 0 to 1 is a fraction of the chunks (0 and 1 may be ints), an int of at least 2
            is a number of decoder positions for all passages together; a budget is returned as it
            is.

    Raises:
        BudgetError: If it is none of these: NaN, negative, a float beyond 1, a bool, a string.
    """
    if isinstance(value, Budget):
        return value
    if _is_whole(value) and value >= 2:
        return PositionBudget(int(value))
    if _is_real(value) and 0.0 <= value <= 1.0:
        return FractionBudget(float(value))
    raise BudgetError(_refusal(value))


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_real(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _refusal(value: object) -> str:
    return f"budget {shown(value)} is not {' or '.join(kind.meaning for kind in BUDGETS)}"
