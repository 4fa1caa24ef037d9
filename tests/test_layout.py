"""Imports run one way: each package of vidclf knows only those below it."""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

import vidclf
from tests.clips import write_experiment
from tests.command import run
from vidclf.data.manifest import Manifest
from vidclf.runs.store import Store

ROOT = Path(vidclf.__file__).parent
FLOORS = (
    ("config", "labels", "exceptions", "progress", "system"),
    ("data",),
    ("evaluation",),
    ("models",),
    ("inference",),
    ("reports",),
    ("scaffold",),
    ("runs",),
    ("workers",),
    ("tracking",),
    ("search.record",),
    ("search.report",),
    ("search.definition",),
    ("search.execution",),
    ("registry",),
    ("comparison",),
    ("review",),
    ("maintenance",),
    ("cli",),
    ("api",),
    ("", "__main__"),
)
"""From the ground up."""
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}


def floor_of(module: str) -> int:
    """Of a dotted name below ``vidclf``: that of the longest package that is listed."""
    parts = module.split(".")
    return next(
        FLOOR[name] for size in range(len(parts), -1, -1) if (name := ".".join(parts[:size])) in FLOOR
    )


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """What a module imports of vidclf, anywhere in it: the line, and the name below ``vidclf``."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.split(".")[0] == "vidclf":
                yield node.lineno, name.removeprefix("vidclf").lstrip(".")


def upward(root: Path) -> list[str]:
    """Imports that run back up."""
    found = []
    for path in sorted(root.rglob("*.py")):
        own = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix("__init__").rstrip(".")
        for line, name in imported(path):
            if floor_of(name) > floor_of(own):
                found.append(f"{path.relative_to(root)}:{line} imports {name}")
    return found


@pytest.mark.slow
def test_no_import_runs_back_up() -> None:
    assert len(list(ROOT.rglob("*.py"))) > 100
    assert upward(ROOT) == []


def test_every_package_has_a_floor() -> None:
    packages = {path.parent.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py")} - {".", "search"}
    assert {name.replace("/", ".") for name in packages} <= FLOOR.keys()


@pytest.mark.parametrize(
    "line",
    [
        "from vidclf.cli import app",
        "import vidclf.cli.app",
        "def f():\n    from vidclf.registry.gates import Gate",
        "import vidclf",
    ],
)
def test_an_import_that_runs_back_up_is_found(tmp_path: Path, line: str) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "video.py").write_text(line)
    (found,) = upward(tmp_path)
    assert found.startswith("data/video.py:")


@pytest.mark.slow
def test_no_test_imports_another_test_module() -> None:
    """What several test modules share stands in a helper, so that each can be read and run alone."""
    modules = sorted(Path(__file__).parent.rglob("*.py"))
    assert len(modules) > 80
    for path in modules:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, path
                assert not re.match(r"tests\.(.*\.)?test_", f"{node.module}."), path


@pytest.mark.slow
def test_commands_that_compute_nothing_import_no_library_that_does() -> None:
    """Each takes a second or more, which a user would wait for at every command."""
    code = (
        "import sys, vidclf.search.execution.tune, vidclf.comparison.page, vidclf.inference.predict;"
        "print([name for name in ('torch', 'torchvision', 'sklearn', 'scipy.stats', 'matplotlib', 'skimage')"
        " if name in sys.modules])"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
        == "[]\n"
    )


FEW_WHEELS = """
import runpy, sys
for name in ("av", "imagehash", "mlflow", "optuna", "plotly", "skops", "typer"):
    sys.modules[name] = None  # to import it fails
import vidclf.runs.experiment
runpy.run_path("benchmarks/gpu.py", run_name="__main__")
"""
TINY = (
    "--networks tiny3d --checked tiny2d --clips 4 --val 2 --batch 2 --epochs 2 --frames 4 --size 16 --grid 4 "
    "--stored 20 30 --edge 32"
)


@pytest.mark.slow
def test_stored_clips_are_trained_on_with_few_wheels(tmp_path: Path) -> None:
    """A rented GPU has torch, and little else."""
    command = [sys.executable, "-c", FEW_WHEELS, *TINY.split()]
    to = tmp_path / "gpu.json"
    subprocess.run([*command, "--to", str(to)], check=True, cwd=ROOT.parent, capture_output=True)
    figures = json.loads(to.read_text(encoding="utf-8"))
    assert len(figures["training"]) == 6  # the last compiled
    assert figures["checks"][0]["seed_repeats"]


@pytest.mark.slow
def test_training_imports_no_library_of_search_tracking_or_decoding() -> None:
    code = FEW_WHEELS.partition("runpy.run_path")[0] + "import vidclf.models.neural, vidclf.models.precision"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


WHOLE = {"mlflow", "optuna", "pandas", "plotly", "scipy.stats", "sklearn", "torch", "torchvision"}
"""Each takes half a second or more, which a user would wait for at every command."""


FORKED = """
import json, os, sys
from vidclf.cli.app import main
whole, commands = set(json.loads(sys.argv[1])), json.loads(sys.argv[2])
assert not whole & sys.modules.keys()
for command in commands:
    sys.stdout.flush()
    if os.fork() == 0:
        sys.argv[1:], code = command, 0
        try:
            main()
        except SystemExit as end:
            code = end.code
        print("imported", code or 0, *(whole & sys.modules.keys()), flush=True)
        os._exit(0)
    os.wait()
"""


def imports_of(*commands: Sequence[object]) -> list[set[str]]:
    """Those of `WHOLE` that each command imports, in a process of its own."""
    arguments = [json.dumps(sorted(WHOLE)), json.dumps([[*map(str, command)] for command in commands])]
    ran = subprocess.run(
        [sys.executable, "-c", FORKED, *arguments], check=True, capture_output=True, text=True
    )
    answers = [line.split()[1:] for line in ran.stdout.splitlines() if line.startswith("imported ")]
    assert [code for code, *_ in answers if code not in "02"] == [], ran.stderr
    return [set(imported) for _, *imported in answers]


@pytest.mark.slow
def test_what_each_command_imports(squares: Manifest, store: Store, tmp_path: Path) -> None:
    """A model on hand-made features is labelled with by no torch, and nothing local needs MLflow."""
    svm = write_experiment(tmp_path / "svm.toml", "svm", Path(squares.name))
    attempt = json.loads(run("train", svm, "--json").stdout)
    clip = squares.split("test")[0].clip_path
    mistyped = (
        ("status", "mistyped"),
        ("predict", "mistyped", clip),
        ("predict", "mistyped@champion", clip),
        ("export", "mistyped", "--format", "onnx", "--to", tmp_path / "x.onnx"),
        ("bench", "mistyped"),
        ("watch", "mistyped", tmp_path),
        ("confirm", "mistyped"),
        ("ui", "--study", "mistyped"),
        ("train", svm, "--set", "model.c=1"),
    )
    assert imports_of(*mistyped) == [set()] * len(mistyped)
    predict, compare, status, init = imports_of(
        ("predict", attempt["run_id"], clip), ("compare",), ("status",), ("init", tmp_path / "mistyped")
    )
    assert predict == {"scipy.stats", "sklearn", "pandas"}
    assert compare == {"optuna", "pandas"}
    assert status == {"optuna"}
    assert init <= {"scipy.stats"}
