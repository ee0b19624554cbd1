from __future__ import annotations

import subprocess
import sys

import pytest

from refrag_demo import demo
from tests.cli.conftest import Run


def test_the_demo_runs_with_the_chosen_model(refrag: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        demo, "run_demo", lambda model, console: console.print(model, console.width)
    )
    assert refrag("demo", "--model", "mine").stdout == "mine 100\n"


def test_without_langchain_the_extra_is_named() -> None:
    code = "import sys; sys.modules['langchain_core'] = None\n"
    code += "from refrag_components.cli import main; main()"
    result = subprocess.run([sys.executable, "-c", code, "demo"], capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.startswith("Error: the demo runs in LangChain")
    assert 'pip install "refrag-components[langchain]"' in result.stderr
