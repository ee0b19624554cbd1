"""Text for training and evaluation, and the batches that are cut from it."""

from __future__ import annotations

from refrag_components.corpus.batch import (
    IGNORED,
    Batch,
    batch_embeddings,
    batch_logits,
    batch_vectors,
    chunk_table,
    policy_vectors,
)
from refrag_components.corpus.cloze import ClozeForm
from refrag_components.corpus.conversations import KINDS, Kind, lay_out
from refrag_components.corpus.questions import Conversation, QuestionSet
from refrag_components.corpus.rows import Row, ShownPassage, build_batch
from refrag_components.corpus.tokenised import TokenisedCorpus, prepare_corpus, read_texts
from refrag_components.corpus.windows import WindowSpec, cut_windows

__all__ = [
    "IGNORED",
    "KINDS",
    "Batch",
    "ClozeForm",
    "Conversation",
    "Kind",
    "QuestionSet",
    "Row",
    "ShownPassage",
    "TokenisedCorpus",
    "WindowSpec",
    "batch_embeddings",
    "batch_logits",
    "batch_vectors",
    "build_batch",
    "chunk_table",
    "cut_windows",
    "lay_out",
    "policy_vectors",
    "prepare_corpus",
    "read_texts",
]
