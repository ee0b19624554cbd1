"""Cached properties without a lock, as they are in Python from 3.12 on."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, TypeVar

__all__ = ["cached_property"]

T = TypeVar("T")


def cached_property(compute: Callable[[Any], T]) -> functools.cached_property[T]:  # noqa: TID251
    """``functools.cached_property`` that no thread waits for.

    Until Python 3.12 one lock per property, for all objects together, is held while it is computed:
    requests wait for each other, and a child that is forked meanwhile waits for ever. Without
    it two threads may compute the same value, which is then kept twice, one after the other.
    """
    found = functools.cached_property(compute)  # noqa: TID251
    found.lock = nullcontext()  # type: ignore[attr-defined]
    return found
