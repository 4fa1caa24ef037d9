"""What a review is worth, and what judges a manifest that no study knows."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.clips import write_experiment, write_squares
from tests.review.fabricated import add_judged_study, mislabelled
from vidclf.data.manifest import Entry, read_manifest
from vidclf.exceptions import InputError
from vidclf.review.questions import label_questions
from vidclf.review.retrain import Gain, compare
from vidclf.review.subject import subject_of, unlabelled_clips
from vidclf.runs.experiment import load_experiment
from vidclf.runs.store import Store, find_store


@pytest.mark.slow
def test_before_and_after_are_of_the_clips_whose_label_did_not_change(tmp_path: Path) -> None:
    path = write_squares(tmp_path, groups=8, takes=2)
    after = read_manifest(path).entries
    experiment = load_experiment(write_experiment(tmp_path / "x.toml", "logistic", path))
    wrong = {"g00": "right", "g01": "right", "g03": "right", "g04": "right"}

    def flipped(entry: Entry) -> Entry:
        return replace(entry, label=wrong.get(entry.group, "down")) if entry.label == "down" else entry

    before = [flipped(entry) for entry in after]
    told: list[tuple[int, int]] = []
    gain = compare(experiment, before, after[1:], lambda done, total: told.append((done, total)))
    assert gain.clips == 24 - 8  # test's, and the flipped ones, of which one was dropped, are not judged
    assert gain.before < 0.9 < gain.after
    assert gain.test is not None
    assert gain.test.difference == pytest.approx(gain.after - gain.before, abs=1e-6)
    assert gain.test.groups == 6
    assert told[-1] == (len(told), len(told))
    assert str(gain).startswith(f"macro F1 {gain.before:.3f} before, {gain.after:.3f} after")
    assert "from 6 groups of 2 to 4 clips" in str(gain)


def test_too_few_groups_give_no_verdict() -> None:
    gain = Gain(8, 0.5, 0.75, None, "8 clips of 4 groups")
    assert str(gain) == (
        "macro F1 0.500 before, 0.750 after; too few groups for an interval (8 clips of 4 groups)"
    )


@pytest.mark.slow
def test_a_manifest_by_itself_is_judged_out_of_fold_and_its_test_by_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = mislabelled(tmp_path, "down2")
    (tmp_path / "experiments").mkdir()
    write_experiment(tmp_path / "experiments" / "svm.toml", "svm", manifest)
    monkeypatch.chdir(tmp_path)
    subject = subject_of(str(manifest), find_store(None))
    [tables] = subject.judged
    known = {"down0", "down2", "down6", "right1", "right3", "right7"}
    assert [name for name, _ in tables] == ["logistic", "forest"]
    for _, table in tables:
        assert {Path(clip).stem for clip in table["clip_path"]} == known
    assert "6 clips of train and val were judged by logistic and forest" in subject.notes[-1]
    asked = label_questions(subject.manifest.entries, subject.judged)
    assert {question.clips[0].clip_path.stem for question in asked} <= known
    new = tmp_path / "n.csv"
    assert subject.commands(new, None) == [f"vidclf train experiments/svm.toml --set data.manifest={new}"]
    folder = tmp_path / "rooms" / "down"
    (folder / "broken.avi").write_bytes(b"no video")
    found, problems = unlabelled_clips(subject, folder.parent)
    assert found == []  # the manifest has them
    assert [problem.partition(": ")[0] for problem in problems] == [str(folder / "broken.avi")]
    (folder / "v_down_g09_c01.avi").write_bytes((folder / "down0.avi").read_bytes() + b"\0")
    [(path, group, says)], _ = unlabelled_clips(subject, folder)
    assert (path.name, group, sorted(says)) == ("v_down_g09_c01.avi", "g09", ["down", "right"])
    assert sum(says.values()) == pytest.approx(1)


def test_a_study_without_a_kept_model_cannot_be_asked(tmp_path: Path, store: Store) -> None:
    manifest = mislabelled(tmp_path)
    add_judged_study(store, manifest)
    subject = subject_of("s", store)
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "a.avi").write_bytes(b"no video")
    with pytest.raises(InputError, match="its model is not kept here"):
        unlabelled_clips(subject, tmp_path / "new")
    with pytest.raises(InputError, match="no such folder"):
        unlabelled_clips(subject, tmp_path / "nowhere")
    assert {label: len(clips) for label, clips in subject.examples().items()} == {"down": 2, "right": 2}
