"""Runs the checks of `*_on_gpu.py` on the stand-in, each file in a process of its own.

One by one: ``python -m pytest -n0 -p tests.gpu.standin tests/gpu/training_on_gpu.py -k checkpoint``.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.services import missing

FILES = sorted(Path(__file__).parent.glob("*_on_gpu.py"))
SLOW = {"networks_on_gpu", "commands_on_gpu"}
"""Files without a quick check."""


def test_there_are_checks() -> None:
    assert {file.stem for file in FILES} > SLOW


@pytest.mark.parametrize(
    "file",
    [pytest.param(file, marks=pytest.mark.slow if file.stem in SLOW else (), id=file.stem) for file in FILES],
)
def test_checks_on_the_stand_in(file: Path, request: pytest.FixtureRequest) -> None:
    if torch.version.cuda is None or sys.platform != "linux":
        pytest.skip("needs torch with CUDA for Linux")
    if shutil.which("cc") is None:
        missing("a C compiler, as Debian's gcc and libc6-dev")
    chosen = request.config.getoption("-m")
    options = ["-n0", "-p", "tests.gpu.standin", "-p", "no:cacheprovider", "--no-header", "-q", "-m", chosen]
    command = [sys.executable, "-m", "pytest", *options, str(file)]
    child = subprocess.run(command, cwd=request.config.rootpath, capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stdout + child.stderr
