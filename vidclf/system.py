"""What operating systems do differently: locks, limits, signals, child processes, what the machine is.

Windows has no `fcntl` and no `resource`, and a process there gets no signals from others: locks are those of
`filelock`, a thread counts seconds, and a pipe interrupts. Linux and macOS differ in what ``/proc`` tells.
"""

import contextlib
import errno
import multiprocessing
import os
import platform
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from multiprocessing import connection as connections
from multiprocessing import context
from pathlib import Path
from types import FrameType

Handler = Callable[[int, FrameType | None], object]

if sys.platform == "win32":
    import _thread
    import getpass
    import sqlite3
    import traceback

    import psutil
    from filelock import ReadWriteLock, Timeout

    Connection = connections.PipeConnection
    """An end of a pipe."""
    TIMED_OUT = 128 + 14
    """Exit code of a process that `deadline` has ended."""
    _STOPPING = (signal.SIGINT, signal.SIGBREAK)

    class Lock:
        """A lock against other threads and processes of this host; it falls with its holder.

        It is a file of its own, ``NAME.lock`` or ``.lock`` in a folder, as nobody reads what Windows locks.
        """

        def __init__(self, path: Path, *, create: bool = False) -> None:
            """Opens it; `acquire` locks.

            Args:
                path: The file or folder to lock.
                create: Whether the file need not exist.
            """
            if not create:
                path.stat()
            file = path / ".lock" if path.is_dir() else path.with_name(f"{path.name}.lock")
            with _as_os_error():
                self._lock = ReadWriteLock(file, is_singleton=False)
            self.close = weakref.finalize(self, self._lock.close)

        def acquire(self, *, shared: bool = False, wait: bool = True) -> bool:
            """Locks, in place of the lock that is held already; whether it could without waiting.

            Args:
                shared: With others that share it, or alone.
                wait: Whether to wait until it can, or to give up at once.
            """
            self._lock.release(force=True)
            try:
                with _as_os_error():
                    (self._lock.acquire_read if shared else self._lock.acquire_write)(blocking=wait)
            except Timeout as error:
                traceback.clear_frames(error.__traceback__)  # a cycle in it would hold this object
                return False
            return True

    @contextlib.contextmanager
    def _as_os_error() -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise OSError(errno.ENOLCK, str(error)) from None

    def sync_folder(folder: Path) -> None:
        """Has the disk keep the name of a new file; NTFS does by itself."""

    def limit_memory(megabytes: int) -> None:
        """Refuses no allocation: the limit on time must do."""

    @contextlib.contextmanager
    def deadline(seconds: float) -> Iterator[None]:
        """Ends this process where the block takes longer, unless it holds Python's lock all the while."""
        timer = threading.Timer(seconds, os._exit, [TIMED_OUT])
        timer.daemon = True
        timer.start()
        yield
        timer.cancel()

    def _peak_memory() -> int:
        return psutil.Process().memory_info().peak_wset

    class Interrupt:
        """Has a process that it is given to call a function in its main thread, whatever runs there."""

        def __init__(self) -> None:
            self._receiver, self._sender = multiprocessing.Pipe(duplex=False)

        def send(self, _: int) -> None:
            """Interrupts the process of that id."""
            with contextlib.suppress(OSError):
                self._sender.send_bytes(b"\n")

        def handle(self, handler: Handler) -> None:
            """Sets what this process does from now on; its main thread calls this."""
            signal.signal(signal.SIGTERM, handler)  # which no other process can send
            threading.Thread(target=self._listen, daemon=True).start()

        def _listen(self) -> None:
            with contextlib.suppress(EOFError, OSError):
                while self._receiver.recv_bytes():
                    _thread.interrupt_main(signal.SIGTERM)

    def process_context(_: list[str]) -> context.SpawnContext:
        """How processes are started that share the machine's work; each imports what it needs."""
        return multiprocessing.get_context("spawn")

    def start_server() -> None:
        """Nothing: no process starts the others."""

    def start_child(command: list[str], connection: Connection) -> subprocess.Popen[bytes]:
        """Starts a command that inherits a connection, for `inherited` by its number; it reads no input."""
        handle = connection.fileno()
        os.set_handle_inheritable(handle, True)
        startup = subprocess.STARTUPINFO(lpAttributeList={"handle_list": [handle]})
        return subprocess.Popen(command, startupinfo=startup, stdin=subprocess.DEVNULL)

    def inherited(number: int) -> Connection:
        """The connection of `start_child`."""
        return Connection(number)

    def end_session(leader: subprocess.Popen[bytes]) -> None:
        """Ends a process and all that it has started."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in psutil.Process(leader.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        leader.kill()
        leader.wait()

    def user_id() -> str:
        """Tells users of this machine apart, in a file's name."""
        return getpass.getuser()

else:
    import fcntl
    import resource
    from multiprocessing import forkserver

    Connection = connections.Connection
    """An end of a pipe."""
    TIMED_OUT = -signal.SIGALRM
    """Exit code of a process that `deadline` has ended."""
    _STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    class Lock:
        """A lock against other threads and processes of this host; it falls with its holder."""

        def __init__(self, path: Path, *, create: bool = False) -> None:
            """Opens it; `acquire` locks.

            Args:
                path: The file or folder to lock.
                create: Whether the file need not exist.
            """
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT if create else os.O_RDONLY, 0o666)
            self.close = weakref.finalize(self, os.close, self._descriptor)

        def acquire(self, *, shared: bool = False, wait: bool = True) -> bool:
            """Locks, in place of the lock that is held already; whether it could without waiting.

            Args:
                shared: With others that share it, or alone.
                wait: Whether to wait until it can, or to give up at once.
            """
            kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
            try:
                fcntl.flock(self._descriptor, kind if wait else kind | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

    def sync_folder(folder: Path) -> None:
        """Has the disk keep the name of a new file."""
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def limit_memory(megabytes: int) -> None:
        """Refuses allocations beyond what is loaded and so many MiB; on macOS the limit on time must do."""
        status = Path("/proc/self/statm")
        if status.exists():
            own = int(status.read_text().split()[0]) * resource.getpagesize()
            limit = own + megabytes * 2**20
            _, most = resource.getrlimit(resource.RLIMIT_AS)
            if most != resource.RLIM_INFINITY:  # what a batch system allows can only be lowered
                limit = min(limit, most)
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    @contextlib.contextmanager
    def deadline(seconds: float) -> Iterator[None]:
        """Has the kernel end this process where the block takes longer, whatever it does."""
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        yield
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _peak_memory() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS

    class Interrupt:
        """Has a process that it is given to call a function in its main thread, whatever runs there."""

        def send(self, process: int) -> None:
            """Interrupts the process of that id."""
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGUSR1)

        def handle(self, handler: Handler) -> None:
            """Sets what this process does from now on; its main thread calls this."""
            signal.signal(signal.SIGUSR1, handler)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})

    def process_context(preloaded: list[str]) -> context.ForkServerContext:
        """How processes are started that share the machine's work: forked from a server.

        Args:
            preloaded: Modules that it imports once for all.
        """
        made = multiprocessing.get_context("forkserver")
        made.set_forkserver_preload(preloaded)
        return made

    def start_server() -> None:
        """Starts the server of `process_context` where it does not run.

        It inherits blocked signals: Ctrl-C and a closed terminal are the supervisor's matter, and an
        `Interrupt` must not kill a process that is starting.
        """
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP, signal.SIGUSR1})
        try:
            forkserver.ensure_running()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)

    def start_child(command: list[str], connection: Connection) -> subprocess.Popen[bytes]:
        """Starts a command that inherits a connection, for `inherited` by its number; it reads no input."""
        return subprocess.Popen(command, pass_fds=[connection.fileno()], stdin=subprocess.DEVNULL)

    def inherited(number: int) -> Connection:
        """The connection of `start_child`."""
        return Connection(number)

    def end_session(leader: subprocess.Popen[bytes]) -> None:
        """Ends a process that was started in a session of its own, and all of that session."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(leader.pid, signal.SIGTERM)
        try:
            leader.wait(timeout=10)
        except subprocess.TimeoutExpired:
            os.killpg(leader.pid, signal.SIGKILL)
            leader.wait()

    def user_id() -> str:
        """Tells users of this machine apart, in a file's name."""
        return str(os.getuid())


def stop_signals() -> list[signal.Signals]:
    """Signals that ask a command to stop; that of a closed terminal not under nohup, which ignores it."""
    closed = _STOPPING[-1]
    return [*_STOPPING] if signal.getsignal(closed) is not signal.SIG_IGN else [*_STOPPING[:-1]]


def leave_terminal_to_parent() -> None:
    """Ignores Ctrl-C and the closed terminal, which reach a whole group of processes: its parent decides."""
    for number in (_STOPPING[0], _STOPPING[-1]):
        signal.signal(number, signal.SIG_IGN)


def reset_peak_memory() -> None:
    """Has `peak_memory` count from now on; only Linux can."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_memory() -> int:
    """Bytes of main memory that this process has held at most."""
    status = Path("/proc/self/status")
    if not status.exists():
        return _peak_memory()
    # A child's ru_maxrss begins with its parent's, VmHWM is its own.
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 2**10


def boot_id() -> str:
    """Identifies this machine's boot."""
    path = Path("/proc/sys/kernel/random/boot_id")
    if path.exists():
        return path.read_text().strip()
    import psutil

    return str(round(psutil.boot_time() / 60))  # only the time is known, and it drifts by seconds


def cpu_name() -> str:
    """The processor's model, as its maker calls it."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return output_of("sysctl", "-n", "machdep.cpu.brand_string") or platform.processor()
    names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
    return names[0].partition(":")[2].strip() if names else platform.machine()


def output_of(*command: str) -> str:
    """What a command prints; empty where it fails or does not exist."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
