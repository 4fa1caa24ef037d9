"""Training on the stand-in; run by `test_on_standin`."""

import gc
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from tests.clips import write_squares
from tests.gpu.fits import Sets, build, fit, on_both, sets
from tests.gpu.standin import gpu, log
from vidclf.data import cache
from vidclf.data.clips import ClipSet
from vidclf.data.manifest import read_manifest
from vidclf.models import devices, training
from vidclf.models.classifier import NeuralClassifier
from vidclf.models.video_network import VideoNetwork
from vidclf.models.views import View, Views

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Sets:
    return sets(read_manifest(write_squares(tmp_path_factory.mktemp("c"), groups=8, frames=12, size=48)))


@pytest.fixture(autouse=True)
def unlimited() -> None:
    for memory in log.memory:
        memory.limit = None


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("frozen", "views"), [(0, 0), (1, 2), (2, 0), (3, 2)])
@pytest.mark.parametrize("network", ["tiny2d", "tiny3d"])
def test_figures_are_those_of_the_cpu_and_no_tensor_is_on_the_wrong_device(
    clips: Sets, tmp_path: Path, *, network: str, frozen: int, views: int, precision: str
) -> None:
    keys = {"model.frozen_stages": frozen, "views": views, "precision": precision}
    ours, theirs = on_both(clips, tmp_path, network=network, **keys)
    near = 1e-4 if precision == "fp32" else 5e-2
    np.testing.assert_allclose(ours.shares, theirs.shares, atol=near)
    assert ours.losses == pytest.approx(theirs.losses, abs=near)


@pytest.mark.parametrize("keys", [{}, {"optimizer": "sgd", "clip_grad": 0.1, "accumulation": 2}])
def test_fp16_trains_with_a_scaled_loss(clips: Sets, tmp_path: Path, keys: Mapping[str, object]) -> None:
    ours, theirs = on_both(clips, tmp_path, precision="fp16", **keys)
    assert (ours.classifier.precision, theirs.classifier.precision) == ("fp16", "fp32")
    assert ours.classifier.scaler_.get_scale() > 1
    np.testing.assert_allclose(ours.shares, theirs.shares, atol=1e-2)
    assert ours.losses == pytest.approx(theirs.losses, abs=1e-2)


def test_fp16_goes_on_with_the_scale_of_its_checkpoint(
    clips: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(step: int, _: Mapping[str, float]) -> None:
        if step == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(torch.amp, "GradScaler", partial(torch.amp.GradScaler, growth_interval=1))
    with gpu():
        with pytest.raises(KeyboardInterrupt):
            build(precision="fp16").fit(*clips, cut, tmp_path)
        resumed, whole = fit(clips, tmp_path, precision="fp16"), fit(clips, precision="fp16")
        scales = [trained.classifier.scaler_.get_scale() for trained in (resumed, whole)]
    assert scales[0] == scales[1] != 2**16
    np.testing.assert_array_equal(resumed.shares, whole.shares)


@pytest.mark.parametrize("frozen", [0, 3])
def test_augmented_pixels_differ_by_rounding_alone(clips: Sets, frozen: int) -> None:
    def pixels() -> torch.Tensor:
        made = build(augment=True, **{"model.frozen_stages": frozen})
        made.initialise()
        return made.forward_.views.pixels(clips[0], [0], View(True, 1)).cpu()

    with gpu():
        ours = pixels()
    assert (ours.int() - pixels().int()).abs().max() <= 3


def test_no_step_waits_for_the_device(clips: Sets) -> None:
    with gpu():
        trained = fit(clips, augment=True, epochs=3)
    steps = -(-len(clips[0]) // 4)
    waits = {place: n for (kind, _, place), n in trained.epochs[-1].items() if kind == "sync" and n >= steps}
    assert not waits


def test_kernels_of_augmentation_do_not_grow_with_the_batch(clips: Sets) -> None:
    with gpu():
        trained = fit(clips, augment=True, batch_size=8, epochs=3)
    assert trained.count("kernel", "prefetch") <= 40 * 2


def test_a_second_gpu_chosen_by_the_caller(clips: Sets) -> None:
    with gpu():
        torch.cuda.set_device(1)
        try:
            trained = fit(clips, views=1, epochs=3, **{"model.frozen_stages": 1})
        finally:
            torch.cuda.set_device(0)
        assert trained.classifier.forward_.views.device == torch.device("cuda", 1)
        assert [devices.used_name(), trained.classifier.predict_proba(clips[1]).tolist()] == [
            "stand-in",
            trained.shares.tolist(),
        ]


@pytest.fixture
def not_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches are read when needed, so that what memory holds at a time depends on no second thread."""
    monkeypatch.setattr(training, "prefetched", map)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Sets:
    folder = tmp_path_factory.mktemp("many")
    return sets(read_manifest(write_squares(folder, groups=8, takes=2, frames=12, size=48)))


def limited_to(share: float, clips: Sets) -> NeuralClassifier:
    """A network that was trained from the second epoch on with a share of the memory of the first."""
    memory = log.memory[0]

    def limit(step: int, _: Mapping[str, float]) -> None:
        if step == 1:
            memory.limit = memory.alive + int((memory.peak - memory.alive) * share)
        log.reset()

    with gpu():
        made = build(batch_size=8)
        made.fit(*clips, limit)
    return made


@pytest.mark.usefixtures("not_ahead")
@pytest.mark.parametrize(("share", "parts"), [(0.95, 2), (0.7, 2), (0.35, 4), (0.2, 8)])
def test_too_little_memory_is_lived_with(many: Sets, share: float, parts: int) -> None:
    assert limited_to(share, many).parts_ == parts


def test_too_little_memory_while_batches_are_read_ahead_is_lived_with(many: Sets) -> None:
    assert limited_to(0.35, many).parts_ > 1


@pytest.mark.usefixtures("not_ahead")
@pytest.mark.parametrize("keys", [{}, {"optimizer": "sgd"}, {"precision": "fp16", "clip_grad": 0.1}])
def test_a_step_of_the_optimizer_finds_no_memory(many: Sets, keys: Mapping[str, object]) -> None:
    memory, room = log.memory[0], 2**12  # for scalars
    before = register_optimizer_step_pre_hook(lambda *_: setattr(memory, "limit", memory.alive + room))
    after = register_optimizer_step_post_hook(lambda *_: setattr(memory, "limit", None))
    try:
        with gpu():
            ours = fit(many, **keys)
    finally:
        before.remove()
        after.remove()
    with gpu():
        theirs = fit(many, **keys)
    assert ours.classifier.parts_ == 1
    np.testing.assert_array_equal(ours.shares, theirs.shares)
    assert ours.losses == theirs.losses


@pytest.mark.usefixtures("not_ahead")
def test_batches_that_find_no_memory_on_the_device_are_made_in_main_memory(
    many: Sets, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_at, pixels = [], Views.pixels

    def limited(self: Views, clips: ClipSet, indices: list[int], view: View) -> torch.Tensor:
        if self.device.type == "cuda" and len(made_at) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        made_at.append(self.device.type)
        return pixels(self, clips, indices, view)

    with gpu():
        expected = fit(many)
        monkeypatch.setattr(Views, "pixels", limited)
        ours = fit(many)
    assert set(made_at[:2]) == {"cuda"} and set(made_at[2:]) == {"cpu"}
    np.testing.assert_allclose(ours.shares, expected.shares, atol=1e-4)


@pytest.mark.usefixtures("not_ahead")
def test_what_stays_on_the_device_is_given_up_first(many: Sets) -> None:
    held = []

    def limit(step: int, _: Mapping[str, float]) -> None:
        cache = made.forward_._activations
        held.append(sum(output.nbytes for output in cache._held.values()))
        if step == 2:
            log.memory[0].limit = log.memory[0].alive + 2**14

    keys = {"views": 1, "epochs": 3, "batch_size": 2, "model.frozen_stages": 2}
    with gpu():
        expected = fit(many, **keys)
        made = build(**keys)
        made.fit(*many, limit)
        assert held[2] > held[3] == 0
        assert made.parts_ == 1
        np.testing.assert_allclose(made.predict_proba(many[1]), expected.shares, atol=1e-6)


@pytest.mark.parametrize("at_once", [1, 2])
def test_the_frozen_part_and_validation_take_fewer_clips_at_once(
    many: Sets, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    most, through = [], VideoNetwork._through

    def limited(self: VideoNetwork, stages: torch.nn.Module, clips: torch.Tensor) -> torch.Tensor:
        if clips.device.type == "cuda" and len(clips) > at_once:
            raise RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")
        most.append(len(clips))
        return through(self, stages, clips)

    with gpu():
        expected = fit(many, views=1, epochs=1, **{"model.frozen_stages": 3})
        monkeypatch.setattr(VideoNetwork, "_through", limited)
        monkeypatch.setattr(cache, "load", lambda *_: None)
        ours = fit(many, views=1, epochs=1, **{"model.frozen_stages": 3})
    assert max(most) == at_once
    np.testing.assert_allclose(ours.shares, expected.shares, atol=1e-5)


def test_workers_that_share_a_gpu_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(devices.SHARING, "4")
    gc.collect()  # what earlier checks left is not this worker's
    with gpu(total=400 << 20):
        made = build(**{"model.frozen_stages": 2})
        made.initialise()
        assert made.forward_.views.room * 4 == log.memory[0].limit == 100 << 20


def test_nothing_stays_on_the_device_after_a_trial(clips: Sets) -> None:
    left = []
    for _ in range(3):
        with gpu():
            fit(clips, epochs=1)
        gc.collect()
        left.append(log.memory[0].alive)
    assert left[0] == left[2]


def test_a_fit_goes_on_from_its_checkpoint(
    clips: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained, train = [], NeuralClassifier._train_epoch

    def counted(self: NeuralClassifier, *args: object) -> dict[str, float]:
        trained.append(args[1])
        return train(self, *args)

    def cut(step: int, _: Mapping[str, float]) -> None:
        if step == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(NeuralClassifier, "_train_epoch", counted)
    with gpu():
        with pytest.raises(KeyboardInterrupt):
            build().fit(*clips, cut, tmp_path)
        resumed = fit(clips, tmp_path)
        assert trained == [1, 2]
        np.testing.assert_array_equal(resumed.shares, fit(clips).shares)
