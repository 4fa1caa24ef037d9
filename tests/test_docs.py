"""What the pages say can be done is done: rows are added as docs/extending.md has them."""

import importlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.clips import write_experiment
from vidclf.data.manifest import Manifest
from vidclf.models.features import compute_features
from vidclf.runs.experiment import load_experiment
from vidclf.runs.store import open_store
from vidclf.search.definition.samplers import build_sampler
from vidclf.search.definition.study_file import load_study

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(
    r"```python\n# (\S+): (\w+)\n(.*?)```", (ROOT / "docs" / "extending.md").read_text(), flags=re.S
)


STUDY = """
base = "svm.toml"
objective = { metric = "val/macro_f1", direction = "maximize" }
budget = { trials = 4 }
sampler = { name = "nsgaiii", population_size = 30 }
space = { "model.C" = { low = 0.1, high = 10.0 } }
"""


@pytest.fixture
def extended(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Adds every row of the page; its name by registry."""
    names = {}
    for module_name, registry, text in BLOCKS:
        module = importlib.import_module(module_name)
        definitions, _, row = text.rpartition('\n"') if text.startswith(("def", "class")) else ("", "", text)
        row = row if row.lstrip().startswith('"') else f'"{row}'
        space: dict[str, Any] = dict(vars(module))
        exec(definitions, space)
        ((name, spec),) = eval("{" + row + "}", space).items()
        monkeypatch.setitem(getattr(module, registry), name, spec)
        names[registry] = name
        assert len(text.splitlines()) < 20
    return names


def test_a_network_a_feature_and_a_sampler_are_added_as_the_page_says(
    extended: dict[str, str], tmp_path: Path, squares: Manifest
) -> None:
    assert extended == {"NETWORKS": "resnet34", "FEATURES": "brightness", "SAMPLERS": "nsgaiii"}
    frames = np.full((20, 32, 32, 3), 100, np.uint8)
    assert compute_features(frames, ["brightness"])["brightness"].tolist() == [100.0] * 16

    manifest = Path(squares.name)
    network = write_experiment(tmp_path / "net.toml", "frames2d", manifest)
    network.write_text(network.read_text().replace("tiny2d", "resnet34").replace("size = 32", "size = 40"))
    assert load_experiment(network).resolved().model.frozen_stages == 0  # type: ignore[attr-defined]

    write_experiment(tmp_path / "svm.toml", "svm", manifest)
    path = tmp_path / "s.toml"
    path.write_text(STUDY)
    study = load_study(path, {}, open_store())
    assert study.file.sampler.options == {"population_size": 30}
    sampler = build_sampler(study.file.sampler, study.space, 0)
    assert type(sampler).__name__ == "NSGAIIISampler"
    assert sampler._population_size == 30


def test_every_page_is_linked_and_every_link_leads_somewhere() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    linked = set()
    for page in pages:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
            linked.add((page.parent / target).resolve())
    assert {page.resolve() for page in pages[1:]} <= linked
    assert len(linked) > len(pages)


def test_every_file_that_the_pages_name_is_there() -> None:
    pages = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md"))
    path = r"\b(?:experiments|studies|benchmarks|tests|vidclf)/[\w./-]+\.(?:toml|py)\b"
    named = {name for page in pages for name in re.findall(path, page.read_text())}
    named = {name for name in named if "mine" not in name and "my_clips" not in name}
    assert len(named) > 10
    assert not [name for name in sorted(named) if not (ROOT / name).exists()]
