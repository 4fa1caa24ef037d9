"""What Windows lacks, and how vidclf is imported in a process of Linux as if it ran there."""

import contextlib
import importlib
import os
import pkgutil
import signal
import sys
from collections.abc import Iterator
from multiprocessing import connection, context

import psutil  # noqa: F401  # other libraries find Linux: they are imported before
import pytest
from filelock import ReadWriteLock  # noqa: F401

MODULES = frozenset(("fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"))
_OS = """
F_LOCK O_CLOEXEC O_DIRECTORY O_NOFOLLOW O_NONBLOCK O_SYNC WEXITSTATUS WIFEXITED WIFSIGNALED WNOHANG WTERMSIG
chown confstr ctermid fchmod fchown fdatasync fork forkpty fstatvfs getegid geteuid getgid getgroups
getloadavg getpgid getpgrp getpriority getresuid getsid getuid killpg lchown lockf memfd_create mkfifo mknod
nice openpty posix_fadvise posix_fallocate posix_spawn pread preadv pwrite pwritev sched_getaffinity
sched_setaffinity sched_yield sendfile setegid seteuid setgid setpgid setpriority setsid setuid statvfs sync
sysconf ttyname uname wait wait3 wait4 waitid
"""
_SIGNAL_OF_WINDOWS = """
Handlers NSIG SIGABRT SIGFPE SIGILL SIGINT SIGSEGV SIGTERM SIG_DFL SIG_IGN Signals default_int_handler
getsignal raise_signal set_wakeup_fd signal strsignal valid_signals
"""
NAMES = {
    "os": frozenset(_OS.split()),
    "signal": frozenset(name for name in dir(signal) if name[0] != "_")
    - frozenset(_SIGNAL_OF_WINDOWS.split()),
}
"""What Windows lacks of modules that it has."""


@contextlib.contextmanager
def as_on_windows() -> Iterator[None]:
    """Modules that are imported meanwhile find what Windows has, or what stands in for it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "platform", "win32")
        patch.setattr(connection, "PipeConnection", connection.Connection, raising=False)
        patch.setattr(signal, "SIGBREAK", signal.SIGUSR2, raising=False)
        patch.delitem(context._concrete_contexts, "forkserver")
        for name in MODULES:
            patch.setitem(sys.modules, name, None)  # to import it fails
        for module in (os, signal):
            for name in NAMES[module.__name__]:
                patch.delattr(module, name, raising=False)
        yield


def import_all() -> list[str]:
    """Imports all of vidclf as on Windows, other libraries as they are; the names of its modules."""
    import vidclf

    found = [module.name for module in pkgutil.walk_packages(vidclf.__path__, "vidclf.")]
    names = [name for name in found if not name.endswith("__main__")]
    for name in names:
        importlib.import_module(name)
    for name in names:
        del sys.modules[name]
    with as_on_windows():
        for name in names:
            importlib.import_module(name)
    return names
