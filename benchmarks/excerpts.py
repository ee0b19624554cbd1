"""What excerpts leave of an answer, at equal tokens with what a sceptic would do instead.

    python benchmarks/excerpts.py QUESTIONS... --out excerpts.md
    python benchmarks/excerpts.py QUESTIONS... --out survive.md --no-answers         # on a CPU
    python benchmarks/excerpts.py QUESTIONS... --out times.md --items 5 --timed 20   # on a CPU

QUESTIONS are .jsonl or .jsonl.zst files as `refrag eval qa` reads them, or folders of them, of
which the files *.valid.jsonl* are read. The checkpoint's decoder reads everything as text, so no
row depends on chunk embeddings; it answers greedily, and tells how likely the right answer is
(log-perplexity). Sets count the same. Brackets hold 95% bootstrap intervals over clusters of
questions on one passage; differences are paired. Left out: questions without an answer, those
answered by a summary, and contexts that do not fit the decoder's window as a whole.

"Answer in it" is whether a right answer occurs in what is read, "its sentence" whether a sentence
of a passage that answers is in it, whole, with the answer: what one would cite; yes and no have
none. With --no-answers the decoder reads nothing; only questions whose answer has such a sentence
count, and there are no "surprising words".

LLMLingua-2 and open pruners need weights of a hub and are not among the rivals. "Surprising words"
is the idea before them, Selective Context (arXiv 2310.06201): the words that a language model, here
the decoder, predicts worst. Times are of one caller on a CPU, with stored chunk vectors, and with
passages that a search has ordered by similarity.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.excerpt_rivals import Read, Rivals, remembered, surprising
from refrag_components.corpus.question_files import load_questions, set_name
from refrag_components.evaluation.answers.contexts import Context, Setting, draw_contexts
from refrag_components.evaluation.answers.messages import messages
from refrag_components.evaluation.answers.pool import PassagePool
from refrag_components.evaluation.answers.squad import occurs_in, score
from refrag_components.evaluation.decoding import decode
from refrag_components.evaluation.reports.table import markdown_table
from refrag_components.evaluation.rows import Row
from refrag_components.evaluation.statistics import (
    cluster_labels,
    interval,
    mean_of_sets,
    resample,
)
from refrag_components.excerpts import Excerpter
from refrag_components.generation.passage_loader import PassageLoader
from refrag_components.modeling import RefragModel
from refrag_components.policies import PerplexityPolicy, Policy, make_policy
from refrag_components.prompts.parts import Message, TextPart
from refrag_components.prompts.prompt_tokenizer import PromptTokenizer
from refrag_components.prompts.rendering import render
from refrag_components.stores.memory import MemoryStore
from refrag_components.text.splitting import sentence_spans, token_counter

TIMES = (2, 4, 8)
ANSWER_TOKENS = 32
_READERS = 8  # tokenizers let others compute
ALL, NONE = "all passages", "no passages"
F1, LOG_PPL, SHOWN, CITED = "F1", "log-ppl", "answer in it, %", "its sentence, %"
DIGITS = {F1: 1, LOG_PPL: 3, SHOWN: 1, CITED: 1}
OURS = "excerpts in sentences"


@dataclass(frozen=True)
class Measured:
    """One way to read, over all contexts in order.

    Attributes:
        tokens: What is read of the passages, and what there is of them; (contexts, 2).
        scores: By the heading of their column, each (contexts,): F1 in percent and log-ppl of the
            right answer in nats per token unless nothing was answered, then whether the answer and
            its sentence are in what is read, in percent, NaN where it has none.
    """

    tokens: np.ndarray
    scores: dict[str, np.ndarray]


def drawn(
    paths: Sequence[Path], model: RefragModel, items: int, passages: int
) -> dict[str, list[Context]]:
    """The contexts of each set."""
    contexts = {}
    for path in paths:
        asked = [
            q
            for q in load_questions(path, items=None)
            if q.answers and max(map(len, q.answers)) < 200  # not a summary
        ]
        chosen = np.linspace(0, len(asked) - 1, min(items, len(asked))).astype(int)
        questions = [asked[i] for i in chosen]
        if not questions:
            print(f"{path}: no question with a short answer", flush=True)
            continue
        pool = PassagePool(model, [])
        pool.add([text for q in questions for text in (*q.needed, *q.others)])
        (contexts[set_name(path)],) = draw_contexts(questions, [Setting("given", passages)], pool)
    return contexts


def reading(
    model: RefragModel,
    store: MemoryStore,
    rivals: Rivals,
    ours: Policy,
    surprise: Policy | None,
    n: int,
) -> dict[str, Read]:
    """The ways to read a share 1/n of the tokens, by name; no surprising words without scores."""

    def excerpts(policy: Policy, unit: str) -> Read:
        made = Excerpter(model, store=store, policy=policy, budget=1 / n, unit=unit)  # type: ignore[arg-type]

        def read(context: Context) -> list[str]:
            found = made.extract(context.question.text, context.passages)
            return [each.text for each in found if each.text]

        return read

    surprising_words = {} if surprise is None else {"surprising words": excerpts(surprise, "words")}
    return {
        OURS: excerpts(ours, "sentences"),
        "excerpts in words": excerpts(ours, "words"),
        "best passages by the policy": rivals.ranked_passages(n),
        "most similar passages": rivals.similar_passages(n),
        "most similar sentences": rivals.similar_sentences(n),
        **surprising_words,
        "first sentences": rivals.first_sentences(n),
        "any sentences": rivals.any_sentences(n),
    }


def rows_of(
    model: RefragModel, contexts: Sequence[Context], reads: Sequence[Sequence[str]]
) -> list[Row]:
    """Decoder inputs, all of them text."""
    tokenizer = PromptTokenizer(model.tokenizer)
    rows = []
    for context, texts in zip(contexts, reads, strict=True):
        asked = messages(context.question.text, texts)
        plain = [Message(m.role, tuple(TextPart(part.text) for part in m.parts)) for m in asked]
        ids = tokenizer.encode(render(plain, model.tokenizer))  # type: ignore[arg-type]
        answer = tokenizer.encode([TextPart(context.question.target)])[:64]
        outside = np.full(len(ids), -1)
        rows.append(Row(ids, outside, answer, outside))
    return rows


def cited(context: Context) -> list[str]:
    """The sentences that one would cite: of a passage that answers, with the answer in them."""
    if context.question.kind == "yes/no":
        return []
    return [
        text[a:b]
        for text in context.passages
        if text in context.question.needed
        for a, b in sentence_spans(text)
        if occurs_in(context.question.answers, [text[a:b]])
    ]


def survived(
    model: RefragModel, contexts: Sequence[Context], reads: Mapping[str, list[list[str]]]
) -> dict[str, Measured]:
    """What is left of the tokens and of the answers; the decoder reads nothing."""
    count = token_counter(model.tokenizer)
    sentences = [cited(context) for context in contexts]
    full = [sum(count(list(context.passages))) for context in contexts]
    found = {}
    for name, each in reads.items():
        read = [sum(count(texts)) if texts else 0 for texts in each]
        shown = [occurs_in(c.question.answers, t) for c, t in zip(contexts, each, strict=True)]
        whole = [
            any(sentence in text for sentence in own for text in texts) if own else np.nan
            for own, texts in zip(sentences, each, strict=True)
        ]
        scores = {SHOWN: 100 * np.array(shown, float), CITED: 100 * np.array(whole, float)}
        found[name] = Measured(np.array([read, full]).T, scores)
    return found


def answered(
    model: RefragModel, contexts: Sequence[Context], reads: Mapping[str, list[list[str]]]
) -> dict[str, dict[str, np.ndarray]]:
    """F1 and log-ppl; every way to read is decoded together with all others."""
    rows = [row for each in reads.values() for row in rows_of(model, contexts, each)]
    table = torch.zeros(0, model.decoder.config.hidden_size, device=model.device)
    outputs = iter(decode(model, table, rows, max_new_tokens=ANSWER_TOKENS))
    asked = [context.question for context in contexts]
    found = {}
    for name in reads:
        own = [next(outputs) for _ in contexts]
        said = [model.tokenizer.decode(o.token_ids, skip_special_tokens=True) for o in own]
        f1 = [
            100 * score(a, q.answers, by_word=q.kind == "yes/no")[1]
            for a, q in zip(said, asked, strict=True)
        ]
        found[name] = {F1: np.array(f1), LOG_PPL: np.array([o.log_ppl for o in own])}
    return found


class Report:
    """Tables of what was measured.

    Args:
        sets: Contexts of each set; ``found`` has them one set after the other.
        found: What was measured, by name.
    """

    def __init__(
        self, sets: Mapping[str, Sequence[Context]], found: Mapping[str, Measured]
    ) -> None:
        self._ends = np.cumsum([len(own) for own in sets.values()])[:-1]
        self._names, self._found = list(sets), found
        self._clusters = [
            cluster_labels([list(each.question.needed_ids) for each in own])
            for own in sets.values()
        ]

    def text(self) -> str:
        """One table per budget, and one of the sets."""
        parts = ["\n".join(self._table("", [ALL, NONE, 'excerpts in sentences, "auto"']))]
        for n in TIMES:
            names = [name for name in self._found if name.endswith(f", 1/{n}")]
            parts.append("\n".join([f"1/{n} of the tokens:", "", *self._table(f", 1/{n}", names)]))
        column = next(iter(self._found[ALL].scores))
        parts.append("\n".join([f"{column} by set:", "", *self._by_set()]))
        return "\n\n".join(parts) + "\n"

    def _table(self, suffix: str, names: Sequence[str]) -> list[str]:
        ours = self._found.get(OURS + suffix)
        columns = list(self._found[ALL].scores)
        compared = columns[:2] if ours else []
        body = []
        for name in names:
            own = self._found[name]
            share = own.tokens[:, 0].sum() / own.tokens[:, 1].sum()
            limit = own.tokens[:, 1] / int(suffix[4:]) if suffix else np.inf
            cells = [
                name.removesuffix(suffix),
                f"{100 * share:.1f} %",
                f"{100 * np.mean(own.tokens[:, 0] > limit):.0f} %" if suffix else "-",
                *(self._mean(own.scores[column], DIGITS[column]) for column in columns),
            ]
            if ours is not None:
                cells += [
                    "-"
                    if own is ours
                    else self._mean(
                        ours.scores[column] - own.scores[column], DIGITS[column], sign="+"
                    )
                    for column in compared
                ]
            body.append(cells)
        less = [f"{column.removesuffix(', %')} of excerpts less this" for column in compared]
        return markdown_table(["what is read", "tokens", "over", *columns, *less], body)

    def _mean(self, values: np.ndarray, digits: int, *, sign: str = "") -> str:
        strata = np.split(values[:, None], self._ends)
        (mean,) = mean_of_sets(strata)
        low, high = interval(resample(strata, self._clusters)[:, 0])
        form = f"{sign}.{digits}f"
        return f"{mean:{form}} ({low:{form}} to {high:{form}})"

    def _by_set(self) -> list[str]:
        names = [ALL, *(f"{OURS}, 1/{n}" for n in TIMES), f"most similar passages, 1/{TIMES[1]}"]
        column = next(iter(self._found[ALL].scores))
        each = [np.split(self._found[name].scores[column], self._ends) for name in names]
        body = [
            [name, str(len(each[0][i])), *(f"{own[i].mean():.1f}" for own in each)]
            for i, name in enumerate(self._names)
        ]
        return markdown_table(["set", "questions", *names], body)


def times(
    model: RefragModel,
    store: MemoryStore,
    loader: PassageLoader,
    contexts: Sequence[Context],
    surprise: Policy | None,
) -> str:
    """Milliseconds per call of each way to read a quarter."""
    ours = make_policy("auto", model)
    rivals = Rivals(model, ours, loader, ())
    body = []
    for name, read in reading(model, store, rivals, ours, surprise, 4).items():
        read(contexts[0])
        took = []
        for context in contexts[1:]:
            started, computed = time.perf_counter(), time.process_time()
            read(context)
            took.append([time.perf_counter() - started, time.process_time() - computed])
        body.append([name, *(f"{1000 * seconds:.1f}" for seconds in np.median(took, axis=0))])
    head = ["what is read, 1/4 of the tokens", "ms", "ms of all cores' work"]
    table = markdown_table(head, body)
    return f"{len(contexts) - 1} calls, {torch.get_num_threads()} threads.\n\n" + "\n".join(table)


def files(places: Sequence[Path]) -> list[Path]:
    """The files of questions."""
    return [
        path
        for place in places
        for path in (sorted(place.glob("*.valid.jsonl*")) if place.is_dir() else [place])
    ]


def main() -> None:
    """Measures all sets together and writes the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("questions", nargs="+", type=Path)
    parser.add_argument("--model", default="refrag-smollm2-135m")
    parser.add_argument("--device", help="the GPU if there is one")
    parser.add_argument("--passages", type=int, default=5)
    parser.add_argument("--items", type=int, default=20, help="questions per set")
    parser.add_argument("--no-answers", action="store_true", help="the decoder reads nothing")
    parser.add_argument("--timed", type=int, default=0, help="calls to time, on this device")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    started = time.perf_counter()
    pool = ThreadPoolExecutor(_READERS)

    def tell(what: str) -> None:
        print(f"{time.perf_counter() - started:6.1f} s  {what}", flush=True)

    model = RefragModel.from_pretrained(options.model, device=options.device)
    tell(f"{options.model} on {model.device}")
    sets = drawn(files(options.questions), model, options.items, options.passages)
    count = token_counter(model.tokenizer)
    room = model.window - 400  # template, question and answer
    sets = {
        name: [each for each in own if sum(count(list(each.passages))) <= room]
        for name, own in sets.items()
    }
    if options.no_answers:
        sets = {name: [each for each in own if cited(each)] for name, own in sets.items()}
    sets = {name: own for name, own in sets.items() if own}
    contexts = [each for own in sets.values() for each in own]
    tell(f"{len(contexts)} questions of {', '.join(sets)}")
    store = MemoryStore(max_bytes=None)
    loader = PassageLoader(model, store, waits=True)
    ours = remembered(make_policy("auto", model), contexts, model, loader)
    surprise = None if options.no_answers else surprising(contexts, model, loader)
    tell("scores")
    rivals = Rivals(model, ours, loader, contexts)
    reads: dict[str, list[list[str]]] = {
        ALL: [list(each.passages) for each in contexts],
        NONE: [[] for _ in contexts],
    }
    auto = Excerpter(model, store=store, policy=ours, budget="auto")
    reads['excerpts in sentences, "auto"'] = [
        [e.text for e in auto.extract(each.question.text, each.passages) if e.text]
        for each in contexts
    ]
    for n in TIMES:
        for name, read in reading(model, store, rivals, ours, surprise, n).items():
            reads[f"{name}, 1/{n}"] = list(pool.map(read, contexts))
        tell(f"read 1/{n}")
    found = survived(model, contexts, reads)
    if not options.no_answers:
        for name, scores in answered(model, contexts, reads).items():
            found[name] = replace(found[name], scores=scores | found[name].scores)
        tell("answers")
    report = Report(sets, found).text()
    about = (
        f"{len(contexts):,} questions of {len(sets)} sets, {options.passages} passages each.\n\n"
    )
    timed = ""
    if options.timed:
        step = max(len(contexts) // (options.timed + 1), 1)
        chosen = contexts[::step][: options.timed + 1]
        reads_all = None if options.no_answers else PerplexityPolicy(model)
        timed = "\n" + times(model, store, loader, chosen, reads_all) + "\n"
        tell("times")
    options.out.write_text(about + report + timed, encoding="utf-8")
    print(about + report + timed)


if __name__ == "__main__":
    main()
