"""What each codec of chunk vectors costs in bytes, in log-perplexity and in answers.

    refrag train prepare TEXT... --recipe RECIPE --out CORPUS
    python benchmarks/codecs.py CORPUS QUESTIONS --out results.json

CORPUS is held-out text, QUESTIONS a .jsonl or .jsonl.zst file as `refrag eval qa` reads it. Every
chunk is compressed (p = 0). Log-perplexity of text is measured at each given k, answers at the
checkpoint's default k. Chunk vectors are packed and unpacked by the codec and nothing else changes,
so differences are paired: by window, by question.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from refrag_components.corpus import TokenisedCorpus, WindowSpec
from refrag_components.corpus.question_files import Question, load_questions
from refrag_components.evaluation.answers.contexts import Setting, draw_contexts
from refrag_components.evaluation.answers.encoded import EncodedPassages
from refrag_components.evaluation.answers.pool import PassagePool
from refrag_components.evaluation.answers.prompts import PromptBuilder
from refrag_components.evaluation.answers.squad import score
from refrag_components.evaluation.continuation.recovery import window_losses, window_starts
from refrag_components.evaluation.decoding import decode
from refrag_components.evaluation.methods import COMPRESSED
from refrag_components.evaluation.statistics import interval, resample
from refrag_components.modeling import RefragModel
from refrag_components.text.chunking import Chunker
from refrag_components.text.tokenization import content_tokenizer
from refrag_components.vectors import ChunkVectors, Codec
from refrag_components.vectors.codecs import CODECS

PASSAGE_TOKENS = 256
CONTEXT_TOKENS = 512
OUTPUT_TOKENS = 64
ANSWER_TOKENS = 32


def round_trip(vectors: np.ndarray, codec: Codec) -> np.ndarray:
    """Chunk vectors as a store returns them; any leading shape, float32."""
    rows = np.ascontiguousarray(vectors.reshape(-1, vectors.shape[-1]), dtype=np.float32)
    read = CODECS[codec].unpack(CODECS[codec].pack(rows), rows.shape)
    return np.array(read, np.float32).reshape(vectors.shape)


def sizes(model: RefragModel, text: str) -> dict[int, dict[Codec, float]]:
    """Bytes per token of a serialised passage of 256 tokens, by k and codec."""
    result = {}
    for k in (4, 8, 16):
        (passage,) = Chunker(model.tokenizer, k).chunk([text])
        value = ChunkVectors(
            model.encode_chunks([passage])[0][: PASSAGE_TOKENS // k],
            passage.token_ids[:PASSAGE_TOKENS],
            k,
            model.fingerprint,
        )
        result[k] = {codec: len(value.to_bytes(codec)) / PASSAGE_TOKENS for codec in CODECS}
    return result


def errors(vectors: np.ndarray, codec: Codec) -> dict[str, float]:
    """Errors of decoded chunk vectors."""
    exact, read = vectors.astype(np.float64), round_trip(vectors, codec).astype(np.float64)
    lengths = np.linalg.norm(exact, axis=1)
    cosines = (exact * read).sum(axis=1) / (lengths * np.linalg.norm(read, axis=1))
    relative = np.linalg.norm(exact - read, axis=1) / lengths
    return {
        "cosine_error_mean": max(float(1 - cosines.mean()), 0.0),
        "cosine_error_max": max(float(1 - cosines.min()), 0.0),
        "relative_error": float(np.sqrt((relative**2).mean())),
    }


@contextmanager
def stored_as(model: RefragModel, codec: Codec) -> Iterator[None]:
    """Passes everything that the encoder returns through a codec."""
    handle = model.encoder.register_forward_hook(
        lambda _, __, output: torch.from_numpy(round_trip(output.numpy(), codec))
    )
    try:
        yield
    finally:
        handle.remove()


def log_ppl(model: RefragModel, corpus: TokenisedCorpus, k: int, windows: int) -> np.ndarray:
    """Mean log-perplexity of each window's continuation in nats, shape (windows, codecs)."""
    starts = window_starts(corpus, CONTEXT_TOKENS, OUTPUT_TOKENS, windows)
    spec = WindowSpec(
        passages=CONTEXT_TOKENS // PASSAGE_TOKENS,
        passage_tokens=PASSAGE_TOKENS,
        output_tokens=OUTPUT_TOKENS,
    )
    columns = []
    for codec in CODECS:
        with stored_as(model, codec):
            columns.append(window_losses(model, corpus, spec, starts, k)[:, 0])
        say(f"k={k}, log-ppl, {codec}: {columns[-1].mean():.4f}")
    return np.stack(columns, axis=1)


def answers(
    model: RefragModel, questions: Sequence[Question]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """F1 of each question and log-ppl of its answer, (questions, codecs); all chunk vectors."""
    texts = list(dict.fromkeys(t for q in questions for t in (*q.needed, *q.others)))
    (contexts,) = draw_contexts(questions, [Setting("given", 5)], PassagePool(model, texts))
    builder = PromptBuilder(EncodedPassages(model), max_new_tokens=ANSWER_TOKENS)
    rows = [COMPRESSED.row(prompt) for prompt in builder.build(contexts).prompts]
    used = list(dict.fromkeys(text for context in contexts for text in context.passages))
    passages = encode(model, used)
    f1, answer_log_ppl = [], []
    for codec in CODECS:
        read = [ChunkVectors.from_bytes(passage.to_bytes(codec)) for passage in passages]
        with torch.inference_mode():
            table = model.chunk_embeddings(read)
        outputs = decode(model, table, rows, max_new_tokens=ANSWER_TOKENS)
        written = content_tokenizer(model.tokenizer).decode_batch(
            [list(output.token_ids) for output in outputs], skip_special_tokens=True
        )
        marks = [
            score(text.strip(), q.answers)[1] for text, q in zip(written, questions, strict=True)
        ]
        f1.append(marks)
        answer_log_ppl.append([output.log_ppl for output in outputs])
        say(f"k={model.config.chunk_size}, F1, {codec}: {100 * np.mean(marks):.2f}")
    vectors = np.concatenate([passage.vectors for passage in passages])
    return np.array(f1).T, np.array(answer_log_ppl).T, vectors


def encode(model: RefragModel, texts: Sequence[str]) -> list[ChunkVectors]:
    """Encodes passages without the rounding to float16 of ``encode_passages``."""
    chunked = model.chunker.chunk(texts)
    return [
        ChunkVectors(rows, passage.token_ids, passage.chunk_size, model.fingerprint)
        for passage, rows in zip(chunked, model.encode_chunks(chunked), strict=True)
    ]


def differences(values: np.ndarray) -> list[dict[str, Any]]:
    """Mean of each column, and its paired difference to the first with a 95% interval."""
    means, draws = values.mean(axis=0), resample([values])
    return [
        {
            "mean": float(means[i]),
            "difference": float(means[i] - means[0]),
            "interval": list(interval(draws[:, i] - draws[:, 0])),
        }
        for i in range(len(means))
    ]


def say(line: str) -> None:
    """Prints a line, preceded by the processor time used so far."""
    print(f"{time.process_time():7.0f} s  {line}", flush=True)


def main() -> None:
    """Measures all codecs and writes one JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("questions", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="refrag-smollm2-135m")
    parser.add_argument("--chunk-size", type=int, nargs="*", default=[4, 8])
    parser.add_argument("--windows", type=int, default=128)
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    corpus = TokenisedCorpus.load(arguments.corpus)
    questions = load_questions(arguments.questions, items=arguments.items)
    questions = [
        question for question in questions if question.answers
    ]  # without an answer there is no F1
    result: dict[str, Any] = {"windows": arguments.windows, "questions": len(questions)}

    def save(part: str, columns: np.ndarray) -> None:
        result[part] = dict(zip(CODECS, differences(columns), strict=True))
        arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")

    for k in arguments.chunk_size:
        model = RefragModel.from_pretrained(arguments.model, device="cpu", chunk_size=k)
        save(f"log_ppl_k{k}", log_ppl(model, corpus, k, arguments.windows))
    model = RefragModel.from_pretrained(arguments.model, device="cpu")
    text = "\n\n".join(passage for q in questions[:5] for passage in (*q.needed, *q.others))
    result["bytes_a_token"] = sizes(model, text)
    result["fingerprint_characters"] = len(model.fingerprint)
    f1, answer_log_ppl, vectors = answers(model, questions)
    result["chunk_vectors"] = len(vectors)
    result["errors"] = {codec: errors(vectors, codec) for codec in CODECS}
    save("f1", f1)
    save("answer_log_ppl", answer_log_ppl)


if __name__ == "__main__":
    main()
