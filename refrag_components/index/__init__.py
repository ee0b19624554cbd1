"""Documents, their chunk vectors and search over their passages, in one folder.

Imported when first used, because FAISS takes a while.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from refrag_components._lazy import hand_on

if TYPE_CHECKING:
    from refrag_components.index.folder import IndexInfo, index_info
    from refrag_components.index.forgetting import forget
    from refrag_components.index.index import RefragIndex
    from refrag_components.index.types import AddReport, Hit, IndexModel

__all__ = ["AddReport", "Hit", "IndexInfo", "IndexModel", "RefragIndex", "forget", "index_info"]

__getattr__, __dir__ = hand_on(
    __name__,
    {
        "AddReport": "types",
        "Hit": "types",
        "IndexInfo": "folder",
        "IndexModel": "types",
        "RefragIndex": "index",
        "forget": "forgetting",
        "index_info": "folder",
    },
)
