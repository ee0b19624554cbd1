"""The sets of questions that are measured: results.sh asks for them here, tables name them.

python benchmarks/sets.py GROUP    # names, on one line
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["GROUPS", "SETS", "WITHOUT_ANSWER", "quarters"]

#: Name of a set, as in NAME.valid.jsonl.zst -> its name in tables, in their order.
SETS = {
    "squad": "SQuAD",
    "sqshift_wiki": "SQuAD-shift, wiki",
    "sqshift_reddit": "SQuAD-shift, reddit",
    "sqshift_amazon": "SQuAD-shift, amazon",
    "qamr": "QAMR",
    "fairytale": "FairytaleQA",
    "hybridqa": "HybridQA",
    "ottqa": "OTT-QA",
    "policyqa": "PolicyQA",
    "wikitpl": "templates on Wikipedia pages",
    "boolq": "BoolQ (yes/no)",
    "strategyqa": "StrategyQA (yes/no)",
    "tsqa": "TimeQA",
    "covidqa": "COVID-QA",
    "pubmedqa": "PubMedQA (yes/no)",
}

#: Sets of questions that no passage answers.
WITHOUT_ANSWER = {"squad2_unans": "SQuAD 2, no answer"}


def quarters(names: Sequence[str]) -> list[Sequence[str]]:
    """Four parts of about as many sets; starting takes longer than answering one set."""
    return [names[start::4] for start in range(4)]


#: What results.sh measures together.
GROUPS: dict[str, Sequence[str]] = {
    "all": tuple(SETS),
    "searched": ("squad", "hybridqa"),
    "k8": ("squad", "sqshift_amazon", "fairytale", "hybridqa"),
    "pool": ("squad", "hybridqa", "tsqa", "strategyqa"),
} | {
    f"quarter-{number}": part
    for number, part in enumerate(quarters((*SETS, *WITHOUT_ANSWER)), start=1)
}


if __name__ == "__main__":
    print(*GROUPS[sys.argv[1]])
