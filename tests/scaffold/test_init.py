"""What `vidclf init` writes for a folder of clips: files that work, values with reasons."""

import json
from pathlib import Path
from types import SimpleNamespace

import optuna
import pandas as pd
import pytest
import torch
from huggingface_hub import constants
from typer.testing import CliRunner

from tests.clips import write_squares
from tests.command import run
from tests.models import hf_models
from vidclf.cli.app import app
from vidclf.data import check, importing, video
from vidclf.data.demo import render_demo_set
from vidclf.data.manifest import Entry
from vidclf.exceptions import InputError
from vidclf.models.own_networks import build_network
from vidclf.runs.experiment import load_experiment
from vidclf.runs.store import Store, open_store
from vidclf.scaffold import defaults
from vidclf.scaffold.defaults import Machine
from vidclf.scaffold.scan import InitResult, start
from vidclf.search.definition.study_file import load_study
from vidclf.search.record.storage import open_storage

LAPTOP, SERVER = Machine(4, None, encoders=False), Machine(16, "NVIDIA H200", encoders=False)


@pytest.fixture(autouse=True)
def compared_with_none(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clips are compared with none, but where that is what is tested."""
    if request.function not in (test_the_command_teaches, test_only_the_named_classes_and_groups_by_scene):
        monkeypatch.setattr(check, "examine", lambda path: video.survey(path, 8, 32)[1])
        monkeypatch.setattr(importing, "find_leaks", lambda *_, **__: SimpleNamespace(summary=""))


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    write_squares(tmp_path / "my clips", groups=10)
    (tmp_path / "my clips" / "manifest.csv").unlink()
    return tmp_path / "my clips"


def begin(
    clips: Path, machine: Machine = LAPTOP, *, reachable: bool = True, force: bool = False
) -> InitResult:
    to = clips.parent / "work"
    return start(clips, to, machine=machine, reachable=lambda _: reachable, force=force)


def values(started: InitResult, *files: str) -> dict[str, object]:
    """What was chosen, for some of the files or for all."""
    return {choice.key: choice.value for choice in started.choices if not files or choice.file in files}


def test_every_file_is_valid_and_says_why(clips: Path, store: Store) -> None:
    started = begin(clips)
    study = load_study(started.study, {}, store)
    assert study.name == "my_clips"
    assert list(study.space.bases) == ["svm", "mix", "2d", "3d"]
    assert started.waiting == {"encoder": "pip install 'vidclf[hf]', then repeat vidclf init with --force"}
    files = {stem: path for stem, path in started.experiments.items() if stem not in started.waiting}
    kinds = {stem: load_experiment(path).model.kind for stem, path in files.items()}
    assert kinds == {"svm": "svm", "mix": "svm", "2d": "frames2d", "3d": "volume3d"}
    assert (study.file.budget.trials, study.file.budget.seconds) == (60, 600)
    assert set(pd.read_csv(started.manifest)["label"]) == {"down", "right"}
    text = started.study.read_text() + "".join(path.read_text() for path in started.experiments.values())
    for choice in started.choices:
        assert choice.reason in text, f"{choice.key} is not explained in any file"
        if choice.key == "shares":  # of the manifest, not of a file of settings
            assert f"{choice.value} percent" in text
            continue
        stems = {"experiments": ["svm", "mix", "2d", "encoder", "3d"], "networks": ["2d", "3d"], "study": []}
        paths = [started.experiments[stem] for stem in stems.get(choice.file, [choice.file])]
        for path in paths or [started.study]:
            assert f"{choice.key.rpartition('.')[2]} = {json.dumps(choice.value)}" in path.read_text()


@pytest.mark.slow
def test_the_experiment_runs_as_it_is(clips: Path) -> None:
    started = begin(clips)
    result = CliRunner().invoke(
        app, ["train", str(started.experiments["svm"]), "--set", "data.frames=4", "--json"]
    )
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["metrics"]["val/accuracy"] >= 0.5


def test_machine_and_clips_decide(clips: Path) -> None:
    laptop = values(begin(clips))
    assert laptop["data.frames"] == 8  # the clips have 8
    begun = begin(clips, LAPTOP, force=True)
    assert values(begun, "mix") == {"model.network": "squeezenet1_1"}
    mixed = load_experiment(begun.experiments["mix"]).model
    assert (mixed.features, mixed.scale, mixed.kernel) == (("deep", "hof", "mbh"), "block", "linear")
    for stem, network, stages in (("2d", "squeezenet1_1", 4), ("3d", "r3d_18", 5)):
        assert values(begun, stem) == {"model.network": network, "model.frozen_stages": stages}
        model = load_experiment(begun.experiments[stem]).model
        assert (model.network, model.frozen_stages) == (network, stages)
    assert laptop["workers"] == 2
    assert values(begun, "networks")["train.views"] == 4
    assert laptop["shares"] == "70,15,15"  # ten groups are too few for a test that tells anything
    begun = begin(clips, SERVER, force=True)
    server = values(begun)
    assert values(begun, "2d") == {"model.network": "resnet18", "model.frozen_stages": 3}
    assert values(begun, "study")["model.frozen_stages"] == "default"
    assert '"model.frozen_stages" = "default"' in begun.study.read_text()
    assert (server["workers"], server["budget.trials"]) == (1, 60)
    assert {choice.reason for choice in begun.choices if choice.key == "workers"} == {"on NVIDIA H200"}
    assert "train.balance" not in server
    assert "train.views" not in server


@pytest.mark.slow
def test_test_gets_five_groups_where_there_are_so_many(tmp_path: Path) -> None:
    for groups, wanted in ((15, 5), (4, 1)):
        folder = tmp_path / f"of{groups}"
        write_squares(folder, groups=groups)
        (folder / "manifest.csv").unlink()
        started = start(folder, tmp_path / f"work{groups}", machine=LAPTOP)
        assert started.look.groups["test"] == wanted, groups
        assert any("--accept untested" in note for note in started.notes) == (wanted < 5)
    shares = {
        groups: defaults.choose_division(
            [Entry(Path(f"{n}.avi"), "a", f"g{n}", "") for n in range(groups)]
        ).value
        for groups in (14, 15, 33, 34)
    }
    assert shares == {14: defaults.USUAL, 15: "44,22,34", 33: "68,16,16", 34: defaults.USUAL}


def test_unequal_classes_are_balanced(clips: Path) -> None:
    for extra in sorted((clips / "down").iterdir())[3:]:
        extra.unlink()
    started = begin(clips)
    chosen = values(started)
    assert (chosen["train.balance"], chosen["model.class_weight"]) == ("loss", "balanced")
    assert load_experiment(started.experiments["2d"]).train.balance == "loss"
    assert load_experiment(started.experiments["svm"]).model.class_weight == "balanced"


@pytest.mark.parametrize(("few", "repeats"), [(100, 3), (2, 1)])
def test_few_groups_in_val_are_judged_by_folds(
    clips: Path, store: Store, monkeypatch: pytest.MonkeyPatch, few: int, repeats: int
) -> None:
    monkeypatch.setattr(defaults, "_FEW_GROUPS", few)
    study = load_study(begin(clips).study, {}, store).file
    assert study.objectives[0].repeats == repeats
    assert study.pruner.name == ("none" if repeats > 1 else "median")


def test_classes_of_few_groups_are_judged_by_as_many_folds(tmp_path: Path, store: Store) -> None:
    for groups, repeats in ((3, 2), (4, 3)):
        folder = tmp_path / f"of{groups}"
        write_squares(folder, groups=groups)
        (folder / "manifest.csv").unlink()
        started = start(folder, tmp_path / f"work{groups}", machine=LAPTOP)
        study = load_study(started.study, {}, store).file
        assert (study.objectives[0].repeats, study.objectives[0].repeat_by) == (repeats, "fold")


def test_a_network_whose_weights_cannot_be_had_waits_outside(clips: Path, store: Store) -> None:
    started = begin(clips, reachable=False)
    assert list(started.waiting) == ["mix", "2d", "encoder", "3d"]
    assert list(load_study(started.study, {}, store).space.bases) == ["svm"]
    assert "r3d_18-b3b3357e.pth" in started.study.read_text()
    assert '# "train.lr"' in started.study.read_text()
    assert load_experiment(started.experiments["3d"]).model.network == "r3d_18"


def test_a_file_of_weights_brings_its_network_in(clips: Path, store: Store, tmp_path: Path) -> None:
    file = tmp_path / "mobile.pth"
    torch.save(build_network("mobilenet_v3_small").state_dict(), file)
    to, given = clips.parent / "work", {"mobilenet_v3_small": file}
    started = start(clips, to, machine=LAPTOP, weights=given, reachable=lambda _: False)
    assert list(started.waiting) == ["encoder", "3d"]
    study = load_study(started.study, {}, store)
    assert {stem: base.model.kind for stem, base in study.space.bases.items()} == {
        "svm": "svm",
        "mix": "svm",
        "2d": "frames2d",
    }
    for stem in ("mix", "2d"):
        model = load_experiment(started.experiments[stem]).model
        assert (model.network, model.weights) == ("mobilenet_v3_small", str(file))
    assert load_experiment(started.experiments["2d"]).model.frozen_stages == 6
    assert {choice.reason for choice in started.choices if choice.value == "mobilenet_v3_small"} == {
        "as you named it"
    }
    for weights, message in (
        ({"mobilenet_v3_smal": file}, "did you mean mobilenet_v3_small"),
        ({"squeezenet1_1": file}, "does not fit model.network = 'squeezenet1_1'"),
        ({"squeezenet1_1": tmp_path / "none.pth"}, "none.pth: no such file"),
    ):
        with pytest.raises(InputError, match=message):
            start(clips, tmp_path / "other", machine=LAPTOP, weights=weights)
    assert not (tmp_path / "other").exists()
    run("init", clips, "--weights", "resnet18", expect=2)


@pytest.mark.slow
def test_an_encoder_of_the_hubs_cache_is_a_base(
    clips: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "hub" / "models--facebook--dinov2-small"
    hf_models.save("dinov2", kept / "snapshots" / "0123", num_hidden_layers=12)
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text("0123")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    machine = Machine(4, None)
    started = start(clips, clips.parent / "work", machine=machine, reachable=lambda _: False)
    assert list(started.waiting) == ["mix", "2d", "3d"]
    assert list(load_study(started.study, {}, store).space.bases) == ["svm", "encoder"]
    experiment = load_experiment(started.experiments["encoder"])
    assert (experiment.model.network, experiment.model.frozen_stages) == ("hf:facebook/dinov2-small", 13)
    assert experiment.train.views == 1
    experiment.check_weights()


def test_a_class_without_a_readable_clip_is_refused_and_nothing_is_written(
    clips: Path, tmp_path: Path
) -> None:
    broken = clips / "broken" / "v_broken_g01_c01.avi"
    broken.parent.mkdir()
    broken.write_bytes(b"no video")
    with pytest.raises(InputError) as caught:
        start(clips, tmp_path / "to")
    assert str(caught.value).startswith("no clip of the class broken can be read:\n")
    assert f"{broken}: " in str(caught.value)
    assert "--classes " in str(caught.value)
    assert not (tmp_path / "to").exists()


def test_clips_that_cannot_be_decoded_are_left_out_and_named(clips: Path) -> None:
    bad = clips / "down" / "v_down_g99_c00.avi"
    bad.write_bytes(b"not a video")
    started = begin(clips)
    assert list(started.look.left_out) == [str(bad)]
    assert len(pd.read_csv(started.manifest)) == 20


@pytest.mark.slow
def test_only_the_named_classes_and_groups_by_scene(tmp_path: Path) -> None:
    render_demo_set(tmp_path / "figures", subjects=4, takes=1, seed=0)
    for clip in sorted(tmp_path.glob("figures/*/*.avi")):
        clip.rename(clip.with_name(f"{clip.stem.rpartition('_g')[2]}.avi"))  # so that names tell no group
    started = start(
        tmp_path / "figures", tmp_path / "work", classes=["Punch", "PushUps"], by_scene=True, machine=LAPTOP
    )
    assert started.look.classes == {"Punch": 4, "PushUps": 4}
    assert started.look.grouped
    assert set(pd.read_csv(started.manifest)["group"].str.startswith("scene")) == {True}


def test_a_split_by_folders_is_taken_and_not_called_the_default(clips: Path) -> None:
    for place, clip in enumerate(sorted(clips.glob("*/*.avi"))):
        side = ("train", "val", "test")[place % 10 // 4]
        target = clips.parent / "divided" / side / clip.parent.name / clip.name
        target.parent.mkdir(parents=True, exist_ok=True)
        clip.rename(target)
    started = start(clips.parent / "divided", clips.parent / "work", machine=LAPTOP)
    assert started.look.splits == {"train": 8, "val": 8, "test": 4}
    assert "shares" not in values(started)
    assert "as their folders say" in started.study.read_text()


def test_folds_want_a_group_of_each_class_in_each(tmp_path: Path, store: Store) -> None:
    write_squares(tmp_path / "few", groups=8)
    (tmp_path / "few" / "manifest.csv").unlink()
    for clip in sorted((tmp_path / "few" / "down").iterdir())[3:]:
        clip.unlink()
    started = start(tmp_path / "few", tmp_path / "work", machine=LAPTOP)
    assert started.look.fewest == 2
    assert values(started, "study")["objective.repeats"] == 2
    assert load_study(started.study, {}, store).file.objectives[0].repeats == 2


def test_a_group_for_nearly_each_clip_is_said(tmp_path: Path) -> None:
    write_squares(tmp_path / "lone", groups=8)
    (tmp_path / "lone" / "manifest.csv").unlink()
    for clip in list((tmp_path / "lone" / "down").iterdir()):
        clip.rename(clip.with_name(clip.name.replace("_g", "_g9")))
    started = start(tmp_path / "lone", tmp_path / "work", machine=LAPTOP)
    assert any("16 groups of 16 clips: nearly each is a group of its own" in note for note in started.notes)
    with pytest.raises(InputError, match="a file; name the folder"):
        start(started.manifest, tmp_path / "other", machine=LAPTOP)


def test_nothing_is_overwritten_unless_asked(clips: Path) -> None:
    started = begin(clips)
    started.study.write_text("mine")
    with pytest.raises(InputError, match=r"my_clips.toml.*--force"):
        begin(clips)
    assert started.study.read_text() == "mine"
    start(clips, clips.parent / "work", force=True)
    assert started.study.read_text() != "mine"


@pytest.mark.slow
def test_the_command_teaches(clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(clips.parent)
    monkeypatch.setattr("vidclf.cli.init._answers", lambda url: False)
    shown = run("init", clips)
    assert "20 clips: down 10, right 10" in shown.stdout
    assert "vidclf tune studies/my_clips.toml" in shown.stderr
    again = run("init", clips, expect=2)
    again = CliRunner().invoke(app, ["init", str(clips), "--force"])
    assert "has a study" not in again.stderr
    stored = open_storage(open_store())
    optuna.create_study(study_name="my_clips", storage=stored)
    again = CliRunner().invoke(app, ["init", str(clips), "--force"])
    assert "has a study my_clips already" in again.stderr
    assert "--continue-as my_clips-2" in again.stderr
    as_json = CliRunner().invoke(app, ["init", str(clips), "--name", "other", "--json"])
    assert json.loads(as_json.stdout)["study"] == "studies/other.toml"
    missing = CliRunner().invoke(app, ["init", "nowhere"])
    assert (missing.exit_code, "nowhere: no such folder" in missing.stderr) == (2, True)


def test_the_store_of_a_started_study_is_the_usual_one(clips: Path) -> None:
    study = load_study(begin(clips).study, {}, open_store())
    assert study.experiment == "my_clips"
