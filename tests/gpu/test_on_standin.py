"""Runs the checks of `*_on_gpu.py` on the stand-in, in a process of their own.

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


def test_there_are_checks() -> None:
    assert len(FILES) >= 4


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_checks_on_the_stand_in(request: pytest.FixtureRequest) -> None:
    if torch.version.cuda is None or sys.platform != "linux":
        pytest.skip("needs torch with CUDA for Linux")
    if shutil.which("cc") is None:
        missing("a C compiler, as Debian's gcc and libc6-dev")
    options = ["-n0", "-p", "tests.gpu.standin", "-p", "no:cacheprovider", "--no-header", "-q"]
    command = [sys.executable, "-m", "pytest", *options, *map(str, FILES)]
    child = subprocess.run(command, cwd=request.config.rootpath, capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stdout + child.stderr
