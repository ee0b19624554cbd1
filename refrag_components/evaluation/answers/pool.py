"""Search among the passages that distractors come from."""

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

if TYPE_CHECKING:
    from refrag_components.modeling import RefragModel

__all__ = ["PassagePool", "read_pool"]


def read_pool(path: str | Path) -> list[str]:
    """Reads passages, one object with a ``text`` a line of ``.jsonl`` or ``.jsonl.zst``.

    Returns:
        Different texts in the file's order.

    Raises:
        EvaluationError: If the file is missing, empty or a line has no text.
    """
    try:
        with open_text(Path(path)) as lines:
            texts = [str(parse_json(line)["text"]) for line in lines]
    except (OSError, ValueError, KeyError, TypeError) as error:
        msg = f'cannot read passages from {path}, a JSON object with "text" a line: {error}'
        raise EvaluationError(msg) from error
    texts = [text for text in dict.fromkeys(texts) if text.strip()]
    if not texts:
        msg = f"{path} holds no passages"
        raise EvaluationError(msg)
    return texts


class PassagePool:
    """Passages with their search vectors.

    Args:
        model: Its retriever embeds passages and questions.
        texts: Passages, each once.
        cache: Folder that keeps the vectors from one run to the next; None keeps nothing.
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
        self._index: Any = None  # of all vectors, made at the first search

    def add(self, texts: Sequence[str]) -> None:
        """Adds the passages that are not there yet."""
        new = [text for text in dict.fromkeys(texts) if text not in self._row]
        if not new:
            return
        self._row.update({text: len(self.texts) + i for i, text in enumerate(new)})
        self.texts += new
        self.vectors = np.concatenate([self.vectors, self._model.embed_passages(new)])
        self._index = None

    def embed_questions(self, questions: Sequence[str]) -> np.ndarray:
        """Search vectors of questions, shape (n, d_enc), float32, length 1."""
        return self._model.embed_passages(questions)

    def search(self, questions: np.ndarray, count: int) -> list[list[str]]:
        """Finds the most similar passages.

        Args:
            questions: Search vectors of questions, shape (n, d_enc).
            count: Passages wanted per question; fewer come where the pool is smaller.

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

    def _load(self, cache: Path | None, progress: Callable[[int], None] | None) -> np.ndarray:
        if cache is None:
            return self._model.embed_passages(self.texts, progress=progress)
        digest = hashlib.blake2b(self._model.config.encoder.encode(), digest_size=8)
        for text in self.texts:
            digest.update(text.encode(errors="surrogatepass") + b"\0")
        path = cache / f"passages-{digest.hexdigest()}.npy"
        try:
            kept = np.load(path, allow_pickle=False)
            if len(kept) == len(self.texts):
                return np.asarray(kept, dtype=np.float32)
        except (OSError, ValueError):
            pass  # there is none, or a copy was cut short
        vectors = self._model.embed_passages(self.texts, progress=progress)
        with atomic_file(path) as scratch, scratch.open("wb") as file:
            np.save(file, vectors.astype(np.float16))
        return vectors
