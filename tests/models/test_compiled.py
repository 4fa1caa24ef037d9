import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.neural_models import build, split
from vidclf.data.manifest import Manifest
from vidclf.models.classifier import NeuralClassifier, load
from vidclf.models.forward import Forward

pytestmark = pytest.mark.usefixtures("one_thread")

Compute = Callable[[Tensor], Tensor]
KEYS: Mapping[str, Any] = {"model.frozen_stages": 0, "model.dropout": 0.5, "train.patience": 0}


def fitted(
    squares: Manifest, how: str, folder: Path | None = None, **keys: Any
) -> tuple[NeuralClassifier, list[float]]:
    """A network after three epochs of two batches, of four and of two clips; the loss of each epoch."""
    made, losses = build(squares, **KEYS, **{"train.compile": how}, **keys), []
    made.fit(
        split(squares, "train"),
        split(squares, "val"),
        lambda step, values: losses.append(values["epoch/train/loss"]) if step else None,
        folder,
    )
    return made, losses


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Clips of the batches that a graph is made for; graphs are run without code made of them."""
    traced, torch_compile = list[int](), torch.compile

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        traced.append(max(len(each) for each in inputs if each.dtype == torch.uint8))
        return graph.forward

    def compiled(compute: Compute, *, options: Any, **keys: Any) -> Any:
        return torch_compile(compute, backend=backend, **keys)

    monkeypatch.setattr(torch, "compile", compiled)
    return traced


@pytest.mark.slow
def test_compiled_for_full_batches_alone_and_nothing_else_knows(
    squares: Manifest, tmp_path: Path, compilations: list[int]
) -> None:
    plain, losses = fitted(squares, "off")
    made, found = fitted(squares, "on", tmp_path)
    assert compilations == [4]
    assert found == losses
    (tmp_path / "model").mkdir()
    made.save(tmp_path / "model")
    clips = split(squares, "val")
    np.testing.assert_array_equal(load(tmp_path / "model").predict_proba(clips), plain.predict_proba(clips))
    assert "compile" not in (tmp_path / "model" / "network.json").read_text()
    fitted(squares, "off", tmp_path)  # the checkpoint's epochs are all there
    assert compilations == [4]


@pytest.mark.slow
def test_a_fit_goes_on_from_the_checkpoint_of_one_that_was_not_compiled(
    squares: Manifest, tmp_path: Path, compilations: list[int]
) -> None:
    cut = build(squares, **KEYS)

    def stop(step: int, _: Mapping[str, float]) -> None:
        if step == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cut.fit(split(squares, "train"), split(squares, "val"), stop, tmp_path)
    assert fitted(squares, "on", tmp_path)[1] == fitted(squares, "off")[1]
    assert compilations == [4]


@pytest.mark.slow
def test_what_torch_cannot_compile_is_computed_as_it_is(
    squares: Manifest, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    compute = Forward.compute

    def breaking(self: Forward, inputs: Tensor) -> Tensor:
        torch._dynamo.graph_break()
        return compute(self, inputs)

    expected = fitted(squares, "off")[1]
    monkeypatch.setattr(Forward, "compute", breaking)
    with caplog.at_level(logging.WARNING, "vidclf"):
        assert fitted(squares, "on")[1] == expected
    (line,) = caplog.messages
    assert line.startswith("train.compile: computed as it is, torch cannot compile this: ")
    assert "graph_break" in line


@pytest.mark.slow
def test_without_a_compiler_it_is_computed_as_it_is(
    squares: Manifest, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from torch._inductor.exc import InvalidCxxCompiler

    torch_compile = torch.compile

    def without(*_: object) -> Callable[..., Any]:
        raise InvalidCxxCompiler

    monkeypatch.setattr(
        torch, "compile", lambda compute, options, **keys: torch_compile(compute, backend=without, **keys)
    )
    with caplog.at_level(logging.WARNING, "vidclf"):
        assert fitted(squares, "on")[1] == fitted(squares, "off")[1]
    (line,) = caplog.messages
    assert "No working C++ compiler found" in line


@pytest.mark.slow
def test_memory_that_runs_out_ends_it(
    squares: Manifest, monkeypatch: pytest.MonkeyPatch, compilations: list[int]
) -> None:
    logits, found = Forward.logits, list[int]()

    def limited(self: Forward, inputs: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            found.append(len(inputs))
            if len(found) == 1:
                raise torch.OutOfMemoryError("CUDA out of memory")
        return logits(self, inputs)

    monkeypatch.setattr(Forward, "logits", limited)  # a batch of two, as it is not compiled
    fitted(squares, "on")
    assert compilations == [4]
    assert found == [2, 1, 1, *[2, 2, 1, 1] * 2]


@pytest.fixture
def auto(squares: Manifest, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """Trains with ``auto`` by a clock that stands still but in forward passes.

    What comes back are the passes of each compiled network: one to compile, eight to be timed, then training.
    """
    now, compute = [0.0], Forward.compute

    def trained(*, eager: float, compiled: float, compiling: float, epochs: int, frames: int) -> list[int]:
        passes = list[int]()

        def plain(self: Forward, inputs: Tensor) -> Tensor:
            now[0] += eager
            return compute(self, inputs)

        def scripted(function: Compute, **_: object) -> Compute:
            passes.append(0)

            def run(inputs: Tensor) -> Tensor:
                now[0] += compiled if passes[-1] else compiling
                passes[-1] += 1
                return compute(made.forward_, inputs)

            return run

        monkeypatch.setattr(Forward, "compute", plain)
        monkeypatch.setattr(torch, "compile", scripted)
        keys = {"train.compile": "auto", "train.epochs": epochs, "train.batch_size": 3, "data.frames": frames}
        made = build(squares, **KEYS, **keys)
        made.fit(split(squares, "train"), split(squares, "val"), lambda *_: None)
        return passes

    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    return trained


def test_auto_does_not_compile_for_a_short_training(auto: Callable[..., list[int]]) -> None:
    assert auto(eager=5, compiled=1, compiling=10, epochs=3, frames=2) == []


def test_auto_takes_what_is_quicker_and_remembers_what_compiling_costs(
    auto: Callable[..., list[int]],
) -> None:
    times = {"eager": 100, "compiled": 50, "compiling": 300, "frames": 3}
    assert auto(epochs=2, **times) == [9 + 4]
    assert auto(epochs=1, **times) == []  # 300 for 2 * 50
    assert auto(epochs=4, **times) == [1 + 8]  # no times are taken again
    assert auto(eager=100, compiled=150, compiling=10, epochs=3, frames=4) == [9]


@pytest.mark.long
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_torch_compiles_a_network_on_the_cpu(squares: Manifest, precision: str) -> None:
    keys = {"train.precision": precision}
    plain, compiled = (fitted(squares, how, **keys)[0] for how in ("off", "on"))
    clips = split(squares, "val")
    near = 1e-4 if precision == "fp32" else 5e-2
    np.testing.assert_allclose(compiled.predict_proba(clips), plain.predict_proba(clips), atol=near)
