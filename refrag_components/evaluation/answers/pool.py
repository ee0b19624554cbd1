"""Search in the passages that distractors come from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from refrag_components.atomic import atomic_file
from refrag_components.checking import parse_json
from refrag_components.corpus.tokenised import open_text
from refrag_components.exceptions import EvaluationError
from refrag_components.index.diversity import most_diverse

if TYPE_CHECKING:
    from refrag_components.modeling import RefragModel

__all__ = ["PassagePool", "read_pool"]


def read_pool(path: str | Path) -> list[str]:
    """Reads passages from ``.jsonl`` or ``.jsonl.zst``, one object with a ``text`` per line.

    Returns:
        Distinct texts in the file's order.

    Raises:
        EvaluationError: If the file is missing, empty or a line has no text.
    """
    try:
        with open_text(Path(path)) as lines:
            texts = [str(parse_json(line)["text"]) for line in lines]
    except (OSError, ValueError, KeyError, TypeError) as error:
        msg = f'cannot read passages from {path}, one JSON object with "text" per line: {error}'
        raise EvaluationError(msg) from error
    texts = [text for text in dict.fromkeys(texts) if text.strip()]
    if not texts:
        msg = f"{path} contains no passages; give a file with at least one"
        raise EvaluationError(msg)
    return texts


class PassagePool:
    """Passages with their search vectors.

    Args:
        model: Model whose retriever embeds passages and questions.
        texts: Distinct passages.
        cache: Folder that keeps the vectors between runs; None for none.
        progress: Called with the number of passages embedded after each batch.
    """

    def __init__(
        self,
        model: RefragModel,
        texts: Sequence[str],
        *,
        cache: Path | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        self._model = model
        self.texts = list(texts)
        self._row = {text: i for i, text in enumerate(self.texts)}
        self.vectors = self._load(cache, progress)
        self._index: Any = None  # of all vectors, built by the first search

    def add(self, texts: Sequence[str]) -> None:
        """Adds the passages that the pool does not contain yet."""
        new = [text for text in dict.fromkeys(texts) if text not in self._row]
        if not new:
            return
        self._row.update({text: len(self.texts) + i for i, text in enumerate(new)})
        self.texts += new
        self.vectors = np.concatenate([self.vectors, self._model.search_vectors(new)])
        self._index = None

    def embed_questions(self, questions: Sequence[str]) -> np.ndarray:
        """Search vectors of questions, shape (n, d_enc), float32, length 1."""
        return self._model.search_vectors(questions)

    def search(self, questions: np.ndarray, count: int) -> list[list[str]]:
        """Finds the most similar passages.

        Args:
            questions: Search vectors of questions, shape (n, d_enc).
            count: Passages per question; fewer if the pool is smaller.

        Returns:
            Passages of each question, best first.
        """
        import faiss

        if self._index is None:
            self._index = faiss.IndexFlatIP(self.vectors.shape[1])
            self._index.add(self.vectors)
        _, found = self._index.search(questions, min(count, len(self.texts)))
        return [[self.texts[i] for i in row] for row in found]

    def similarity(self, question: np.ndarray, passages: Sequence[str]) -> np.ndarray:
        """Cosines between one question's search vector and passages of the pool."""
        rows: np.ndarray = self.vectors[[self._row[text] for text in passages]]
        return rows @ question

    def differing(
        self, question: np.ndarray, passages: Sequence[str], count: int, diversity: float
    ) -> list[str]:
        """Picks passages of the pool that answer and differ, see ``most_diverse``."""
        rows = self.vectors[[self._row[text] for text in passages]]
        return [passages[i] for i in most_diverse(question, rows, count, diversity)]

    def _load(self, cache: Path | None, progress: Callable[[int], None] | None) -> np.ndarray:
        if cache is None:
            return self._model.search_vectors(self.texts, progress=progress)
        digest = hashlib.blake2b(self._model.config.encoder.encode(), digest_size=8)
        for text in self.texts:
            digest.update(text.encode(errors="surrogatepass") + b"\0")
        path = cache / f"passages-{digest.hexdigest()}.npy"
        try:
            cached = np.load(path, allow_pickle=False)
            if len(cached) == len(self.texts):
                return np.asarray(cached, dtype=np.float32)
        except (OSError, ValueError):
            pass  # there is none, or it is truncated
        vectors = self._model.search_vectors(self.texts, progress=progress)
        with atomic_file(path) as scratch, scratch.open("wb") as file:
            np.save(file, vectors.astype(np.float16))
        return vectors
