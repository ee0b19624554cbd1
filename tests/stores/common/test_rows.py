from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refrag_components.exceptions import CorruptVectorsError
from refrag_components.stores.common.rows import keys_in_order, pack_row, unpack_row
from refrag_components.vectors import CODECS, ChunkVectors
from tests.stores.contract import make

ROW = pack_row("key", make(1), "float16")
keys = st.text(st.characters(codec="utf-8"), max_size=40)


@given(key=keys, codec=st.sampled_from(list(CODECS)))
def test_a_row_is_read_as_it_was_written(key: str, codec: str) -> None:
    kept = ChunkVectors.from_bytes(make(1).to_bytes(codec))
    assert unpack_row(key, pack_row(key, make(1), codec)) == kept


@settings(max_examples=1000)
@given(key=keys, other=keys)
def test_a_row_of_another_key_is_refused(key: str, other: str) -> None:
    if key != other:
        with pytest.raises(CorruptVectorsError):
            unpack_row(other, pack_row(key, make(1), "float16"))


@settings(max_examples=1000)
@given(start=st.integers(0, len(ROW)), end=st.integers(0, len(ROW)), put=st.binary(max_size=40))
def test_an_altered_row_is_refused_or_right(start: int, end: int, put: bytes) -> None:
    altered = ROW[: min(start, end)] + put + ROW[max(start, end) :]
    try:
        value = unpack_row("key", altered)
    except CorruptVectorsError:
        return
    assert value == make(1)


@given(
    names=st.lists(st.text("ab%_", max_size=4), unique=True),
    prefix=st.text("ab%_", max_size=2),
    size=st.integers(1, 5),
)
def test_pages_hold_every_key_once(names: list[str], prefix: str, size: int) -> None:
    def fetch(comparison: str, key: str, limit: int) -> list[str]:
        fits = (name for name in names if name > key or (name == key and comparison == ">="))
        return sorted(fits)[:limit]

    expected = sorted(name for name in names if name.startswith(prefix))
    assert list(keys_in_order(fetch, prefix, size)) == expected
