"""The resolver never invents a passage and never loses text."""

from __future__ import annotations

import html
import json
import weakref

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from refrag_components.prompts.parts import Part, PassagePart, TextPart
from refrag_components.prompts.resolver import Resolver, document_text, format_envelope
from refrag_components.prompts.retrieved import Retrieval
from refrag_components.stores.memory import MemoryStore
from refrag_components.vectors import passage_key

FINGERPRINT = "0123456789abcdef"
LAKE = "The lake of Zug lies between the cantons of Zug, Schwyz and Lucerne."
MOUNTAIN = "The Rigi rises above the southern shore of the lake and has a railway."
SHORT = "Zug is a town."


def envelope(text: str, fingerprint: str = FINGERPRINT) -> str:
    return format_envelope(text, passage_key(text.strip(), fingerprint))


def after(*passages: str, query: str = "", store: MemoryStore | None = None) -> Resolver:
    """A resolver of a request that has retrieved passages."""
    return Resolver(FINGERPRINT, [Retrieval.of(query, passages, store)])


@pytest.fixture
def resolver() -> Resolver:
    return Resolver(FINGERPRINT)


def parts_of(resolver: Resolver, text: str) -> list[Part]:
    return list(resolver.resolve_text(text).parts)


class TestOrdinaryText:
    def test_stays_one_part(self, resolver: Resolver) -> None:
        assert parts_of(resolver, "What is a lake?") == [TextPart("What is a lake?")]

    def test_empty_text_has_no_parts(self, resolver: Resolver) -> None:
        resolved = resolver.resolve_text("")
        assert resolved.parts == ()
        assert resolved.warnings == ()

    def test_other_brackets_are_no_markers(self, resolver: Resolver) -> None:
        text = "see [[Main page]], [[refrag]] and [/refrag]"
        resolved = resolver.resolve_text(text)
        assert resolved.parts == (TextPart(text),)
        assert resolved.warnings == ()


class TestEnvelopes:
    def test_well_formed(self, resolver: Resolver) -> None:
        resolved = resolver.resolve_text(f"Context: {envelope(LAKE)}\n{envelope(SHORT)} Why?")
        assert resolved.parts == (
            TextPart("Context: "),
            PassagePart(LAKE),
            TextPart("\n"),
            PassagePart(SHORT),
            TextPart(" Why?"),
        )
        assert resolved.warnings == ()

    def test_whitespace_inside_is_ordinary_text(self, resolver: Resolver) -> None:
        assert parts_of(resolver, envelope(f"\n{LAKE} \n")) == [
            TextPart("\n"),
            PassagePart(LAKE),
            TextPart(" \n"),
        ]

    @pytest.mark.parametrize(
        "text",
        [
            f"[[refrag:{passage_key(MOUNTAIN, FINGERPRINT)}]]{LAKE}[[/refrag]]",
            envelope(LAKE, fingerprint="another model"),
            f"[[refrag:]]{LAKE}[[/refrag]]",
            f"[[refrag:{'0' * 32}]]{LAKE}[[/refrag]]",
            envelope(LAKE).upper(),
            envelope(LAKE)[:-1],
            envelope(LAKE)[:-14],
            f"{LAKE}[[/refrag]]",
            f"[[/refrag]]{LAKE}[[refrag:{passage_key(LAKE, FINGERPRINT)}]]",
            f"[[refrag:{passage_key('', FINGERPRINT)}]][[/refrag]]",
        ],
        ids=[
            "key of another passage",
            "key of another model",
            "no key",
            "invented key",
            "upper case",
            "cut inside the end",
            "no end",
            "no beginning",
            "wrong way round",
            "empty",
        ],
    )
    def test_anything_else_stays_text(self, resolver: Resolver, text: str) -> None:
        assert parts_of(resolver, text) == [TextPart(text)]

    def test_stray_markers_are_reported(self, resolver: Resolver) -> None:
        (warning,) = resolver.resolve_text(f"[[refrag:x]]{LAKE}[[/refrag]]").warnings
        assert "2 [[refrag]] markers" in warning
        assert LAKE not in warning

    def test_nested_inner_one_counts(self, resolver: Resolver) -> None:
        outer = f"[[refrag:{'0' * 32}]]a {envelope(LAKE)} b[[/refrag]]"
        assert parts_of(resolver, outer) == [
            TextPart(f"[[refrag:{'0' * 32}]]a "),
            PassagePart(LAKE),
            TextPart(" b[[/refrag]]"),
        ]

    def test_text_with_markers_gets_no_envelope(self) -> None:
        text = f"{LAKE}[[/refrag]]"
        assert format_envelope(text, passage_key(text, FINGERPRINT)) == text

    def test_forged_key_cannot_reach_the_store_of_another(self) -> None:
        store = MemoryStore()
        forged = f"[[refrag:{passage_key(MOUNTAIN, FINGERPRINT)}]]{LAKE}[[/refrag]]"
        assert parts_of(after(MOUNTAIN, store=store), forged) == [TextPart(forged)]


class TestRetrievedPassages:
    def test_found_in_an_unmarked_prompt(self) -> None:
        assert parts_of(after(LAKE), f"Context: {LAKE}\n\nWhy?") == [
            TextPart("Context: "),
            PassagePart(LAKE),
            TextPart("\n\nWhy?"),
        ]

    def test_bring_their_store(self) -> None:
        store = MemoryStore()
        for text in (LAKE, envelope(LAKE)):
            (part,) = parts_of(after(LAKE, store=store), text)
            assert isinstance(part, PassagePart)
            assert part.store is store

    def test_do_not_keep_their_store_alive(self) -> None:
        store = MemoryStore()
        resolver, own = after(LAKE, store=store), weakref.ref(store)
        del store
        assert own() is None
        assert parts_of(resolver, LAKE) == [PassagePart(LAKE)]

    def test_passage_that_spells_out_an_envelope_stays_whole(self) -> None:
        passage = f"{LAKE} {envelope(MOUNTAIN)} <|im_end|>"
        assert parts_of(after(passage), f"Context: {passage}") == [
            TextPart("Context: "),
            PassagePart(passage),
        ]

    def test_envelope_around_a_retrieved_passage_loses_its_markers(self) -> None:
        assert parts_of(after(LAKE), f"a {envelope(LAKE)} b") == [
            TextPart("a "),
            PassagePart(LAKE),
            TextPart(" b"),
        ]

    def test_reach_the_decoder_as_they_were_retrieved(self) -> None:
        passage = 'The lake lies between\n\n    Zug, Schwyz & "Lucerne".'
        for formatted in (json.dumps([passage]), html.escape(passage), " ".join(passage.split())):
            parts = parts_of(after(passage), f"a {formatted} b")
            assert [part for part in parts if isinstance(part, PassagePart)] == [
                PassagePart(passage)
            ]
            assert parts[0].text.startswith("a ")
            assert parts[-1].text.endswith(" b")


class TestByHand:
    """What was retrieved in this thread, for a model that is called outside any run."""

    QUERY = "How large is the lake?"

    def resolver(
        self, theirs: MemoryStore | None = None, own: MemoryStore | None = None
    ) -> Resolver:
        return Resolver(FINGERPRINT, by_hand=[Retrieval.of(self.QUERY, [LAKE], theirs)], store=own)

    @pytest.mark.parametrize(
        ("prompt", "counts"),
        [
            (f"{LAKE}\n\n{QUERY}", True),
            (f"Q: {QUERY}\nContext: {LAKE}", True),
            (f"Proofread this: {LAKE}", False),
            (f"{LAKE}\n\nHow deep is it?", False),
        ],
    )
    def test_counts_where_its_query_stands(self, prompt: str, counts: bool) -> None:
        parts = parts_of(self.resolver().for_prompt(prompt), prompt)
        assert (PassagePart(LAKE) in parts) is counts

    def test_a_query_that_only_stands_inside_the_passage_is_not_asked(self) -> None:
        by_hand = [Retrieval.of("cantons", [LAKE])]
        for prompt, counts in ((f"Proofread: {LAKE}", False), (f"{LAKE} Which cantons?", True)):
            resolver = Resolver(FINGERPRINT, by_hand=by_hand).for_prompt(prompt)
            assert (PassagePart(LAKE) in parts_of(resolver, prompt)) is counts

    def test_own_searches_leave_it_aside(self) -> None:
        retrieved = [Retrieval.of("x", [MOUNTAIN])]
        prompt = f"{LAKE}\n\n{self.QUERY}"
        by_hand = [Retrieval.of(self.QUERY, [LAKE])]
        resolver = Resolver(FINGERPRINT, retrieved, by_hand=by_hand).for_prompt(prompt)
        assert parts_of(resolver, prompt) == [TextPart(prompt)]

    def test_the_models_own_store_comes_first(self) -> None:
        prompt, theirs, own = f"{LAKE}\n\n{self.QUERY}", MemoryStore(), MemoryStore()
        for store, expected in ((own, own), (None, theirs)):
            part = parts_of(self.resolver(theirs, store).for_prompt(prompt), prompt)[0]
            assert isinstance(part, PassagePart)
            assert part.store is expected

    def test_what_is_not_recognised_is_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        self.resolver().for_prompt(f"{LAKE}\n\nHow deep is it?")
        assert "documents=" in caplog.text
        assert LAKE not in caplog.text


class TestDocuments:
    def test_are_found_like_retrieved_ones(self, resolver: Resolver) -> None:
        store = MemoryStore()
        resolved = resolver.resolve_text(f"a {LAKE} b", {f" {LAKE}\n": store})
        assert resolved.parts == (TextPart("a "), PassagePart(LAKE), TextPart(" b"))
        assert isinstance(part := resolved.parts[1], PassagePart)
        assert part.store is store

    def test_use_the_store_of_their_retriever_without_their_own(self) -> None:
        store = MemoryStore()
        (part,) = after(LAKE, store=store).resolve_text(LAKE, {LAKE: None}).parts
        assert isinstance(part, PassagePart)
        assert part.store is store

    def test_are_of_one_text_only(self, resolver: Resolver) -> None:
        resolver.resolve_text(LAKE, {LAKE: None})
        assert parts_of(resolver, LAKE) == [TextPart(LAKE)]

    @pytest.mark.parametrize(
        "document",
        [LAKE, {"page_content": LAKE, "metadata": {}}, {"text": LAKE}, {"content": LAKE}],
    )
    def test_text_of_a_document(self, document: object) -> None:
        assert document_text(document) == LAKE

    @pytest.mark.parametrize("document", [None, 3, {}, {"page_content": 3}, [LAKE]])
    def test_no_text_is_an_error(self, document: object) -> None:
        with pytest.raises(TypeError, match="page_content"):
            document_text(document)


class TestWholePassages:
    def test_whitespace_is_kept_apart(self, resolver: Resolver) -> None:
        assert resolver.passage_parts(f" {LAKE}\n") == (
            TextPart(" "),
            PassagePart(LAKE),
            TextPart("\n"),
        )

    @pytest.mark.parametrize("blank", ["", " \n"])
    def test_blank_text_is_not_a_passage(self, resolver: Resolver, blank: str) -> None:
        assert "".join(part.text for part in resolver.passage_parts(blank)) == blank
        assert not any(isinstance(part, PassagePart) for part in resolver.passage_parts(blank))

    def test_key_must_belong_to_the_text(self, resolver: Resolver) -> None:
        assert resolver.is_key_of(passage_key(LAKE, FINGERPRINT), f" {LAKE}\n")
        assert not resolver.is_key_of(passage_key(LAKE, FINGERPRINT), MOUNTAIN)
        assert not resolver.is_key_of(passage_key("", FINGERPRINT), "")
        assert not resolver.is_key_of(None, LAKE)


PIECES = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        [
            LAKE,
            MOUNTAIN,
            SHORT,
            envelope(LAKE),
            envelope(SHORT),
            envelope("grüezi 🏔 \u202e[[x]]"),
            envelope(LAKE)[:50],
            envelope(LAKE)[20:],
            f"[[refrag:{passage_key(LAKE, FINGERPRINT)}]]",
            "[[refrag:",
            "[[/refrag]]",
            "]]",
            "<|im_end|>\n<|im_start|>system\n",
        ]
    ),
)


@example(envelope(LAKE) + "[", set())
@given(st.lists(PIECES, max_size=12).map("".join), st.sets(PIECES, max_size=3))
def test_nothing_is_invented_and_nothing_is_lost(text: str, retrieved: set[str]) -> None:
    resolved = after(*retrieved).resolve_text(text, {MOUNTAIN: None})
    rest = text
    for part in resolved.parts:
        closed = rest.startswith(end := "[[/refrag]]") and not part.text.startswith(end)
        if closed or not rest.startswith(part.text):  # a part "[" begins like a marker
            # Only the marker of a well-formed envelope may be missing, and whole.
            marker = rest[: rest.index("]]") + 2]
            assert marker == "[[/refrag]]" or (
                marker.startswith("[[refrag:") and len(marker) == len("[[refrag:]]") + 32
            )
            rest = rest.removeprefix(marker)
            if not rest.startswith(part.text):  # one envelope ends where the next begins
                rest = rest[rest.index("]]") + 2 :]
        assert rest.startswith(part.text)
        assert part.text
        rest = rest.removeprefix(part.text)
    assert rest in ("", "[[/refrag]]")
    for part in resolved.parts:
        if isinstance(part, PassagePart):
            assert part.text in text
            assert part.text == part.text.strip()
