"""What the pages say can be done is done: rows are added, commands parse, scripts end as they should."""

import importlib
import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
import yaml

from tests.clips import write_experiment
from vidclf.cli.app import app
from vidclf.cli.console import print_json
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


def commands_of(page: Path) -> list[list[str]]:
    """The words of each vidclf command in a page's blocks of shell, but for those with parts in brackets."""
    found = []
    for block in re.findall(r"^```(?:sh)?\n(.*?)^```", page.read_text(), flags=re.M | re.S):
        for line in block.splitlines():
            if begun := re.match(r"(?:\$ |exec )?vidclf (?!.*\[)", line):
                lexer = shlex.shlex(line[begun.end() :], posix=True, punctuation_chars=True)
                lexer.whitespace_split = True
                words = list(lexer)
                ends = [place for place, word in enumerate(words) if set(word) <= set("();<>|&")]
                found.append(words[: min(ends, default=None)])
    return found


def test_every_command_of_the_pages_parses() -> None:
    found = [
        words for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")) for words in commands_of(page)
    ]
    assert len(found) > 40
    for words in found:
        command: Any = typer.main.get_command(app)
        while hasattr(command, "commands"):
            command = command.commands[words.pop(0)]
        command.make_context(command.name, words)


SCRIPTS = dict(
    re.findall(
        r"```sh\n(?=#!/usr/bin/env bash\n# (ci/\S+)\n)(.*?)```",
        (ROOT / "docs" / "ci.md").read_text(),
        flags=re.S,
    )
)
STAND_IN = """#!/bin/sh
echo "${0##*/}" "$@" >> called
case "$1" in
promote | watch) cat answer; exit $(cat code) ;;
esac
"""
"""Of vidclf and curl."""


@pytest.fixture
def ci(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Any:
    """Runs a script of the page: its exit code, and the commands that were called."""
    for name in ("vidclf", "curl"):
        (tmp_path / name).write_text(STAND_IN)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("WEBHOOK", "http://127.0.0.1/hook")

    def run(name: str, code: int, answer: Any = None) -> tuple[int, list[str]]:
        print_json(answer)
        (tmp_path / "answer").write_text(capfd.readouterr().out)
        (tmp_path / "code").write_text(str(code))
        (tmp_path / "called").write_text("")
        ended = subprocess.run(["bash", "-c", SCRIPTS[name]], cwd=tmp_path, check=False)
        return ended.returncode, [line.split()[1] for line in (tmp_path / "called").read_text().splitlines()]

    return run


def test_a_job_ends_as_promote_does_and_calls_the_hook_for_a_new_champion_alone(ci: Any) -> None:
    assert ci("ci/train.sh", 0, {"created": True}) == (0, ["tune", "compare", "promote", "--fail"])
    assert ci("ci/train.sh", 0, {"created": False}) == (0, ["tune", "compare", "promote"])
    assert ci("ci/train.sh", 3, {"created": False}) == (3, ["tune", "compare", "promote"])
    assert ci("ci/watch.sh", 1) == (1, ["watch"])


def test_the_workflow_runs_the_pages_scripts_and_hands_the_store_on() -> None:
    (text,) = re.findall(r"```yaml\n(# \.github/.*?)```", (ROOT / "docs" / "ci.md").read_text(), flags=re.S)
    steps = yaml.safe_load(text)["jobs"]["vidclf"]["steps"]
    (script,) = [step["run"] for step in steps if "bash" in step.get("run", "")]
    assert {f"ci/{name}.sh" for name in re.findall(r"(?:&&|\|\|) '(\w+)'", script)} == set(SCRIPTS)
    restored, saved = [step["with"] for step in steps if "cache/" in step.get("uses", "")]
    assert (restored["path"], restored["key"]) == (saved["path"], saved["key"])
    assert saved["key"].startswith(restored["restore-keys"])
