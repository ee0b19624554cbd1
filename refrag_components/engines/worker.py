"""The thread that decodes for all callers."""

from __future__ import annotations

import atexit
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from refrag_components.engines.kept_threads import KeptThreads
from refrag_components.engines.lanes import Lanes, alike
from refrag_components.engines.row import Row
from refrag_components.engines.turns import Turns
from refrag_components.forking import OwnProcess, computing

if TYPE_CHECKING:
    from refrag_components.engines.static_caches import StaticCaches
    from refrag_components.modeling import RefragModel

__all__ = ["START_POSITIONS", "Worker"]

#: Prompts that start together, in positions with padding: what runs already waits so long.
START_POSITIONS = 4096
_GOODBYE = 10.0  # seconds that the interpreter's end waits for the step that is being computed


class Worker(OwnProcess):
    """Decodes the rows of all callers together; rows join and leave between steps.

    It has a thread only while there are rows, so a worker that nobody uses costs nothing and keeps
    no model alive; the thread itself waits a while for other rows, of any worker. No caller decodes
    for others: one that is interrupted only withdraws its own rows.

    Args:
        model: Provides the decoder and the embeddings.
        max_rows: Rows that are decoded at the same time; bounds memory.
        caches: Lends static caches to batches; None to decode without.
    """

    def __init__(
        self, model: RefragModel, *, max_rows: int, caches: StaticCaches | None = None
    ) -> None:
        super().__init__()
        self._model = model
        self._caches = caches
        self._max_rows = max_rows
        self._decoding: bool
        self._runs: int
        self._reset()

    def submit(self, rows: Sequence[Row]) -> None:
        """Decodes the rows of one call; returns at once."""
        self.begin_again(self._reset)  # the thread and the holder of the lock stayed behind
        with self._lock:
            if not self._decoding:
                _threads.run(self._run)  # first, for it may fail; the thread waits for the lock
                self._decoding = True
                self._runs += 1
            self._turns.add(rows)

    def wait(self, seconds: float | None = None) -> bool:
        """Waits until nothing is decoded, and what was decoded in has been given up.

        Args:
            seconds: For at most so long; None without limit.

        Returns:
            Whether that is so.
        """
        if self.inherited:
            return True  # the thread stayed behind
        with self._lock:
            return self._ended.wait_for(lambda: not self._runs, seconds)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._turns = Turns()
        self._decoding = False
        self._runs = 0  # of threads: one may end while the next begins
        self._ended = threading.Condition(self._lock)

    def _run(self) -> None:
        try:
            self._decode()
        finally:
            with self._lock:
                self._runs -= 1
                self._ended.notify_all()

    def _decode(self) -> None:
        lanes = Lanes(self._model, self._caches)
        starting: list[Row] = []
        try:
            while not _ending.is_set():
                with self._lock:
                    starting = self._turns.take(self._max_rows - len(lanes.rows))
                    if not starting and not lanes.rows:
                        self._decoding = False
                        return
                for group in _groups(starting):
                    with computing():
                        lanes.start(group)
                        lanes.step()  # those that run already wait for one group at a time
                with computing():
                    lanes.step()
            self._give_up([*lanes.rows, *starting], RuntimeError("Python is ending"))
        except BaseException as error:
            self._give_up([*lanes.rows, *starting], error)
            raise

    def _give_up(self, rows: Sequence[Row], error: BaseException) -> None:
        """Ends all answers, so that nobody waits forever."""
        with self._lock:
            self._decoding = False
            waiting = self._turns.take_all()
        for row in (*rows, *waiting):
            row.fail(error)


_threads = KeptThreads("refrag-decoding")
_ending = threading.Event()


@atexit.register
def _end() -> None:
    """A thread that is still inside PyTorch when Python goes away aborts the whole process."""
    _ending.set()
    _threads.wait(_GOODBYE)


def _groups(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """Rows of similar lengths, the shortest first, few enough to start together."""
    yield from ([row] for row in rows if row.alone)
    group: list[Row] = []
    others = [row for row in rows if not row.alone]
    for row in sorted(others, key=lambda row: row.layout.n_positions):
        length = row.layout.n_positions
        full = (len(group) + 1) * length > START_POSITIONS
        if group and (full or not alike(group[0].layout.n_positions, length)):
            yield group
            group = []
        group.append(row)
    if group:
        yield group
