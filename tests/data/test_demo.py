"""The rendered data set: laid out like UCF-101, the same for the same seed, split by figure."""

from pathlib import Path

import numpy as np
import pytest

from vidclf.data import demo, video
from vidclf.data.manifest import content_digest, read_manifest


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return demo.render_demo_set(tmp_path_factory.mktemp("demo"), subjects=3, takes=1, seed=0)


@pytest.mark.slow
def test_clips_have_ucf_names_and_a_split_by_figure(rendered: Path) -> None:
    manifest = read_manifest(rendered)
    assert manifest.classes == ("PullUps", "Punch", "PushUps")
    assert len(manifest.entries) == demo.demo_clip_count(3, 1) == 9
    assert {entry.clip_path.name for entry in manifest.entries} == {
        f"v_{label}_g0{group}_c01.avi" for label in manifest.classes for group in (1, 2, 3)
    }
    assert len({(entry.group, entry.split) for entry in manifest.entries}) == 3


@pytest.mark.slow
def test_the_new_clip_is_in_no_split(rendered: Path) -> None:
    clip = rendered.parent / "new_clip.avi"
    assert clip.is_file()
    assert clip not in {entry.clip_path for entry in read_manifest(rendered).entries}


@pytest.mark.slow
def test_a_seed_gives_the_same_pixels_and_another_gives_others(rendered: Path, tmp_path: Path) -> None:
    same, other = (demo.render_demo_set(tmp_path / str(seed), 3, 1, seed) for seed in (0, 1))
    name = "Punch/v_Punch_g02_c01.avi"
    assert content_digest(same.parent / name) == content_digest(rendered.parent / name)
    assert content_digest(other.parent / name) != content_digest(rendered.parent / name)
    assert same.read_bytes() == rendered.read_bytes()


@pytest.mark.slow
def test_clips_are_whole_and_something_moves_in_each(rendered: Path) -> None:
    for entry in read_manifest(rendered).entries:
        clip = video.decode(entry.clip_path, 100, 256)
        assert not clip.remark
        assert 50 <= clip.decoded <= 75
        assert clip.frames.shape[1:] == (120, 160, 3)
        changed = np.abs(np.diff(clip.frames.astype(int), axis=0)).max(axis=(1, 2, 3))
        assert (changed > 60).sum() > 10


def test_a_figure_looks_alike_in_its_clips_and_unlike_others(rendered: Path) -> None:
    def colours(label: str, group: int) -> np.ndarray:
        path = rendered.parent / label / f"v_{label}_g0{group}_c01.avi"
        return video.decode(path, 4, 256).frames.mean(axis=(0, 1, 2))

    within = np.linalg.norm(colours("Punch", 1) - colours("PullUps", 1))
    across = min(np.linalg.norm(colours("Punch", 1) - colours("Punch", group)) for group in (2, 3))
    assert within < across
