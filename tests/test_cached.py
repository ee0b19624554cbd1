"""Cached properties are computed once per object, and no thread waits for another's."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from refrag_components.cached import cached_property


@dataclass(frozen=True, eq=False)
class Object:
    began: threading.Event
    go_on: threading.Event
    computed: list[str]
    name: str

    @cached_property
    def value(self) -> str:
        """Takes as long as it is told to."""
        self.began.set()
        self.go_on.wait(30)
        self.computed.append(self.name)
        return self.name


def test_other_objects_do_not_wait() -> None:
    """In a forked child, whoever was computing is not there any more."""
    computed: list[str] = []
    at_once = threading.Event()
    at_once.set()
    slow = Object(threading.Event(), threading.Event(), computed, "slow")
    thread = threading.Thread(target=lambda: slow.value)
    thread.start()
    slow.began.wait()
    assert Object(threading.Event(), at_once, computed, "other").value == "other"
    assert computed == ["other"]
    slow.go_on.set()
    thread.join()
    assert (slow.value, slow.value) == ("slow", "slow")
    assert computed == ["other", "slow"]
