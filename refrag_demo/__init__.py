"""An application of the library: what ``refrag demo`` shows."""
