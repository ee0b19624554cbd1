"""What users are told of policies is what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from refrag_components.exceptions import UnknownPolicyError
from refrag_components.policies import DEFAULT_POLICY, POLICIES, check_policy
from refrag_components.policies.making import policy_class

ROOT = Path(__file__).parents[2]


def test_every_name_has_its_policy() -> None:
    assert [policy_class(name).name for name in POLICIES] == list(POLICIES) == sorted(POLICIES)


def test_the_documented_table_is_the_list() -> None:
    text = (ROOT / "docs" / "policies.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([a-z-]+)` \| ([^|]*) \|", text.split("\n## ")[0], re.MULTILINE))
    for name in POLICIES:
        assert rows[name] == policy_class(name).expands_first
    assert f"`{DEFAULT_POLICY}` (default)" in text


def test_the_readme_names_every_policy() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in text for name in (*POLICIES, DEFAULT_POLICY))


def test_an_unknown_name_lists_them_all() -> None:
    for name in (*POLICIES, DEFAULT_POLICY):
        check_policy(name)
    with pytest.raises(UnknownPolicyError, match=", ".join((DEFAULT_POLICY, *POLICIES))):
        check_policy("best")
