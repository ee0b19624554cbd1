"""Training text, tokenised once for the decoder."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from refrag_components.atomic import atomic_folder
from refrag_components.checking import parse_json
from refrag_components.exceptions import TrainingError
from refrag_components.text.tokenization import (
    content_tokenizer,
    encodable,
    separator_id,
    tokenizer_digest,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "TokenisedCorpus",
    "new_folder",
    "open_text",
    "prepare_corpus",
    "read_texts",
    "smallest_type",
    "write_corpus",
]

_BATCH = 512
_TOKENS = "tokens.bin"
_META = "corpus.json"


class _Meta(BaseModel):
    """What a folder of tokenised text says of itself.

    Attributes:
        format: Version of the folder's format.
        tokens: Number of tokens in it.
        bits: Bits per token id.
        tokenizer: Digest of the tokenizer that cut the text.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    format: int = Field(default=2, ge=2, le=2)
    tokens: int = Field(ge=1)
    bits: int = Field(multiple_of=16, ge=16, le=32)
    tokenizer: str


@dataclass(frozen=True, eq=False)
class TokenisedCorpus:
    """Documents in one row of decoder tokens, each followed by the document separator.

    Attributes:
        tokens: Decoder token ids, shape (n,), unsigned; on disk if the corpus was loaded.
        tokenizer: Digest of the tokenizer that cut the text, hex.
    """

    tokens: np.ndarray
    tokenizer: str

    @classmethod
    def load(cls, folder: str | Path) -> TokenisedCorpus:
        """Opens what ``prepare_corpus`` wrote; tokens stay on disk.

        Raises:
            TrainingError: If the folder holds no tokenised corpus, or one of another release.
        """
        again = "prepare it again with `refrag train prepare`"
        if (Path(folder) / "pieces.npy").exists():
            raise TrainingError(f"{folder} was prepared by an earlier release; {again}")
        try:
            text = (Path(folder) / _META).read_text(encoding="utf-8")
            meta = _Meta.model_validate_json(text)
            kind = np.uint16 if meta.bits == 16 else np.uint32
            tokens = np.memmap(Path(folder) / _TOKENS, dtype=kind, mode="r")
        except (OSError, ValueError) as error:
            raise TrainingError(f"{folder} holds no tokenised text ({error}); {again}") from error
        if len(tokens) != meta.tokens:
            msg = f"{folder} has {len(tokens)} tokens where {meta.tokens} were written; {again}"
            raise TrainingError(msg)
        return cls(tokens, meta.tokenizer)

    def check(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Checks that the text was cut by this tokenizer.

        Raises:
            TrainingError: If it was not.
        """
        if self.tokenizer != tokenizer_digest(tokenizer).hex():
            msg = (
                "the text was prepared for another decoder's tokenizer; prepare it again with "
                "`refrag train prepare` and the recipe that you train with"
            )
            raise TrainingError(msg)

    def __len__(self) -> int:
        """Number of decoder tokens."""
        return len(self.tokens)


def prepare_corpus(
    texts: Iterable[str],
    tokenizer: PreTrainedTokenizerBase,
    folder: str | Path,
    *,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Tokenises documents for training.

    The folder appears in one step when all is written.

    Args:
        texts: Documents.
        tokenizer: The decoder's fast tokenizer.
        folder: Where to write; must not exist.
        progress: Called with the number of documents done after each batch.

    Returns:
        Number of decoder tokens written, separators among them.

    Raises:
        TrainingError: If the folder exists or there is no text.
    """
    with new_folder(folder) as scratch:
        lengths = write_corpus(texts, tokenizer, scratch, progress=progress)
    return int(lengths.sum() + np.count_nonzero(lengths))


def write_corpus(
    texts: Iterable[str],
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    *,
    progress: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Does the work of ``prepare_corpus`` in a folder that exists.

    Returns:
        Decoder tokens of each document without its separator, shape (documents,); 0 for one that
        is left out, without a separator, because the tokenizer finds nothing in it.

    Raises:
        TrainingError: If there is no text.
    """
    cut, separator = content_tokenizer(tokenizer), separator_id(tokenizer)
    kind = smallest_type(len(tokenizer))
    lengths: list[int] = []
    written = 0
    documents = map(encodable, texts)
    with (folder / _TOKENS).open("wb") as file:
        while batch := list(islice(documents, _BATCH)):
            for encoding in cut.encode_batch_fast(batch, add_special_tokens=False):
                ids = encoding.ids
                lengths.append(len(ids))
                if ids:
                    file.write(np.array([*ids, separator], dtype=kind).tobytes())
                    written += len(ids) + 1
            if progress is not None:
                progress(len(batch))
    if not written:
        msg = "there is no text to train on"
        raise TrainingError(msg)
    digest = tokenizer_digest(tokenizer).hex()
    meta = _Meta(tokens=written, bits=np.dtype(kind).itemsize * 8, tokenizer=digest)
    (folder / _META).write_text(meta.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return np.asarray(lengths, dtype=np.int64)


@contextmanager
def new_folder(folder: str | Path) -> Iterator[Path]:
    """Gives a folder to write to, which moves to its place once all is written.

    Raises:
        TrainingError: If the place is taken.
    """
    target = Path(folder)
    if target.exists():
        msg = f"{target} exists; remove it or choose another folder"
        raise TrainingError(msg)
    with atomic_folder(target) as scratch:
        yield scratch


def read_texts(paths: Iterable[str | Path]) -> Iterator[str]:
    """Reads documents: each line's ``text`` of ``.jsonl`` and ``.jsonl.zst``, or a whole file.

    Raises:
        TrainingError: If a file is missing or a line has no text.
    """
    for path in map(Path, paths):
        if not path.is_file():
            msg = f"there is no file {path}"
            raise TrainingError(msg)
        try:
            if path.name.endswith((".jsonl", ".jsonl.zst")):
                with open_text(path) as lines:
                    for number, line in enumerate(lines, start=1):
                        yield _text_of(line, path, number)
            else:
                yield path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise TrainingError(f"{path} cannot be read: {error}") from error


@contextmanager
def open_text(path: Path) -> Iterator[IO[str]]:
    """Opens a text file, decompressing ``.zst`` on the way.

    Raises:
        OSError: If it cannot be read, in the block too.
        UnicodeDecodeError: If it is not UTF-8, in the block too.
    """
    if path.suffix != ".zst":
        with path.open(encoding="utf-8") as file:
            yield file
        return
    import zstandard

    try:
        with io.TextIOWrapper(zstandard.open(path, "rb"), encoding="utf-8") as file:
            yield file
    except zstandard.ZstdError as error:
        raise OSError(f"{path} is damaged: {error}") from error


def _text_of(line: str, path: Path, number: int) -> str:
    try:
        text = parse_json(line)["text"]
        if not isinstance(text, str):
            raise TypeError(text)
    except (KeyError, TypeError, ValueError) as error:
        msg = f'{path}, line {number}: expected a JSON object with a "text"'
        raise TrainingError(msg) from error
    return text


def smallest_type(size: int) -> type[np.unsignedinteger]:
    """The smaller of uint16 and uint32 that holds the ids 0..size - 1."""
    return np.uint16 if size <= 1 << 16 else np.uint32
