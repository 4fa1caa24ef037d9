"""Every test has a cache and a store of its own, and no way to the user's."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two test processes share two cores


@pytest.fixture(autouse=True)
def isolated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    home: Path = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VIDCLF_CACHE", str(home / "cache"))
        patch.setenv("VIDCLF_STORE", str(home / "store"))
        for variable in ("MLFLOW_TRACKING_URI", "VIDCLF_STUDY_STORAGE", "VIDCLF_DATA"):
            patch.delenv(variable, raising=False)
        yield
