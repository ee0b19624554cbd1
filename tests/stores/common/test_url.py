from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refrag_components.exceptions import StoreError
from refrag_components.stores import MemoryStore, SQLiteStore, open_store
from refrag_components.stores.common.url import local_path, split_options, without_password
from tests.stores.contract import make


def test_opens_a_path_and_its_url(tmp_path: Path) -> None:
    path = tmp_path / "vectors @ home.sqlite"
    with open_store(str(path)) as store:
        assert isinstance(store, SQLiteStore)
        store.mset([("a", make(1))])
    with open_store(f"sqlite://{quote(str(path))}?codec=int8") as store:
        assert store.mget(["a"]) == [make(1)]
        assert isinstance(store, SQLiteStore)
        assert store.codec == "int8"
    assert isinstance(open_store("memory:"), MemoryStore)


def test_an_unknown_scheme_is_answered_with_those_there_are() -> None:
    with pytest.raises(StoreError) as caught:
        open_store("redis://user:s3cret@host/0")
    message = str(caught.value)
    assert message.startswith("redis:// does not name a store")
    for part in ("memory:", "sqlite:///", "postgresql:// [postgres]", "refrag-components[qdrant]"):
        assert part in message
    assert "s3cret" not in message


@pytest.mark.parametrize(
    "url", ["sqlite://host/path", "sqlite://", "lancedb://relative", "sqlite:///a?mode=ro"]
)
def test_a_local_store_needs_a_path_and_no_host(url: str) -> None:
    with pytest.raises(StoreError, match=r"must be \w+:///path, with "):
        open_store(url)


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///a?codec=int9",
        "chroma:///a?codec=int9",
        "chroma://:s3cret@localhost/c?colection=x",
        "milvus:///a.db?codec=int9",
        "milvus://:s3cret@localhost/c?colection=x",
        "qdrant:///a?codec=int9",
        "qdrant://:s3cret@host/c?https=maybe",
        "qdrant://:s3cret@host/c?s3cret=1",
        "lancedb:///a?codec=",
        "postgresql://u:s3cret@127.0.0.1:1/db?codec=int9",
    ],
)
def test_a_wrong_option_is_refused_and_the_password_not_told(url: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="codec") as caught:
        open_store(url.replace("///a", f"//{tmp_path}/a"))
    assert ":s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("chroma://127.0.0.1:9", "Chroma at 127.0.0.1:9"),
        ("milvus://127.0.0.1:9", "Milvus at http://127.0.0.1:9"),
        ("weaviate://127.0.0.1:9", "Weaviate at 127.0.0.1"),
    ],
)
def test_a_server_that_is_not_there_is_named(url: str, place: str) -> None:
    with pytest.raises(StoreError, match=rf"(?s){re.escape(place)}: .*check the server"):
        open_store(url)


@pytest.mark.parametrize("scheme", ["chroma", "lancedb"])
def test_a_file_in_place_of_a_folder_is_reported(scheme: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="file"):
        open_store(f"{scheme}://{tmp_path}/file")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:s3cret@h:5432/db", "postgresql://u@h:5432/db"),
        ("postgresql://u:s3%40cret@h/db?a=b&password=s3cret", "postgresql://u@h/db?a=b"),
        ("postgresql://u:s3cret@h1:1,h2:2/db", "postgresql://u@h1:1,h2:2/db"),
        ("postgresql://u@[::1]:5/db?options=-c%20a%3Db",
        "postgresql://u@[::1]:5/db?options=-c%20a%3Db"), ("postgresql:///db?host=/run", "postgresql:///db?host=%2Frun"),
        ("qdrant://:s3cret@h/c?https=false", "qdrant://h/c?https=false"),
        ("milvus://h?token=s3cret&API_KEY=s3cret", "milvus://h"),
        ("sqlite:///a@b/c.sqlite", "sqlite:///a@b/c.sqlite"),
        ("some/path@x", "some/path@x"),
    ],
)  # fmt: skip
def test_a_url_is_shown_without_its_password(url: str, shown: str) -> None:
    assert without_password(url) == shown
    assert without_password(shown) == shown


@pytest.mark.parametrize("password", ["s3/cret", "s3?cret", "s3#cret", "s3[cret", "s3]/cret"])
def test_a_password_that_breaks_the_url_is_not_shown(password: str) -> None:
    for use in (without_password, lambda url: local_path(url), open_store):
        with pytest.raises(StoreError, match="%XX") as caught:
            use(f"qdrant://user:{password}@host/collection")
        assert "cret" not in str(caught.value)


@given(
    password=st.text(min_size=8, alphabet=st.characters(codec="utf-8", exclude_characters="\0")),
    user=st.sampled_from(["", "user"]),
    host=st.sampled_from(["host", "host:1", "[::1]", "a.b,c.d:2"]),
)
def test_no_quoted_password_survives(password: str, user: str, host: str) -> None:
    secret = quote(password, safe="")
    url = f"postgresql://{user}:{secret}@{host}/db?schema=x&password={secret}&table=t"
    assert without_password(url) == f"postgresql://{user}{'@' if user else ''}{host}/db?schema=x&table=t"  # fmt: skip  # noqa: E501


def test_options_are_taken_out_and_the_rest_is_left() -> None:
    url = "postgresql://u:p%2F@h/db?options=-csearch_path%3Da%20b&table=t&sslmode=require"
    rest, options = split_options(url, "table", "schema")
    assert rest == "postgresql://u:p%2F@h/db?options=-csearch_path%3Da%20b&sslmode=require"
    assert options == {"table": "t"}


@pytest.mark.parametrize("slashes", ["///", "////"])
@pytest.mark.parametrize("scheme", ["chroma", "lancedb", "milvus", "qdrant", "sqlite"])
def test_absolute_paths_may_have_a_slash_more(scheme: str, slashes: str) -> None:
    url = f"{scheme}:{slashes}data/a%20b?table=t"
    assert local_path(url, "table") == ("/data/a b", {"table": "t"})
    assert without_password(url) == url
