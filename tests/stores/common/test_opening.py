"""Every store that a URL can name is installed, tested and documented under its names."""

from __future__ import annotations

import re

import pytest

from refrag_components.stores.common.opening import STORES, WITH_EXTRA, store_class
from tests.requirements import CLIENTS, PROJECT, ROOT, packages
from tests.stores.processes import run


@pytest.mark.parametrize("extra", CLIENTS)
def test_a_client_that_is_not_installed_is_named_with_its_extra(extra: str) -> None:
    code = """
        from importlib import import_module
        from refrag_components.exceptions import MissingExtraError
        sys.modules |= dict.fromkeys(sys.argv[2:])
        try:
            import_module(f"refrag_components.stores.{sys.argv[1]}")
        except MissingExtraError as error:
            assert f'pip install "refrag-components[{sys.argv[1]}]"' in str(error)
        else:
            raise AssertionError
    """
    run(code, extra, *packages(CLIENTS[extra]))


@pytest.mark.parametrize("extra", CLIENTS)
def test_tests_install_what_the_extra_installs(extra: str) -> None:
    tools = PROJECT["dependency-groups"]["test"]
    assert [requirement for requirement in CLIENTS[extra] if requirement not in tools] == []


@pytest.mark.parametrize("scheme", STORES)
def test_every_store_is_under_contract(scheme: str) -> None:
    module, name = STORES[scheme], store_class(scheme).__name__
    text = (ROOT / "tests" / "stores" / f"test_{module}.py").read_text(encoding="utf-8")
    assert re.search(rf"^class Test{name}\((Store|Database)Contract\):", text, re.MULTILINE)


@pytest.mark.parametrize("scheme", STORES)
def test_every_store_has_its_row_in_the_documentation(scheme: str) -> None:
    module, name = STORES[scheme], store_class(scheme).__name__
    place = f"stores.{module}" if scheme in WITH_EXTRA else "stores"
    text = (ROOT / "docs" / "stores.md").read_text(encoding="utf-8")
    (row,) = [line for line in text.splitlines() if f"`refrag_components.{place}.{name}`" in line]
    assert f"{scheme}:" in row
    assert (f"`refrag-components[{module}]`" in row) == (scheme in WITH_EXTRA)
