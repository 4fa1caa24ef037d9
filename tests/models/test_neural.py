import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import safetensors.torch
import torch
from numpy.typing import NDArray
from sklearn.metrics import balanced_accuracy_score, f1_score, log_loss
from torch import nn
from torchvision.transforms.v2.functional import normalize

from vidclf import config
from vidclf.data.augmentation import DrawnView
from vidclf.data.clips import ClipSet
from vidclf.data.pictures import Frames
from vidclf.evaluation import metrics
from vidclf.exceptions import InputError
from vidclf.models import networks, neural, neural_config, precision, training
from vidclf.models import views as views_module
from vidclf.models.classifier import NeuralClassifier, load
from vidclf.models.forward import Forward
from vidclf.models.neural_config import AugmentConfig
from vidclf.models.train_config import TrainConfig
from vidclf.models.training import BestSoFar
from vidclf.models.video_network import multiply_accumulates
from vidclf.models.views import View
from vidclf.models.weights import load_backbone

TINY = {"tiny2d": "frames2d", "tiny3d": "volume3d"}
CLASSES = ("a", "b")
NO_AUGMENT: dict[str, Any] = {
    "flip": 0.0, "scale": [1.0, 1.0], "brightness": 0.0, "contrast": 0.0, "saturation": 0.0,
    "temporal": False,
}  # fmt: skip
LONG: dict[str, Any] = {"train.epochs": 15, "train.patience": 0, "train.monitor": "val/loss"}


pytestmark = pytest.mark.usefixtures("one_thread")


def moving(kind: str, label: int, generator: np.random.Generator) -> Frames:
    """A white shape on noise: 2D classes differ in its shape, 3D classes in where it moves."""
    frames = generator.integers(0, 60, (8, 24, 24, 3), dtype=np.uint8)
    row, start = generator.integers(2, 14), generator.integers(0, 3)
    height, width = (6, 6) if kind == "volume3d" else ((9, 3), (3, 9))[label]
    for time in range(8):
        left = start + 2 * (7 - time if kind == "volume3d" and label else time)
        frames[time, row : row + height, left : left + width] = 250
    return frames


def clip_set(kind: str = "frames2d", counts: tuple[int, ...] = (8, 8), seed: int = 0) -> ClipSet:
    generator = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    grids = {Path(f"{seed}-{i}"): moving(kind, int(label), generator) for i, label in enumerate(labels)}
    return ClipSet(tuple(grids), labels, tuple(map(str, grids)), CLASSES, grids.__getitem__)


def experiment(network: str = "tiny2d", **keys: Any) -> neural_config.NeuralExperiment:
    kind = TINY.get(network, "frames2d")
    schema = neural_config.Frames2dExperiment if kind == "frames2d" else neural_config.Volume3dExperiment
    tree: dict[str, Any] = {
        "data": {"manifest": "/m.csv", "frames": 8, "size": 24, "grid": 8},
        "model": {"kind": kind, "network": network, "weights": "none", "dropout": 0.0},
        "augment": NO_AUGMENT,
        "train": {"epochs": 3, "batch_size": 4, "lr": 1e-2, "precision": "fp32", "warmup_epochs": 0},
    }
    return config.validate(schema, config.override(tree, keys), "x.toml")


def build(network: str = "tiny2d", **keys: Any) -> NeuralClassifier:
    return neural.build(experiment(network, **keys), CLASSES)


class Record:
    def __init__(self) -> None:
        self.steps: dict[int, dict[str, float]] = {}

    def __call__(self, step: int, metrics: Mapping[str, float]) -> None:
        assert step not in self.steps
        self.steps[step] = dict(metrics)

    def curve(self, name: str) -> list[float]:
        return [metrics[name] for step, metrics in self.steps.items() if step > 0]


def fitted(network: str = "tiny2d", **keys: Any) -> tuple[NeuralClassifier, Record]:
    record, model, kind = Record(), build(network, **keys), TINY[network]
    model.fit(clip_set(kind), clip_set(kind, (3, 3), seed=1), record)
    return model, record


def weights(model: NeuralClassifier) -> dict[str, torch.Tensor]:
    return {name: values.clone() for name, values in model.network_.state_dict().items()}


def eval_pixels(model: NeuralClassifier, clips: ClipSet) -> torch.Tensor:
    view = View(augmented=False, number=0)
    return model.forward_.views.pixels(clips, range(len(clips)), view)


def scripted_scores(monkeypatch: pytest.MonkeyPatch, **curves: list[float]) -> None:
    """Has the val curves read as given, epoch by epoch; a curve not given stays at 0.5."""
    epochs = iter(range(100))

    def scores(*_: object) -> dict[str, float]:
        epoch = next(epochs)
        names = ("loss", "accuracy", "macro_f1", "balanced_accuracy")
        return {name: curves[name][epoch] if name in curves else 0.5 for name in names}

    monkeypatch.setattr(metrics, "curve_values", scores)


@pytest.mark.parametrize("network", TINY)
@pytest.mark.slow
def test_learns_moving_shapes(network: str) -> None:
    model, record = fitted(network, **LONG)
    train = clip_set(TINY[network])
    assert (model.predict_proba(train).argmax(axis=1) == train.labels).mean() >= 0.9
    losses = record.curve("epoch/train/loss")
    assert losses[-1] < 0.5 * losses[0]


def test_reports_sizes_first_then_every_curve(tmp_path: Path) -> None:
    model, record = fitted("tiny2d", **{"model.frozen_stages": 2})
    assert list(record.steps) == [0, 1, 2, 3]
    model.save(tmp_path)
    expected_mb = (tmp_path / "weights.safetensors").stat().st_size / 2**20
    trainable = 64 * 32 * 9 + 2 * 64 + 2 * 64 + 2
    total = trainable + 3 * 16 * 9 + 2 * 16 + 16 * 32 * 9 + 2 * 32
    macs = multiply_accumulates("tiny2d", "avg", len(CLASSES), model.frames, model.size)
    sizes = {"size/parameters": total, "size/trainable_parameters": trainable, "cost/macs": macs}
    assert record.steps[0] == {**sizes, "size/file_mb": expected_mb}
    assert model.describe() == sizes
    assert set(record.steps[1]) == {
        "epoch/train/loss", "epoch/train/accuracy", "epoch/val/loss", "epoch/val/accuracy",
        "epoch/val/macro_f1", "epoch/val/balanced_accuracy", "epoch/lr",
    }  # fmt: skip


@pytest.mark.parametrize("network", TINY)
def test_same_seed_gives_the_same_bits_and_another_does_not(network: str) -> None:
    keys = {"model.dropout": 0.5, "augment.flip": 0.5, "augment.temporal": True, "train.epochs": 2}
    first, first_record = fitted(network, **keys)
    torch.manual_seed(99)
    before = torch.get_rng_state()
    second, second_record = fitted(network, **keys)
    assert torch.equal(torch.get_rng_state(), before)
    assert first_record.steps == second_record.steps
    assert all(torch.equal(values, weights(second)[name]) for name, values in weights(first).items())
    other, _ = fitted(network, **keys, seed=1)
    assert not torch.equal(other.network_.head[1].weight, first.network_.head[1].weight)


@pytest.mark.parametrize(("network", "depth"), [(network, depth) for network in TINY for depth in range(4)])
def test_frozen_stages_survive_a_fit_to_the_bit(
    network: str, depth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = []
    original = NeuralClassifier._build

    def spy(self: NeuralClassifier, source: str) -> None:
        original(self, source)
        built.append(weights(self))

    monkeypatch.setattr(NeuralClassifier, "_build", spy)
    model, _ = fitted(network, **{"model.frozen_stages": depth, "train.epochs": 2, "train.weight_decay": 0.1})
    after = weights(model)
    changed = {
        name.split(".")[1] for name, values in built[0].items() if not torch.equal(values, after[name])
    }
    assert changed == {*[f"stage{number}" for number in range(depth + 1, 4)], "1"}


@pytest.mark.parametrize("network", TINY)
def test_save_and_load_give_equal_probabilities(network: str, tmp_path: Path) -> None:
    model, _ = fitted(network, **{"data.resize": [26, 30], "data.normalize": "kinetics"})
    clips = clip_set(TINY[network], (2, 2), seed=5)
    expected = model.predict_proba(clips)
    assert expected.shape == (4, 2)
    assert expected.dtype == np.float64
    assert np.allclose(expected.sum(axis=1), 1, atol=1e-12)
    model.save(tmp_path)
    before = torch.get_rng_state()
    loaded = load(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(loaded.predict_proba(clips), expected)
    assert {path.suffix for path in tmp_path.iterdir()} == {".safetensors", ".json"}
    assert model.predict_proba(clip_set(counts=(0, 0))).shape == (0, 2)


def test_val_scores_are_those_of_the_probabilities() -> None:
    model, record = fitted("tiny2d", **{"train.epochs": 1})
    val = clip_set("frames2d", (3, 3), seed=1)
    probabilities = model.predict_proba(val)
    predicted = probabilities.argmax(axis=1)
    assert record.steps[1]["epoch/val/loss"] == pytest.approx(log_loss(val.labels, probabilities))
    assert record.steps[1]["epoch/val/macro_f1"] == f1_score(val.labels, predicted, average="macro")
    assert record.steps[1]["epoch/val/balanced_accuracy"] == balanced_accuracy_score(val.labels, predicted)


def test_the_network_sees_normalised_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    (model, _), seen = fitted("tiny3d", **{"data.normalize": "kinetics", "train.epochs": 1}), []
    monkeypatch.setattr(model.forward_, "network", lambda inputs: seen.append(inputs) or torch.zeros(2, 2))
    pixels = eval_pixels(model, clip_set("volume3d", (1, 1)))
    model.forward_.logits(pixels)
    wanted = networks.KINETICS
    assert torch.allclose(seen[0], normalize(pixels / 255, wanted.mean, wanted.std), atol=1e-5)


def test_the_best_epochs_weights_are_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    scripted_scores(monkeypatch, macro_f1=[0.2, 0.9, 0.3, 0.9, 0.1], loss=[5, 4, 3, 2, 1])
    epochs: list[dict[str, torch.Tensor]] = []
    model = build(**{"train.epochs": 5, "train.patience": 0})
    model.fit(clip_set(), clip_set(seed=1), lambda step, _: epochs.append(weights(model)))
    kept = weights(model)
    same = [all(torch.equal(kept[name], epoch[name]) for name in kept) for epoch in epochs]
    assert same == [False, False, True, False, False, False]


@pytest.mark.parametrize(
    ("keys", "epochs"),
    [
        ({"train.patience": 2, "train.min_epochs": 1}, 4),
        ({"train.patience": 1, "train.min_epochs": 1}, 3),
        ({"train.patience": 1, "train.min_epochs": 6}, 6),
        ({"train.patience": 0}, 8),
        ({"train.patience": 2, "train.min_epochs": 1, "train.min_delta": 0.25}, 3),
        ({"train.patience": 2, "train.min_epochs": 1, "train.stop_monitor": "val/loss"}, 5),
    ],
)
def test_early_stopping(keys: dict[str, Any], epochs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted_scores(
        monkeypatch,
        macro_f1=[0.5, 0.7, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6],
        loss=[3, 2, 1, 1.5, 1.5, 1.5, 1.5, 1.5],
    )
    _, record = fitted("tiny2d", **{"train.epochs": 8} | keys)
    assert len(record.curve("epoch/lr")) == epochs


def test_best_needs_more_than_min_delta_and_minimises_a_loss() -> None:
    best = BestSoFar("val/loss", min_delta=0.1)
    outcomes = [best.improves({"epoch/val/loss": loss}) for loss in (1.0, 0.95, 0.85, 0.9, 2.0)]
    assert outcomes == [True, False, True, False, False]
    assert best.waited == 2


def test_without_val_clips_the_last_epoch_is_kept() -> None:
    record, model = Record(), build()
    epochs: list[dict[str, torch.Tensor]] = []
    model.fit(
        clip_set(), clip_set(counts=(0, 0)), lambda step, m: (record(step, m), epochs.append(weights(model)))
    )
    assert set(record.steps[3]) == {"epoch/train/loss", "epoch/train/accuracy", "epoch/lr"}
    assert all(torch.equal(values, epochs[-1][name]) for name, values in weights(model).items())


@pytest.mark.parametrize(("views", "expected"), [(0, [1, 2, 3, 4]), (1, [0, 0, 0, 0]), (3, [1, 2, 0, 1])])
def test_epochs_take_views_in_turns(views: int, expected: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, int]] = []
    original = views_module.draw_view

    def spy(*arguments: Any, **options: Any) -> DrawnView:
        seen.append((options["clip"], options["view"]))
        return original(*arguments, **options)

    monkeypatch.setattr(views_module, "draw_view", spy)
    fitted("tiny2d", **{"train.epochs": 4, "train.views": views, "train.patience": 0})
    epochs = [seen[start : start + 16] for start in range(0, 64, 16)]
    assert [{view for _, view in epoch} for epoch in epochs] == [{view} for view in expected]
    assert all(len({clip for clip, _ in epoch}) == 16 for epoch in epochs)
    assert [clip for clip, _ in epochs[0]] != [clip for clip, _ in epochs[1]]


def test_balanced_order_draws_all_classes_alike() -> None:
    labels = np.repeat([0, 1, 2], [900, 90, 10])
    order = training.epoch_order(labels, 3, balanced=True, generator=np.random.default_rng(0))
    shares = np.bincount(labels[order]) / len(order)
    assert len(order) == 1000
    assert np.abs(shares - 1 / 3).max() < 0.05
    plain = training.epoch_order(labels, 3, balanced=False, generator=np.random.default_rng(0))
    assert sorted(plain) == list(range(1000))
    assert training.class_weights(labels, 3) == pytest.approx([1000 / 2700, 1000 / 270, 1000 / 30])
    assert training.class_weights(np.array([0, 0, 2]), 3)[labels[:1]] == pytest.approx([0.75])


@pytest.mark.parametrize("balance", ["none", "sampler", "loss", "both"])
def test_balance_samples_and_weighs_as_its_name_says(balance: str, monkeypatch: pytest.MonkeyPatch) -> None:
    balanced, weighed = [], []
    order, accumulate = training.epoch_order, NeuralClassifier._accumulate

    def spy_order(*arguments: Any, **options: Any) -> NDArray[np.int64]:
        balanced.append(options["balanced"])
        return order(*arguments, **options)

    def spy_loss(
        self: NeuralClassifier,
        inputs: torch.Tensor,
        targets: torch.Tensor,
        class_weights: torch.Tensor,
        parts: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        weighed.append(class_weights.tolist())
        return accumulate(self, inputs, targets, class_weights, parts)

    monkeypatch.setattr(training, "epoch_order", spy_order)
    monkeypatch.setattr(NeuralClassifier, "_accumulate", spy_loss)
    model = build(**{"train.balance": balance, "train.epochs": 1})
    model.fit(clip_set(counts=(12, 4)), clip_set(seed=1), Record())
    assert balanced == [balance in {"sampler", "both"}]
    assert weighed[0] == pytest.approx([16 / 24, 16 / 8] if balance in {"loss", "both"} else [1, 1])


@pytest.mark.parametrize("balance", ["none", "loss"])
def test_loss_is_torchs_cross_entropy_whole_or_in_two_parts(balance: str) -> None:
    model, _ = fitted("tiny2d", **{"train.label_smoothing": 0.2, "train.epochs": 1})
    model.network_.eval()
    clips = clip_set(counts=(3, 2), seed=3)
    pixels, targets = eval_pixels(model, clips), torch.from_numpy(clips.labels)
    class_weights = torch.tensor([0.5, 2.0] if balance == "loss" else [1.0, 1.0])
    expected = nn.CrossEntropyLoss(class_weights, label_smoothing=0.2)(model.forward_.logits(pixels), targets)
    model.network_.zero_grad()
    expected.backward()
    gradients = [parameter.grad.clone() for parameter in model.network_.parameters()]
    for parts in (1, 2):
        model.network_.zero_grad()
        loss, _ = model._accumulate(pixels, targets, class_weights, parts)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
        for parameter, gradient in zip(model.network_.parameters(), gradients, strict=True):
            assert torch.allclose(parameter.grad, gradient, atol=1e-5)


def test_running_out_of_memory_halves_the_batch_down_to_one_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    logits = Forward.logits

    def limited(self: Forward, inputs: torch.Tensor) -> torch.Tensor:
        sizes.append(len(inputs))
        if len(inputs) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return logits(self, inputs)

    monkeypatch.setattr(Forward, "logits", limited)
    limit, model = 2, build(**{"train.epochs": 1})
    model.fit(clip_set(), clip_set(counts=(1, 1), seed=1), Record())
    assert sizes == [4] + [2] * 8 + [2]
    assert model.describe()["cost/parts"] == 2
    limit = 1
    model.fit(clip_set(), clip_set(counts=(1, 1), seed=1), Record())
    assert model.describe()["cost/parts"] == 4
    limit = 0
    with pytest.raises(torch.OutOfMemoryError):
        model.fit(clip_set(), clip_set(counts=(1, 1), seed=1), Record())


@pytest.mark.parametrize("balance", ["none", "both"])
def test_a_step_that_ran_out_of_memory_leaves_no_trace(balance: str, monkeypatch: pytest.MonkeyPatch) -> None:
    logits, failures = Forward.logits, [0]

    def limited(self: Forward, inputs: torch.Tensor) -> torch.Tensor:
        computed = logits(self, inputs)
        if len(inputs) > 2:
            failures[0] += 1
            raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
        return computed

    keys = {"train.epochs": 2, "train.balance": balance, "model.frozen_stages": 0}
    sets = clip_set(), clip_set(counts=(1, 1), seed=1)
    expected = build(**{**keys, "train.accumulation": 2})
    expected.fit(*sets, Record())
    monkeypatch.setattr(Forward, "logits", limited)
    model = build(**keys)
    model.fit(*sets, Record())
    assert failures == [1]
    for name, values in model.network_.state_dict().items():
        assert torch.equal(values, expected.network_.state_dict()[name]), name


def test_a_loss_that_is_no_number_names_epoch_and_learning_rate() -> None:
    with pytest.raises(RuntimeError, match=r"epoch 1 at a learning rate of 1e\+30.*lower train\.lr"):
        fitted("tiny2d", **{"train.lr": 1e30, "train.optimizer": "sgd", "train.schedule": "constant"})


def test_a_report_that_raises_stops_the_fit() -> None:
    class EnoughError(Exception):
        pass

    def report(step: int, _: Mapping[str, float]) -> None:
        if step == 2:
            raise EnoughError

    with pytest.raises(EnoughError):
        build().fit(clip_set(), clip_set(seed=1), report)


def factors(**keys: Any) -> list[float]:
    options = {"schedule": "constant", "epochs": 8, "warmup_epochs": 0, "step_size": 3, "gamma": 0.5} | keys
    return [training.lr_factor(epoch + 0.5, **options) for epoch in range(8)]


def test_schedules() -> None:
    assert factors() == [1.0] * 8
    assert factors(schedule="step") == [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25]
    cosine = [0.5 + 0.5 * math.cos(math.pi * (epoch + 0.5) / 8) for epoch in range(8)]
    assert factors(schedule="cosine") == pytest.approx(cosine)
    assert factors(schedule="step", warmup_epochs=2) == [0.25, 0.75, 1, 1, 1, 0.5, 0.5, 0.5]
    assert factors(schedule="cosine", warmup_epochs=8) == pytest.approx([(e + 0.5) / 8 for e in range(8)])


def test_the_learning_rate_is_reported_and_scaled_for_the_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    original = training.make_optimizer
    monkeypatch.setattr(
        training, "make_optimizer", lambda *a, **k: made.append(original(*a, **k)) or made[-1]
    )
    _, record = fitted(
        "tiny2d", **{"train.schedule": "step", "train.step_size": 1, "train.backbone_lr_scale": 0.1}
    )
    assert record.curve("epoch/lr") == pytest.approx([1e-2, 5e-3, 2.5e-3])
    assert [group["lr"] for group in made[0].param_groups] == pytest.approx([2.5e-4, 2.5e-3])


@pytest.mark.parametrize(
    ("name", "kind"), [("adamw", torch.optim.AdamW), ("adam", torch.optim.Adam), ("sgd", torch.optim.SGD)]
)
def test_optimizers(name: Any, kind: type) -> None:
    made = training.make_optimizer(
        nn.Linear(2, 2).requires_grad_(False), list(nn.Linear(2, 2).parameters()),
        optimizer=name, lr=0.1, weight_decay=0.3, backbone_lr_scale=0.5,
    )  # fmt: skip
    assert type(made) is kind
    assert [(group["lr"], group["weight_decay"]) for group in made.param_groups] == [(0.1, 0.3)]


def test_momentum_begins_at_zero_where_fp16_overflows_in_the_first_step() -> None:
    (weight,) = parameters = [nn.Parameter(torch.zeros(3))]
    settings: Any = {"optimizer": "sgd", "lr": 0.1, "weight_decay": 0.0, "backbone_lr_scale": 1.0}
    made = training.make_optimizer(nn.Identity(), parameters, **settings)
    torch.use_deterministic_algorithms(True)  # so that torch fills what it leaves uninitialised with NaN
    try:
        for overflow in (1.0, 0.0):
            weight.grad = torch.ones(3)
            made.grad_scale, made.found_inf = torch.ones(()), torch.tensor(overflow)  # as GradScaler says it
            made.step()
    finally:
        torch.use_deterministic_algorithms(False)
    assert weight.tolist() == pytest.approx([-0.1] * 3)


def test_clip_grad_limits_the_step() -> None:
    keys = {"train.optimizer": "sgd", "train.lr": 1.0, "train.epochs": 1, "train.batch_size": 16,
            "train.weight_decay": 0.0, "train.schedule": "constant", "train.clip_grad": 1e-3}  # fmt: skip
    model = build(**keys)
    starts: list[dict[str, torch.Tensor]] = []
    model.fit(clip_set(), clip_set(seed=1), lambda step, _: starts.append(weights(model)))
    learned = dict(model.network_.named_parameters())
    moved = torch.sqrt(sum(((starts[0][name] - values) ** 2).sum() for name, values in learned.items()))
    assert moved.item() == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.slow
def test_bf16_trains_and_stays_close_to_fp32() -> None:
    clips = clip_set(counts=(4, 4), seed=2)
    for network, kind in TINY.items():
        model, _ = fitted(network, **LONG, **{"train.precision": "bf16"})
        train = clip_set(kind)
        assert (model.predict_proba(train).argmax(axis=1) == train.labels).mean() >= 0.9
        reduced = model.predict_proba(clips)
        model.forward_._precision = "fp32"
        assert 0 < np.abs(model.predict_proba(clips) - reduced).max() < 0.1


def test_a_local_file_of_weights_is_where_training_starts(tmp_path: Path) -> None:
    torch.manual_seed(11)
    state = load_backbone("tiny2d", "none").state_dict()
    safetensors.torch.save_file(state, tmp_path / "own.safetensors")
    model, _ = fitted(
        "tiny2d", **{"model.weights": str(tmp_path / "own.safetensors"), "model.frozen_stages": 3}
    )
    assert torch.equal(model.network_.stages.stage1[0].weight, state["stage1.0.weight"])
    with pytest.raises(InputError, match="does not fit"):
        experiment("tiny3d", **{"model.weights": str(tmp_path / "own.safetensors")}).check_weights()


def test_defaults() -> None:
    assert TrainConfig().model_dump() == {
        "epochs": 12, "batch_size": 8, "optimizer": "adamw", "lr": 3e-4, "weight_decay": 1e-2,
        "schedule": "cosine", "step_size": 5, "gamma": 0.5, "warmup_epochs": 1, "backbone_lr_scale": 1.0,
        "clip_grad": 0.0, "label_smoothing": 0.0, "balance": "none", "monitor": "val/macro_f1",
        "stop_monitor": None, "patience": 5, "min_delta": 0.0, "min_epochs": 3, "views": 0,
        "accumulation": 1, "cache": "auto", "precision": "auto", "compile": "off",
    }  # fmt: skip
    tree = {"data": {"manifest": "/m.csv"}, "model": {"kind": "volume3d"}}
    made = config.validate(neural_config.Volume3dExperiment, tree, "x.toml")
    assert made.model.model_dump() == {
        "kind": "volume3d", "network": "r3d_18", "weights": "pretrained", "dropout": 0.5,
        "frozen_stages": 0, "frozen_norm": "eval", "eval_views": 1,
    }  # fmt: skip
    assert made.augment == AugmentConfig()


def resolved(
    kind: str, network: str, data: dict[str, Any], weights_key: str = "pretrained"
) -> tuple[Any, ...]:
    schema = neural_config.Frames2dExperiment if kind == "frames2d" else neural_config.Volume3dExperiment
    model = {"kind": kind, "network": network, "weights": weights_key}
    made = config.validate(
        schema, {"data": {"manifest": "/m.csv", **data}, "model": model}, "x.toml"
    ).resolved()
    assert made.resolved() == made
    assert config.validate(schema, config.dump(made), "again.toml") == made
    return made.data.size, made.data.resize, made.data.normalize


def test_resolved_takes_sizes_from_the_weights_in_proportion() -> None:
    assert resolved("frames2d", "resnet18", {}) == (224, 256, "weights")
    assert resolved("frames2d", "resnet18", {"size": 112}) == (112, 128, "weights")
    assert resolved("frames2d", "resnet18", {"size": 112, "resize": 112}) == (112, 112, "weights")
    assert resolved("volume3d", "r3d_18", {}) == (112, (128, 171), "weights")
    assert resolved("volume3d", "r3d_18", {"size": 224}) == (224, (256, 342), "weights")
    assert resolved("volume3d", "r3d_18", {"normalize": "imagenet"}) == (112, (128, 171), "imagenet")
    assert resolved("volume3d", "r3d_18", {}, "none") == (112, 112, "imagenet")
    assert resolved("frames2d", "tiny2d", {"size": 64}, "none") == (64, 64, "imagenet")


def test_normalize_decides_the_statistics() -> None:
    kinetics = networks.preprocessing("r3d_18", "pretrained").mean
    imagenet = networks.preprocessing("resnet18", "pretrained").mean
    assert build("tiny3d").mean == imagenet
    assert build("tiny3d", **{"data.normalize": "kinetics"}).mean == kinetics
    made = experiment("tiny3d", **{"model.network": "r3d_18", "model.weights": "pretrained"})
    assert neural.build(made, CLASSES).mean == kinetics


def test_auto_precision_and_stop_monitor_resolve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "agrees", lambda _: True)
    for native, expected in (("bf16", "bf16"), ("", "fp32")):
        monkeypatch.setattr(precision, "is_native", lambda half, native=native: half == native)
        made = experiment(**{"train.precision": "auto", "train.monitor": "val/loss"}).resolved()
        assert (made.train.precision, made.train.stop_monitor) == (expected, "val/loss")
        assert made.shape() == {
            "model.kind": "frames2d", "model.network": "tiny2d", "model.eval_views": 1,
            "model.pooling": "avg",
            "data.frames": 8, "data.size": 24, "data.resize": 24, "data.grid": 8, "data.store_side": 256,
            "train.precision": expected,
        }  # fmt: skip


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"model.network": "resnet8"}, r"'resnet8' is none of frames2d's: .*did you mean resnet18\?"),
        ({"model.network": "tiny3d"}, "'tiny3d' is none of frames2d's"),
        ({"model.weights": "pretrained"}, 'tiny2d has no pretrained weights: set model.weights = "none"'),
        ({"model.frozen_stages": 4}, "tiny2d has 3 stages: stage1, stage2, stage3"),
        ({"model.pooling": "mean"}, r"model\.pooling: Input should be 'avg', 'max', 'attention', 'gru'"),
        ({"model.network": "resnet18", "data.size": 32}, "resnet18 takes no less than 33 pixels"),
        ({"data.store_side": 20}, "data.size = 24 is larger than data.store_side = 20"),
        ({"data.resize": 20}, "data.size = 24 is larger than data.resize = 20"),
        (
            {"train.monitor": "val/f1"},
            r"train\.monitor: expected one of val/accuracy, .*did you mean val/macro_f1",
        ),
        ({"train.label_smoothing": 1.5}, r"train\.label_smoothing"),
    ],
)
def test_impossible_settings_are_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        experiment(**keys)


def test_a_study_may_choose_among_all_poolings() -> None:
    assert experiment().own_range("model.pooling") == config.Choice(choices=get_args(networks.Pooling))
    assert experiment("tiny3d").own_range("model.pooling") is None


def test_a_volume_of_one_frame_is_refused() -> None:
    with pytest.raises(InputError, match="tiny3d takes no fewer than 2"):
        experiment("tiny3d", **{"data.frames": 1})


@pytest.mark.parametrize("kind", ["frames2d", "volume3d"])
def test_spaces_name_keys_of_their_experiment(kind: str) -> None:
    space = neural_config.SPACE
    schema = {"frames2d": neural_config.Frames2dExperiment, "volume3d": neural_config.Volume3dExperiment}[
        kind
    ]
    assert {"train.lr"} <= set(space) <= set(config.schema_fields(schema))
    tree = {"data": {"manifest": "/m.csv"}, "model": {"kind": kind}}
    for key, dimension in space.items():
        ends = [dimension.low, dimension.high] if isinstance(dimension, config.Range) else dimension.choices
        for value in ends:
            config.validate(schema, config.override(tree, {key: value}), "x.toml")
