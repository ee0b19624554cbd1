"""Training text, tokenised once for the decoder and for the encoder."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from refrag_components.atomic import atomic_folder
from refrag_components.checking import parse_json
from refrag_components.exceptions import TrainingError
from refrag_components.modeling.chunk_encoder import covering_tokens
from refrag_components.text.tokenization import content_tokenizer, encodable

if TYPE_CHECKING:
    from refrag_components.modeling import RefragModel

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


@dataclass(frozen=True, eq=False)
class TokenisedCorpus:
    """Documents in one row of decoder tokens, each followed by the document separator.

    Attributes:
        tokens: Decoder token ids, shape (n,).
        pieces: Encoder token ids of the same text, without special tokens, shape (m,).
        steps: How far ``covering`` moves on at each token, shape (n,), uint8.
        covering: Index into ``pieces`` of the piece over each token's last character, shape (n,).
    """

    tokens: np.ndarray
    pieces: np.ndarray
    steps: np.ndarray
    covering: np.ndarray

    @classmethod
    def load(cls, folder: str | Path) -> TokenisedCorpus:
        """Opens what ``prepare_corpus`` wrote; tokens stay on disk.

        Raises:
            TrainingError: If the folder holds no tokenised corpus.
        """
        try:
            tokens, pieces, steps = (
                np.load(Path(folder) / f"{name}.npy", mmap_mode="r", allow_pickle=False)
                for name in ("tokens", "pieces", "steps")
            )
            shapes = {array.ndim for array in (tokens, pieces, steps)}
            types = (tokens.dtype.kind, pieces.dtype.kind, steps.dtype)
            if shapes != {1} or types != ("u", "u", np.uint8) or len(tokens) != len(steps):
                raise ValueError("its arrays do not belong together")
        except (OSError, SyntaxError, TypeError, ValueError) as error:
            msg = f"{folder} holds no tokenised text ({error}); make it with `refrag train prepare`"
            raise TrainingError(msg) from error
        covering = np.maximum(np.cumsum(steps, dtype=np.int32) - 1, 0)
        return cls(tokens, pieces, steps, covering)

    def __len__(self) -> int:
        """Number of decoder tokens."""
        return len(self.tokens)


def prepare_corpus(
    texts: Iterable[str],
    model: RefragModel,
    folder: str | Path,
    *,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Tokenises documents for training and writes them as three arrays.

    The folder appears at once when all is written.

    Args:
        texts: Documents.
        model: Gives both tokenizers and the document separator.
        folder: Where to write; must not exist.
        progress: Called with the number of documents done after each batch.

    Returns:
        Number of decoder tokens written, separators among them.

    Raises:
        TrainingError: If the folder exists or there is no text.
    """
    with new_folder(folder) as scratch:
        lengths = write_corpus(texts, model, scratch, progress=progress)
    return int(lengths.sum() + np.count_nonzero(lengths))


def write_corpus(
    texts: Iterable[str],
    model: RefragModel,
    folder: Path,
    *,
    progress: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Does the work of ``prepare_corpus`` in a folder that exists.

    Returns:
        Decoder tokens of each document without its separator, shape (documents,); 0 for one that
        is left out, without a separator, because a tokenizer finds nothing in it.

    Raises:
        TrainingError: If there is no text.
    """
    pieces_of = content_tokenizer(model.encoder.tokenizer)
    tokens, pieces, steps = [], [], []
    lengths: list[int] = []
    token_type = smallest_type(len(model.tokenizer))
    piece_type = smallest_type(len(model.encoder.tokenizer))
    documents = map(encodable, texts)
    carry = 1  # the first token points at piece 0, which cumsum(steps) - 1 must give
    while batch := list(islice(documents, _BATCH)):
        encodings = pieces_of.encode_batch(batch, add_special_tokens=False)
        for passage, encoding in zip(model.chunker.chunk(batch), encodings, strict=True):
            if not len(passage.token_ids) or not encoding.ids:
                lengths.append(0)
                continue
            lengths.append(len(passage.token_ids))
            starts = np.asarray(encoding.offsets, dtype=np.int64)[:, 0]
            covering = np.maximum(covering_tokens(passage.offsets[:, 1], starts), 0)
            moved = np.diff(covering, prepend=0)
            moved[0] += carry
            carry = len(encoding.ids) - int(covering[-1])
            # A step over 255 pieces would need one token that covers them all.
            steps.append(np.append(np.minimum(moved, 255), 0).astype(np.uint8))
            tokens.append(np.append(passage.token_ids, model.first_token_id).astype(token_type))
            pieces.append(np.asarray(encoding.ids, dtype=piece_type))
        if progress is not None:
            progress(len(batch))
    if not tokens:
        msg = "there is no text to train on"
        raise TrainingError(msg)
    for name, arrays in (("tokens", tokens), ("pieces", pieces), ("steps", steps)):
        np.save(folder / f"{name}.npy", np.concatenate(arrays))
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
