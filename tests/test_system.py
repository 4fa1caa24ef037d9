"""What systems do differently: on this one, and as on Windows as far as that works here."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from multiprocessing import Pipe
from pathlib import Path

import pytest

import vidclf
from tests.deeds import act
from tests.windows import MODULES, NAMES

ROOT = Path(vidclf.__file__).parent
HERE, WINDOWS = "", "from tests import on_windows\n"
both = pytest.mark.parametrize("way", [HERE, WINDOWS], ids=["here", "windows"])


def named(source: str) -> Iterator[str]:
    """What code names that not every system has."""
    yield from (text for text in ("forkserver", "/proc/") if text in source.lower())
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from {alias.name for alias in node.names} & MODULES
        elif isinstance(node, ast.ImportFrom) and node.module in NAMES.keys() | MODULES:
            yield from {node.module} & MODULES
            yield from {alias.name for alias in node.names} & NAMES.get(node.module, MODULES)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield from {node.attr} & NAMES.get(node.value.id, MODULES)
        elif isinstance(node, ast.keyword):
            yield from {str(node.arg)} & {"pass_fds", "preexec_fn"}


@pytest.mark.slow
def test_one_module_alone_names_what_not_every_system_has() -> None:
    found = {path: {*named(path.read_text(encoding="utf-8"))} for path in ROOT.rglob("*.py")}
    assert len(found) > 100
    own = found.pop(ROOT / "system.py")
    assert own > {"fcntl", "resource", "SIGHUP", "SIGUSR1", "setitimer", "getuid", "forkserver", "/proc/"}
    assert {path.name: names for path, names in found.items() if names} == {}


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("import fcntl", "fcntl"),
        ("def f():\n    from resource import getrusage", "resource"),
        ("from os import path, fork", "fork"),
        ("import os\nx = os.pread(0, 1, 0)", "pread"),
        ("x = [signal.SIGINT, signal.SIGALRM]", "SIGALRM"),
        ("subprocess.Popen(command, pass_fds=[1])", "pass_fds"),
        ("from multiprocessing.context import ForkServerProcess", "forkserver"),
    ],
)
def test_such_a_name_is_found(line: str, name: str) -> None:
    assert name in named(line)


@pytest.mark.slow
def test_every_module_can_be_imported_on_windows() -> None:
    code = (
        "import sys; from tests import windows; names = windows.import_all();"
        "own = sys.modules['vidclf.system'];"
        "print(len(names), [number.name for number in own.stop_signals()], hasattr(own, 'fcntl'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    count, _, rest = done.stdout.partition(" ")
    assert rest == "['SIGINT', 'SIGUSR2'] False\n", done.stderr  # the second stands in for SIGBREAK
    assert int(count) > 100


@pytest.mark.long
def test_types_hold_on_the_other_systems() -> None:
    """What typeshed knows to be missing there is asked for nowhere."""
    for name in ("darwin", "win32"):
        command = [
            sys.executable,
            "-m",
            "mypy",
            "-p",
            "vidclf",
            "--platform",
            name,
            "--cache-dir",
            "/dev/null",
        ]
        done = subprocess.run(command, cwd=ROOT.parent, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


HOLDER = """
import sys
from pathlib import Path
from vidclf.system import Lock
lock = Lock(Path(sys.argv[1]))
for line in sys.stdin:
    print(lock.acquire(shared=line == "share\\n", wait=False), flush=True)
"""


class Holder:
    """Another process, which locks a file."""

    def __init__(self, stack: ExitStack, way: str, path: Path) -> None:
        command = [sys.executable, "-c", way + HOLDER, str(path)]
        self.process = stack.enter_context(
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        )
        stack.callback(self.process.kill)

    def does(self, what: str) -> bool:
        """Whether it could lock at once."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(f"{what}\n")
        return self.process.stdout.readline() == "True\n"


@both
@pytest.mark.slow
def test_a_lock_excludes_unless_it_is_shared_and_falls_with_its_holder(way: str, tmp_path: Path) -> None:
    with ExitStack() as stack:
        one, other = (Holder(stack, way, tmp_path) for _ in range(2))
        assert one.does("lock")
        assert not other.does("lock")
        assert not other.does("share")
        assert one.does("share")
        assert other.does("share")
        assert not Holder(stack, way, tmp_path).does("lock")
        other.process.kill()
        other.process.wait()
        assert one.does("lock")
        one.process.kill()
        one.process.wait()
        assert Holder(stack, way, tmp_path).does("lock")


CACHE = """
import sys
from vidclf.data import cache
if sys.argv[1] == "hold":
    cache.hold("models")
    print("held", flush=True)
    sys.stdin.read()
cache.clear()
"""


@both
@pytest.mark.slow
def test_a_cache_in_use_is_not_cleared(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDCLF_CACHE", str(tmp_path))
    entries = [tmp_path / name / "entry" for name in ("clips", "models")]
    for entry in entries:
        entry.parent.mkdir()
        entry.touch()
    clear = [sys.executable, "-c", way + CACHE]
    with subprocess.Popen([*clear, "hold"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as user:
        assert user.stdout
        assert user.stdout.readline() == b"held\n"
        subprocess.run([*clear, "clear"], check=True)
        user.kill()
    assert [entry.exists() for entry in entries] == [False, True]
    subprocess.run([*clear, "clear"], check=True)
    assert not entries[1].exists()


@both
@pytest.mark.slow
def test_a_guarded_task_ends_with_its_time_though_its_parent_sleeps(way: str) -> None:
    """The limits of `guarded`: what it does on either system once it runs."""
    here, theirs = Pipe()
    boot = "from vidclf import system; from vidclf.data import guarded; print(system.TIMED_OUT, flush=True);"
    command = [sys.executable, "-c", f"{way}{boot} guarded.run_child({theirs.fileno()})"]
    with subprocess.Popen(command, pass_fds=[theirs.fileno()], stdout=subprocess.PIPE, text=True) as child:
        theirs.close()
        here.send((act, -0.5, 2**12, None))  # a half of the second that is added
        assert here.recv() is None
        for task in ("quick", "quick", "hang"):
            here.send(task)
        assert [here.recv() for _ in range(2)] == [(True, "quick")] * 2
        assert child.wait(timeout=60) == int(child.communicate()[0])


INTERRUPT = """
from tests.on_windows import compute_until_interrupted, system
context = system.process_context([])
system.start_server()
here, theirs = context.Pipe()
interrupt = system.Interrupt()
process = context.Process(target=compute_until_interrupted, args=(interrupt, theirs))
process.start()
for _ in range(2):
    print(here.recv())
    interrupt.send(process.pid)
print(here.recv(), context.get_start_method())
"""


@pytest.mark.slow
def test_a_process_of_windows_is_interrupted_by_a_pipe() -> None:
    """As a worker is by a signal elsewhere: while it computes, and as often as that is wanted."""
    done = subprocess.run([sys.executable, "-c", INTERRUPT], capture_output=True, text=True, check=False)
    assert done.stdout == "0\n1\n2 spawn\n", done.stderr


SESSION = """
import subprocess, sys
import psutil
from vidclf import system
sleep = "import subprocess, sys; p = subprocess.Popen(['sleep', '60']); print(p.pid, flush=True); p.wait()"
leader = subprocess.Popen([sys.executable, "-c", sleep], stdout=subprocess.PIPE, start_new_session=True)
child = psutil.Process(int(leader.stdout.readline()))
system.end_session(leader)
psutil.wait_procs([child], timeout=10)
print(leader.poll() is not None, child.is_running() and child.status() != psutil.STATUS_ZOMBIE)
"""


@both
@pytest.mark.slow
def test_a_server_ends_with_all_that_it_started(way: str) -> None:
    done = subprocess.run([sys.executable, "-c", way + SESSION], capture_output=True, text=True, check=False)
    assert done.stdout == "True False\n", done.stderr
