"""Names of the codecs, without their code: the command line lists them before NumPy loads."""

from __future__ import annotations

from typing import Literal

__all__ = ["Codec"]

#: Name of a codec, as it is written in options, URLs and the files of an index.
Codec = Literal["float32", "float16", "int8", "rotated4"]
