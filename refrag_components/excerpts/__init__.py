"""Excerpts: the text that a policy would expand, for models that read text alone."""

from __future__ import annotations

from refrag_components.excerpts.excerpter import Excerpter
from refrag_components.excerpts.pieces import UNITS, Excerpt, Unit
from refrag_components.excerpts.settings import ExcerptSettings

__all__ = ["UNITS", "Excerpt", "ExcerptSettings", "Excerpter", "Unit"]
