"""Files are read in a process of their own, whose time and memory are limited.

A small file can keep its reader busy for hours, or fill the memory. The process that reads it is
ended then, and another one reads the next file.
"""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
import threading
from typing import IO

from refrag_components.exceptions import DocumentError
from refrag_components.forking import OwnLock
from refrag_components.text.extraction import Extracted

__all__ = ["MAX_CHARACTERS", "MAX_MEMORY", "MAX_SECONDS", "ExtractionProcess", "serve"]

MAX_SECONDS = 120.0
"""What takes longer to read is skipped."""

MAX_MEMORY = 2 * 2**30
"""Bytes that reading a file may take, where the system can limit them (Linux)."""

MAX_CHARACTERS = 100_000_000
"""Files with more text are skipped."""

_START = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from refrag_components.text.extraction_process import serve
serve(*json.loads(sys.argv[2]))
"""


class ExtractionProcess:
    """Another process that reads files; started when it is first needed, and again when it ended.

    Safe for many threads, which take turns.
    """

    def __init__(self) -> None:
        self._lock = OwnLock()
        self._process: subprocess.Popen[bytes] | None = None

    def extract(self, data: bytes, suffix: str) -> Extracted:
        """``extraction.extract`` within limits.

        Raises:
            DocumentError: If there is no text, or reading it takes too long or too much memory.
        """
        self._leave_to_parent()
        with self._lock:
            process = self._started()
            late = threading.Event()

            def end() -> None:
                late.set()
                process.kill()

            timer = threading.Timer(MAX_SECONDS, end)
            timer.daemon = True
            timer.start()
            try:
                found, parts, spent = _ask(process, data, suffix)
            except (OSError, TypeError, ValueError) as error:
                self._end()
                if late.is_set():
                    limit = f"{MAX_SECONDS:g} seconds"
                    msg = f"takes longer than {limit} to read; split it, or save it as text"
                else:
                    msg = "made its reader fail; it may be damaged, or meant to; save it again"
                raise DocumentError(msg) from error
            except BaseException:  # its answer would be taken for the next file's
                self._end()
                raise
            finally:
                timer.cancel()
            if spent:  # the next file would find too little memory
                self._end()
        if not found:
            raise DocumentError(parts[0])
        return Extracted(*parts)

    def close(self) -> None:
        """Ends the process; the next file starts another."""
        self._leave_to_parent()
        with self._lock:
            self._end()

    def _leave_to_parent(self) -> None:
        """In a forked child: the process answers its parent."""
        self._lock.begin_again(self._forget)

    def _forget(self) -> None:
        self._process = None

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self._end()
            limits = json.dumps([MAX_SECONDS, MAX_MEMORY])
            try:
                # -I: neither the folder that we are in nor the environment adds code.
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-c", _START, json.dumps(sys.path), limits],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                )
            except OSError as error:
                raise DocumentError(f"cannot be read in another process: {error}") from error
        return self._process

    def _end(self) -> None:
        if self._process is None:
            return
        self._process.kill()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):  # what was still to be written cannot be
                    stream.close()
        self._process.wait()
        self._process = None


def serve(seconds: float, memory: int) -> None:
    """The other process: reads files from its input until that ends.

    Args:
        seconds: For each file.
        memory: Bytes of address space beyond what is taken at the start.
    """
    from refrag_components.text.extraction import extract

    parts: tuple[str, ...]
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = io.TextIOWrapper(io.BytesIO())  # nothing else may write between the answers
    _limit_memory(memory)
    while header := requests.readline():
        suffix, size = json.loads(header)
        data = requests.read(size)
        _limit_time(seconds)
        spent = False
        found = False
        try:
            parts = extract(data, suffix)
            if len(parts[0]) > MAX_CHARACTERS:
                raise DocumentError(
                    f"holds more than {MAX_CHARACTERS:,} characters of text; split it"
                )
            found = True
        except DocumentError as error:
            parts = (str(error),)
        except MemoryError:
            spent = True
            parts = (f"takes more than {memory / 2**30:.3g} GB of memory to read; split it",)
        except Exception as error:
            parts = (f"cannot be read: {type(error).__name__}: {error}",)
        _limit_time(None)
        encoded = [part.encode("utf-8", "surrogatepass") for part in parts]
        header = json.dumps([found, [len(part) for part in encoded], spent]).encode()
        answers.write(b"\n".join([header, b"".join(encoded)]))
        answers.flush()


def _ask(
    process: subprocess.Popen[bytes], data: bytes, suffix: str
) -> tuple[bool, list[str], bool]:
    """Whether there is a text, its parts or why there is none, and whether the process is spent.

    Raises:
        OSError: If the process has ended.
        ValueError: If it answers with something else.
    """
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps([suffix, len(data)]).encode() + b"\n" + data)
    process.stdin.flush()
    found, sizes, spent = json.loads(process.stdout.readline(1000))
    parts = [_exactly(process.stdout, int(size)) for size in sizes]
    if len(parts) != (len(Extracted._fields) if found else 1):
        raise ValueError("the answer has other parts")
    return bool(found), [part.decode("utf-8", "surrogatepass") for part in parts], bool(spent)


def _exactly(stream: IO[bytes], size: int) -> bytes:
    if size > 4 * MAX_CHARACTERS or len(data := stream.read(size)) < size:
        raise ValueError("the answer is incomplete")
    return data


def _limit_memory(memory: int) -> None:
    try:
        import resource
    except ImportError:  # Windows
        return
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            taken = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + memory, taken + memory))
    except (OSError, ValueError):  # no Linux, or a lower limit already
        return


def _limit_time(seconds: float | None) -> None:
    """Has the system end this process, should the one that asked be gone; None takes it back."""
    import signal

    if hasattr(signal, "alarm"):  # not on Windows
        signal.alarm(0 if seconds is None else int(seconds) + 30)
