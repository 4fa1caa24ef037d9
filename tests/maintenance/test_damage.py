"""A store or cache with a file cut short at any byte: it recovers, or one message says what is wrong."""

import logging
import multiprocessing
import os
import random
import shutil
from collections import Counter
from multiprocessing.queues import Queue
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.attempts import fresh_store
from tests.clips import write_experiment, write_squares, write_study
from tests.rounds import rounds
from vidclf.cli.app import app

CUTS = int(os.environ.get("VIDCLF_CUTS", rounds(brief="6", full="20")))
"""Files that are cut, each in a copy of its own."""


def answer(arguments: list[str], answers: "Queue[tuple[int, str]]") -> None:
    result = CliRunner().invoke(app, arguments)
    answers.put((result.exit_code, result.output))


def run(*arguments: object) -> tuple[int, str]:
    """A command in a process of its own: no connection outlives the database that it was opened to."""
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    process = context.Process(target=answer, args=([str(each) for each in arguments], answers))
    process.start()
    found: tuple[int, str] = answers.get(timeout=120)
    process.join()
    return found


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_file_cut_at_any_byte(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = write_squares(tmp_path / "squares", groups=6)
    write_experiment(tmp_path / "forest.toml", "forest", manifest)
    study = write_study(
        tmp_path / "study.toml",
        "forest.toml",
        trials=2,
        top="keep = 1",
        sampler='name = "random"',
        space='"model.min_leaf" = { low = 1, high = 2 }',
    )
    whole = fresh_store(tmp_path, tmp_path_factory).folder
    monkeypatch.setenv("VIDCLF_STORE", str(whole))
    monkeypatch.setenv("VIDCLF_CACHE", str(whole / "cache"))
    assert run("tune", study)[0] == 0
    kept = tmp_path / "kept"
    shutil.copytree(whole, kept)
    files = sorted(path.relative_to(kept) for path in kept.rglob("*") if path.is_file())
    files = [name for name in files if not name.name.endswith(".lock") and (kept / name).stat().st_size]
    draw = random.Random(0)
    answers: Counter[str] = Counter()
    for _ in range(CUTS):
        name = draw.choice(files)
        at = draw.randrange((kept / name).stat().st_size)
        shutil.rmtree(whole)
        shutil.copytree(kept, whole)
        os.truncate(whole / name, at)
        case = f"{name} cut at byte {at}"
        code, said = run("tune", study)
        assert code in (0, 2), f"{case}: exit {code}\n{said}"
        assert code == 0 or str(name.name) in said, f"{case}: {said}"
        doctor, found = run("doctor", "--fix")
        assert doctor in (0, 1), f"{case}: doctor {doctor}\n{found}"
        # What tune does not get over, doctor names or mends.
        assert code == 0 or doctor == 0 or name.name in found.replace("\n", ""), f"{case}\n{said}\n{found}"
        answers[f"tune {code}, doctor {doctor}"] += 1
    logging.getLogger(__name__).warning("%s", dict(answers))
    assert answers["tune 0, doctor 0"] > CUTS / 2
