"""Store URLs: their parts, and the same URL without its password."""

from __future__ import annotations

import os
import re
from typing import Any
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

from refrag_components.exceptions import StoreError

__all__ = [
    "collection_of",
    "local_path",
    "password_of",
    "split_options",
    "split_url",
    "without_password",
]

_HOSTS = re.compile(r"((\[[^\]]*\]|[^:\[\],]*)(:\d*)?(,|$))*")
_SECRETS = frozenset({"api_key", "password", "sslpassword", "token"})


def split_url(url: str) -> SplitResult:
    """Takes a URL apart.

    Raises:
        StoreError: If it cannot be read; the message quotes nothing that may be a password.
    """
    try:
        url.encode()  # half a character cannot be sent anywhere
        parts = urlsplit(url)
    except ValueError:
        parts = None
    # A "/", "?" or "#" inside a password moves part of it to where it would be shown.
    if (
        parts is None
        or not _HOSTS.fullmatch(parts.netloc.rpartition("@")[2])
        or (parts.netloc and "@" in parts.path + parts.fragment)
        or "@" in parts.query  # elsewhere it is written %40
    ):
        msg = "the store's URL cannot be read; write special characters of its password as %XX"
        raise StoreError(msg)
    return parts


def password_of(parts: SplitResult, variable: str) -> str | None:
    """The password of a URL, else that of an environment variable; None if neither has one."""
    return unquote(parts.password or "") or os.environ.get(variable) or None


def collection_of(parts: SplitResult) -> str | None:
    """The collection that a server's URL names; None if it names none."""
    return unquote(parts.path.strip("/")) or None


def without_password(url: str) -> str:
    """The URL with its user but without anything secret, for files and messages.

    Raises:
        StoreError: If the URL cannot be read.
    """
    if "://" not in url:
        return url
    parts = split_url(url)
    user, at, host = parts.netloc.rpartition("@")
    user = user.partition(":")[0]
    query = [(name, value) for name, value in _query(parts) if name.lower() not in _SECRETS]
    netloc = f"{user}{at}{host}" if user else host
    return _joined(parts._replace(netloc=netloc), query)


def split_options(url: str, *names: str) -> tuple[str, dict[str, Any]]:
    """Takes a store's own options out of a URL's query.

    Returns:
        The URL without these options, and those that it had.
    """
    parts = split_url(url)
    query = _query(parts)
    options = {name: value for name, value in query if name in names}
    return _joined(parts, [pair for pair in query if pair[0] not in names]), options


def local_path(url: str, *names: str) -> tuple[str, dict[str, Any]]:
    """The path of a URL such as "sqlite:///data/vectors.sqlite", or of a bare path.

    A fourth slash, "sqlite:////data/vectors.sqlite", means the same.

    Args:
        url: The URL.
        names: Options that the URL may have.

    Returns:
        The path, and the options that the URL has.

    Raises:
        StoreError: If the URL names a host or another option.
    """
    if "://" not in url:
        return url, {}
    rest, options = split_options(url, *names)
    parts = split_url(rest)
    if parts.netloc or not parts.path or parts.query:
        known = " and ".join(names)
        msg = f"{without_password(url)} must be {parts.scheme}:///path, with {known} as options"
        raise StoreError(msg)
    # Absolute paths often come with one more slash, as in other libraries' URLs.
    return unquote(re.sub("^//+", "/", parts.path)), options


def _query(parts: SplitResult) -> list[tuple[str, str]]:
    return parse_qsl(parts.query, keep_blank_values=True)


def _joined(parts: SplitResult, query: list[tuple[str, str]]) -> str:
    # Not urlunsplit: it leaves out an empty host, so that a path with two slashes becomes one.
    query_text = f"?{urlencode(query, quote_via=quote)}" if query else ""
    fragment = f"#{parts.fragment}" if parts.fragment else ""
    return f"{parts.scheme}://{parts.netloc}{parts.path}{query_text}{fragment}"
