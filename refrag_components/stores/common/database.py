"""One SQLite file that threads, forked children and other processes can use at once."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from refrag_components.exceptions import StoreError

__all__ = ["Database"]

logger = logging.getLogger(__name__)

_APPLICATION_ID = 0x52465247  # "RFRG": tells our files from other programs' SQLite files
_BUSY_SECONDS = 60.0
# Of pages, in memory: 32 MB hold the passages of a thousand questions, SQLite's own 2 MB those of
# one or two.
_CACHE = "PRAGMA cache_size=-32000"
_PATIENCE_WITH_THREADS = 10.0  # seconds that a fork waits for those who use a database
_TURN = 0.05  # seconds that it waits for one of them before it lets all go on


class Database:
    """A connection to one SQLite file, opened with write-ahead logging.

    Readers never wait for writers. A committed transaction survives the death of the process; an
    unfinished one leaves no trace. Threads share the connection and take turns; forked children
    open their own.

    Args:
        path: The file; it and its folders are created if missing. One that may only be read is
            opened for that.

    Attributes:
        path: The file.
        read_only: Whether it may only be read.

    Raises:
        StoreError: If the file cannot be opened or belongs to another program.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.read_only = _is_read_only(self.path)
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._closed = False
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"{self.path.parent} is not a folder that can be written to: {error}"
            ) from error
        _open_databases.add(self)
        with self.read():
            pass  # the first connection tells whether the file can be used

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """Yields the connection for queries.

        Raises:
            StoreError: If SQLite fails.
        """
        with self._lock, self._errors():
            yield self._connected()

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """Yields the connection in a transaction, for which writers in other processes wait.

        Commits at the end, rolls back if the block raises. Inside another ``write`` block of the
        same thread it joins that block's transaction.

        Raises:
            StoreError: If SQLite fails.
        """
        with self._lock, self._errors():
            connection = self._connected()
            if connection.in_transaction:
                yield connection
                return
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")

    def create_tables(self, schema: str) -> None:
        """Runs SQL statements, each of them "CREATE ... IF NOT EXISTS"."""
        if self.read_only:
            return
        with self.read() as connection:
            connection.executescript(schema)

    def scrub(self) -> None:
        """Writes the file again without what was deleted, and empties its log.

        Raises:
            StoreError: If SQLite fails, for example because others are writing.
        """
        with self.read() as connection:
            connection.execute("VACUUM")
            (busy, _, _) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            msg = "%s is being read; its log keeps what was deleted until all who read it are done"
            logger.warning(msg, self.path)

    def close(self) -> None:
        """Closes the file; closing twice is harmless."""
        with self._lock:
            self._closed = True
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _connected(self) -> sqlite3.Connection:
        if self._closed:
            msg = f"{self.path} is closed, or was forked during a transaction; open it again"
            raise StoreError(msg)
        if self._connection is None:
            connect = _connect_to_read if self.read_only else _connect
            self._connection = connect(self.path)
        return self._connection

    def _pause(self) -> None:
        """Closes the connection until it is next needed, unless a transaction is under way."""
        if self._connection is not None and not self._connection.in_transaction:
            self._connection.close()
            self._connection = None

    def _forbid_inherited(self) -> None:
        """In a child forked inside a transaction: gives up the parent's connection unclosed."""
        if self._connection is not None:
            _inherited.append(self._connection)
            self._connection = None
            self._closed = True

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turns SQLite's errors into ones that name the file and what to do."""
        try:
            yield
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code == sqlite3.SQLITE_NOTADB:
                fix = "it is not a SQLite file and was left as it is; choose another path"
            elif code == sqlite3.SQLITE_CORRUPT:
                fix = "the file is damaged; delete it and build it again"
            elif code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                fix = "another process has been writing for a long time; try again later"
            else:
                fix = "check that the path is a writable file and that the disk has room"
            raise StoreError(f"{self.path}: {error}; {fix}") from error
        except UnicodeDecodeError as error:  # SQLite's message quotes damaged bytes
            msg = f"{self.path} is damaged; delete it and build it again"
            raise StoreError(msg) from error


# SQLite keeps its locks per process, so a child that inherits an open connection would believe in
# locks that it does not hold. Hence every connection is closed while a fork takes place; parent
# and child open it again when they next need it.
_open_databases: weakref.WeakSet[Database] = weakref.WeakSet()
_forking: list[Database] = []
_busy: list[Database] = []
_inherited: list[sqlite3.Connection] = []
_fork_lock = threading.Lock()


def _before_fork() -> None:
    """Takes the locks of all databases, or, while another thread keeps one, of those it can.

    A thread may hold one database's lock and wait for another's, as an index with a store does:
    all locks are taken together or none, so that nobody waits for a thread that waits for the fork.
    """
    until = time.monotonic() + _PATIENCE_WITH_THREADS
    while True:
        _fork_lock.acquire()
        busy = [database for database in list(_open_databases) if not _take(database)]
        if not busy or time.monotonic() > until:
            _busy.extend(busy)
            break
        _release()
        time.sleep(0.001)
    for database in _forking:
        database._pause()


def _take(database: Database) -> bool:
    taken = database._lock.acquire(timeout=_TURN)
    if taken:
        _forking.append(database)
    return taken


def _release() -> None:
    for database in _forking:
        database._lock.release()
    _forking.clear()
    _busy.clear()
    _fork_lock.release()


def _after_fork_in_child() -> None:
    for database in (*_forking, *_busy):
        database._forbid_inherited()
    for database in _busy:  # the thread that holds the lock is not in this process
        database._lock = threading.RLock()
    _release()


if hasattr(os, "register_at_fork"):  # not on Windows, which never forks
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_release,
        after_in_child=_after_fork_in_child,
    )


def _is_read_only(path: Path) -> bool:
    """Whether a file, or the folder that its log would be in, may not be written."""
    return path.exists() and not all(os.access(p, os.W_OK) for p in (path, path.parent))


def _connect_to_read(path: Path) -> sqlite3.Connection:
    """Connects to a file that may only be read, as in the image of a container."""
    log = path.with_name(f"{path.name}-wal")
    # Without a log nobody is writing; with one, SQLite reads both if it finds its shared memory.
    immutable = "" if log.exists() and log.stat().st_size else "&immutable=1"
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro{immutable}",
        timeout=_BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,
        uri=True,
    )
    try:
        connection.execute(_CACHE)
        connection.execute("PRAGMA trusted_schema=OFF")
        connection.execute("PRAGMA cell_size_check=ON")
        _claim(connection, path)
        connection.text_factory = lambda data: data.decode("utf-8", "replace")
    except BaseException:
        connection.close()
        raise
    return connection


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
    )
    try:
        connection.execute(_CACHE)
        # The file may be anybody's: what its schema says is not to run, and pages are checked.
        connection.execute("PRAGMA trusted_schema=OFF")
        connection.execute("PRAGMA cell_size_check=ON")
        _claim(connection, path)
        _use_write_ahead_log(connection)
        connection.execute("PRAGMA synchronous=NORMAL")
        # What is deleted is overwritten: whoever asks for deletion means the bytes.
        connection.execute("PRAGMA secure_delete=ON")
        # Damaged text is for those who read it to recognise.
        connection.text_factory = lambda data: data.decode("utf-8", "replace")
    except BaseException:
        connection.close()
        raise
    return connection


def _claim(connection: sqlite3.Connection, path: Path) -> None:
    """Marks a new file as ours; refuses a file of another program before touching it."""
    query = "SELECT application_id, (SELECT count(*) FROM sqlite_master) FROM pragma_application_id"
    owner, tables = connection.execute(query).fetchone()
    if owner == _APPLICATION_ID:
        query = "SELECT type, name FROM sqlite_master WHERE type IN ('trigger', 'view')"
        if (strange := connection.execute(query).fetchone()) is not None:
            msg = (
                f"{path} has the {strange[0]} {strange[1]!r}, which this library never makes; "
                "delete the file and build it again"
            )
            raise StoreError(msg)
        return
    if owner or tables:
        msg = f"{path} is another program's SQLite file and was left as it is; choose another path"
        raise StoreError(msg)
    connection.execute(f"PRAGMA application_id={_APPLICATION_ID}")


def _use_write_ahead_log(connection: sqlite3.Connection) -> None:
    """Switches the file to write-ahead logging, which SQLite's busy timeout does not cover."""
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
