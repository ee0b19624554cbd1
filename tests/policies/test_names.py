"""What users are told of policies is what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from refrag_components.exceptions import UnknownPolicyError
from refrag_components.policies import DEFAULT_POLICY, POLICIES, check_policy
from refrag_components.policies.making import _MAKERS
from refrag_components.policies.names import EXPANDS_FIRST

ROOT = Path(__file__).parents[2]


def test_every_name_has_its_policy() -> None:
    assert tuple(_MAKERS) == POLICIES == tuple(sorted(POLICIES))


def test_the_documented_table_is_the_list() -> None:
    text = (ROOT / "docs" / "policies.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([a-z-]+)` \| ([^|]*) \|", text, flags=re.MULTILINE))
    assert {name: rows[name] for name in POLICIES} == EXPANDS_FIRST
    assert f"`{DEFAULT_POLICY}` (default)" in text


def test_the_readme_names_every_policy() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in text for name in (*POLICIES, DEFAULT_POLICY))


def test_an_unknown_name_lists_them_all() -> None:
    for name in (*POLICIES, DEFAULT_POLICY):
        check_policy(name)
    with pytest.raises(UnknownPolicyError, match=", ".join((DEFAULT_POLICY, *POLICIES))):
        check_policy("best")
