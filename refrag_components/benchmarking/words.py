"""The words of benchmarks: what a text says does not change how long it takes."""

from __future__ import annotations

__all__ = ["QUESTION", "WORDS"]

_TEXT = (
    "the of and in to was is for as on by with he that at from his it an were are which this be "
    "also had has first one their its after new who they two her she been other when time during "
    "there into school may more years over only year most city world would where later up about "
    "such then state made well known part many can used people town north south river house water "
    "line work book name land king church music film game team season company number place"
)

#: Common words; most tokenizers have a token for each.
WORDS: tuple[str, ...] = tuple(_TEXT.split())

#: A question of 32 words, which also ends the prompt.
QUESTION = (
    "in which year was the first house of the town by the river made and who were the people that "
    "used the land in the north of the city during this time"
)
