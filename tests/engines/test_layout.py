from __future__ import annotations

import pytest

from refrag_components.engines.layout import Layout
from refrag_components.modeling import RefragModel
from tests.engines.layouts import segment
from tests.tiny import TEXT


def test_a_layout_cannot_begin_with_a_chunk_embedding(tiny_model: RefragModel) -> None:
    with pytest.raises(ValueError, match="begin with a token"):
        Layout((segment(tiny_model, TEXT[0], 0.0),))
