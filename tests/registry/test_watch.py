"""`vidclf watch`: new clips beside those of val, through the command line."""

import json
import shutil
from pathlib import Path

import pytest

from tests.clips import write_experiment, write_furnished, write_squares
from tests.command import run
from tests.pages import read_page
from vidclf import config
from vidclf.runs.store import Store
from vidclf.tracking.lookup import attempt_of


@pytest.mark.slow
def test_clips_that_look_the_same_and_clips_that_do_not(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = write_squares(tmp_path / "squares", groups=24)
    experiment = write_experiment(tmp_path / "svm.toml", "svm", manifest)
    trained = json.loads(run("train", experiment, "--json").stdout)
    run("promote", trained["run_id"], "--as", "squares", "--accept", "untested", "--yes")

    same, other = tmp_path / "same", tmp_path / "other"
    for folder in (same, other):
        folder.mkdir()
    for group in range(2, 24, 4):  # those of test
        for label in ("down", "right"):
            shutil.copy(tmp_path / "squares" / label / f"v_{label}_g{group:02}_c00.avi", same)
    (same / "broken.avi").write_bytes(b"no video")
    for room in range(6):
        write_furnished(other / f"v_room_g{room:02}_c00.avi", room, "a")

    found = json.loads(run("watch", "squares@champion", same, "--json", "--label", "3").stdout)
    assert found["alarm"] is False
    assert found["clips"] == {"val": 12, "new": 12}
    assert found["groups"] == {"val": 6, "new": 6, "by": "names"}
    assert [Path(path).name for path in found["unreadable"]] == ["broken.avi"]
    assert [each["what"] for each in found["differences"]] == ["confidence", "classes", "appearance"]
    assert len({each["group"] for each in found["label_next"]}) == 3
    assert sum(share["new"] for share in found["shares"].values()) == pytest.approx(1.0)

    page = tmp_path / "page.html"
    said = run("watch", trained["run_id"], other, "--to", page, expect=1)
    assert "The new clips differ from those of val (p <= 0.05): " in said.stdout
    sections = read_page(page)
    [curves] = sections["How sure the model is"].figures
    assert [trace.name for trace in curves.data] == ["val", "new clips"]
    assert len(curves.data[1].x) == 6
    [points] = sections["What it sees"].figures
    assert sorted(points.data[1].text) == [f"v_room_g{room:02}_c00.avi" for room in range(6)]
    assert len(sections["Label these next"].pictures) >= 6

    run("watch", "squares@champion", tmp_path / "nowhere", expect=2)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no videos in it" in run("watch", "squares@champion", empty, expect=2).stderr
    assert "nothing" in run("watch", "nothing@champion", same, expect=2).stderr
    manifest.write_text(manifest.read_text().replace("down,g03", "right,g03"))
    assert "not those" in run("watch", "squares@champion", same, expect=2).stderr
    shutil.rmtree(tmp_path / "squares")
    assert "not there any more" in run("watch", "squares@champion", same, expect=2).stderr


@pytest.mark.slow
def test_a_model_of_a_study_by_folds_is_compared_with_its_fold(tmp_path: Path, store: Store) -> None:
    manifest = write_squares(tmp_path / "squares", groups=12)
    text = manifest.read_text()
    manifest.write_text(text.replace(",val", ",train").replace(",test", ",train"))
    experiment = write_experiment(tmp_path / "svm.toml", "svm", manifest)
    trained = json.loads(run("train", experiment, "--set", "data.folds=3", "--json").stdout)
    attempt = attempt_of(store, trained["run_id"])
    assert attempt is not None
    tree = config.read_toml(attempt.config)
    tree["data"]["folds"] = 0  # as a trial of a study has it: the fold is that of its model
    config.write_toml(tree, attempt.config)
    found = json.loads(run("watch", trained["run_id"], tmp_path / "squares", "--json").stdout)
    assert found["clips"] == {"val": 8, "new": 24}
