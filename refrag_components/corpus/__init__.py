"""Text for training and evaluation, and the batches that are cut from it."""

from __future__ import annotations

from refrag_components.corpus.batch import (
    IGNORED,
    Batch,
    batch_embeddings,
    batch_logits,
    batch_vectors,
)
from refrag_components.corpus.cloze import ClozeForm
from refrag_components.corpus.conversations import lay_out_conversations
from refrag_components.corpus.questions import Conversation, ConversationSpec, QuestionSet
from refrag_components.corpus.tokenised import TokenisedCorpus, prepare_corpus, read_texts
from refrag_components.corpus.windows import WindowSpec, cut_windows

__all__ = [
    "IGNORED",
    "Batch",
    "ClozeForm",
    "Conversation",
    "ConversationSpec",
    "QuestionSet",
    "TokenisedCorpus",
    "WindowSpec",
    "batch_embeddings",
    "batch_logits",
    "batch_vectors",
    "cut_windows",
    "lay_out_conversations",
    "prepare_corpus",
    "read_texts",
]
