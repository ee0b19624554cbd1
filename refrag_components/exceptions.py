"""Every error that the library raises on purpose; each message names the fix."""

from __future__ import annotations

__all__ = [
    "AnswerTimeoutError",
    "BudgetError",
    "ContextWindowError",
    "CorruptVectorsError",
    "DocumentError",
    "DownloadError",
    "EmptyInputError",
    "EngineError",
    "EvaluationError",
    "FingerprintMismatchError",
    "IndexFolderError",
    "InvalidVectorsError",
    "MissingExtraError",
    "RefragError",
    "SamplingError",
    "ServerError",
    "StoreError",
    "StructuredOutputError",
    "ToolCallingError",
    "TrainingError",
    "UnknownModelError",
    "UnknownPolicyError",
    "shown",
]


def shown(value: object) -> str:
    """A value as an error message shows it: short, and whatever it is."""
    try:
        text = repr(value)
    except Exception:  # numbers of thousands of digits, and objects with a broken __repr__
        text = f"a {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:80]}..."


class RefragError(Exception):
    """Base class: catch this to catch everything that the library raises on purpose."""


class AnswerTimeoutError(RefragError, TimeoutError):
    """An answer that was not complete when its time was up."""

    def __init__(
        self,
        message: str = "the answer was not complete in time; raise timeout, or lower max_tokens",
    ) -> None:
        super().__init__(message)


class BudgetError(RefragError, ValueError):
    """A budget that is neither a fraction in [0, 1] nor a workable number of positions."""


class ContextWindowError(RefragError, ValueError):
    """A prompt that does not fit the decoder's window even when it is compressed."""


class CorruptVectorsError(RefragError, ValueError):
    """Stored bytes that are truncated, altered or not chunk vectors at all."""


class DocumentError(RefragError, ValueError):
    """A file or folder that cannot be indexed: missing, binary, too large, unreadable."""


class DownloadError(RefragError, RuntimeError):
    """Base weights that could not be fetched or whose checksum is wrong."""


class EmptyInputError(RefragError, ValueError):
    """Nothing to work on: an empty question, an empty prompt, no documents."""


class EngineError(RefragError, RuntimeError):
    """An engine that does not exist, cannot be started, or failed while it answered."""


class EvaluationError(RefragError, ValueError):
    """Questions, methods or results that cannot be evaluated together."""


class FingerprintMismatchError(RefragError, ValueError):
    """Chunk vectors or an index made by another encoder, chunk size or tokenizer."""


class IndexFolderError(RefragError, ValueError):
    """A folder that does not hold a usable index."""


class InvalidVectorsError(RefragError, ValueError):
    """Chunk vectors with NaN, infinite values or the wrong shape."""


class MissingExtraError(RefragError, ImportError):
    """A part of the library whose optional packages are not installed."""


class SamplingError(RefragError, ValueError):
    """A sampling parameter outside its range."""


class ServerError(RefragError, RuntimeError):
    """A server that cannot be reached, or that refused or could not answer a request."""


class StoreError(RefragError, OSError):
    """A store that cannot be opened, read or written."""


class StructuredOutputError(RefragError, ValueError):
    """A JSON schema that cannot be enforced, or an answer cut off before its JSON was complete."""


class ToolCallingError(RefragError, ValueError):
    """A decoder that cannot be told about tools, or a choice of a tool that does not exist."""


class TrainingError(RefragError, ValueError):
    """A training recipe or data folder that cannot be used."""


class UnknownModelError(RefragError, ValueError):
    """A name or folder that does not lead to a usable model."""


class UnknownPolicyError(RefragError, ValueError):
    """A policy name that does not exist, or a learned policy that a checkpoint does not carry."""
