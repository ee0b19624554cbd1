"""Names of the codecs, apart from what they do: the command line lists them before NumPy loads."""

from __future__ import annotations

from typing import Literal

__all__ = ["Codec"]

#: Name of a codec, as options, URLs and the files of an index spell it.
Codec = Literal["float32", "float16", "int8", "rotated4"]
