"""Makes the pictures of docs/terminal.md: what a terminal and a browser show.

Run from the root of the repository: python benchmarks/pictures.py. The page needs Chromium.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.terminal_theme import DEFAULT_TERMINAL_THEME, MONOKAI, TerminalTheme
from rich.text import Text

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.made_files import table_pdf

OUT = Path("docs/terminal")
COOKBOOK = Path("cookbooks/01_swap_into_langchain.ipynb")
NAMES = ("harbour", "lighthouse", "fleet", "library", "regatta", "ferry", "school", "winter")
QUESTION = "When was the harbour of Lindholm dug?"
WIDTH = 96
THEMES = {"dark": MONOKAI, "light": DEFAULT_TERMINAL_THEME}
WINDOW = (860, 900)


def write_notes(folder: Path) -> None:
    """The passages of the first cookbook, a file each."""
    cells = json.loads(COOKBOOK.read_text(encoding="utf-8"))["cells"]
    source = next("".join(c["source"]) for c in cells if 'text = """' in "".join(c["source"]))
    text = source.split('"""')[1]
    folder.mkdir()
    for name, passage in zip(NAMES, text.strip().split("\n\n"), strict=True):
        (folder / f"{name}.md").write_text(" ".join(passage.split()) + "\n", encoding="utf-8")


def run(console: Console, *arguments: str) -> None:
    """Runs a command as if it were typed on a console; one that fails ends everything."""
    from refrag_components.cli import app

    for name, module in sys.modules.items():
        if name.startswith("refrag_components.cli"):
            for place in ("output", "errors"):
                if hasattr(module, place):
                    setattr(module, place, console)
    typed = [f'"{word}"' if " " in word else word for word in arguments]
    console.print(Text(" ".join(["$ refrag", *typed]), "bold"))
    if app(arguments, standalone_mode=False):
        sys.exit(f"refrag {arguments[0]} failed, so there is no picture of it")


def picture(console: Console, name: str, theme: TerminalTheme) -> None:
    """Writes what a console shows, without the fonts that the format would load from elsewhere."""
    svg = console.export_svg(title="refrag", theme=theme, clear=False)
    svg = re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL)
    svg = svg.replace("Fira Code", "ui-monospace, Menlo, Consolas")
    (OUT / f"{name}.svg").write_text(svg, encoding="utf-8")


class Recorder(Console):
    """A console that breaks long lines, as the terminal does that they are left to."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Prints within the width."""
        within = {"soft_wrap": False, "no_wrap": False, "overflow": "fold"}
        super().print(*objects, **{**options, **within})


def recording() -> Console:
    """A console with colours but no moving parts."""
    return Recorder(
        record=True,
        width=WIDTH,
        color_system="standard",
        file=open(os.devnull, "w"),
        no_color=False,
    )


def screenshot(page: Path, name: str, *options: str) -> None:
    """A page in Chromium, if there is one."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        print("no Chromium, so no picture of the page")
        return
    size = ",".join(map(str, WINDOW))
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    target = (OUT / f"{name}.png").resolve()
    command += [*options, f"--window-size={size}", f"--screenshot={target}", page.as_uri()]
    subprocess.run(command, check=True, capture_output=True)


def main() -> None:
    """Makes all of them."""
    root = Path.cwd()
    out = (root / OUT).resolve()
    out.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_notes(folder / "notes")
        (folder / "notes" / "map.png").write_bytes(b"\0")
        os.chdir(folder)
        try:
            asking = recording()
            run(asking, "index", "notes", "--out", "lindholm")
            asking.print()
            options = ("--passages", "2", "--explain")
            run(asking, "ask", "lindholm", QUESTION, *options)
            compressed = ("--rest", "compress")  # a page with every fate of a chunk
            run(recording(), "ask", "lindholm", QUESTION, *compressed, "--explain", "page.html")
            showing = recording()
            (folder / "catch.pdf").write_bytes(table_pdf())
            run(showing, "show", "catch.pdf")
            showing.print()
            run(showing, "show", "lindholm", "notes/harbour.md")
        finally:
            os.chdir(root)
        for theme, colours in THEMES.items():
            picture(asking, f"ask-{theme}", colours)
        picture(showing, "show", MONOKAI)
        screenshot(folder / "page.html", "page-light")
        screenshot(folder / "page.html", "page-dark", "--force-dark-mode",
            "--blink-settings=preferredColorScheme=0")  # fmt: skip
    helping = recording()
    environment = {**os.environ, "FORCE_COLOR": "1", "COLUMNS": str(WIDTH)}
    command = [
        sys.executable,
        "-c",
        "from refrag_components.cli import app; app(prog_name='refrag')",
    ]
    shown = subprocess.run([*command, "--help"], env=environment, capture_output=True, text=True)
    helping.print(Text.from_ansi(shown.stdout))
    picture(helping, "help", MONOKAI)
    for file in sorted(out.iterdir()):
        print(f"{file.stat().st_size:8,} {file.name}")


if __name__ == "__main__":
    main()
