"""``python -m refrag_components.cli``."""

from __future__ import annotations

from refrag_components.cli import main

if __name__ == "__main__":
    main()
