"""What fewer bits cost and save: python -m benchmarks.precision [RUN_FOLDER...] [--random NETWORK...].

For each run of a network, and each network of random weights (on the rendered set; of these scores mean
nothing): milliseconds of a clip in memory and CPU milliseconds, medians of calls in turn; MB; macro F1 on val
and how many clips are labelled as by torch in single precision. Of a classical model: how much of a clip's
time is its estimator's, which is all that a graph of it could save.
"""

import argparse
import copy
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vidclf import config
from vidclf.data.clips import ClipSet
from vidclf.data.demo import render_demo_set
from vidclf.data.manifest import read_manifest
from vidclf.evaluation import metrics
from vidclf.inference.profiling import MEBIBYTE, folder_size_mb
from vidclf.models import MODELS, load_model, untrained_model
from vidclf.models.base import Classifier
from vidclf.models.networks import spec_of
from vidclf.models.precision import is_native
from vidclf.models.saved import write_card
from vidclf.runs.experiment import clip_sets, experiment_of, parse_experiment
from vidclf.runs.folder import Attempt

ROUNDS, CALLS = 3, 5
Variant = tuple[Classifier, float]
"""What predicts, and the MB of its files."""


def of_torch(model: Path, precision: str, folder: Path) -> Variant:
    """A saved network as torch computes it in a precision."""
    shutil.copytree(model, folder)
    arguments = json.loads((folder / "network.json").read_text())
    (folder / "network.json").write_text(json.dumps({**arguments, "precision": precision}))
    return load_model(folder).classifier, folder_size_mb(folder)


def of_onnx(model: Path, train: ClipSet, val: ClipSet, tree: config.Tree) -> Iterator[tuple[str, Variant]]:
    """The same as graphs; in half precision too, which vidclf does not offer."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    for precision in ("fp32", "int8"):
        described = {"kind": "onnx", "parent": str(model), "precision": precision}
        experiment = parse_experiment({**tree, "model": described}, "precision").resolved()
        made: Any = MODELS["onnx"].build(experiment, train.classes)
        made.fit(train, val, lambda *_: None)
        yield f"onnx {precision}", (made, len(made.graph_) / MEBIBYTE)
        if precision == "fp32":
            half = copy.copy(made)
            graph = convert_float_to_float16(onnx.load_from_string(made.graph_), keep_io_types=True)
            half.graph_, half._sessions = graph.SerializeToString(), {}
            yield "onnx fp16", (half, len(half.graph_) / MEBIBYTE)


def timed(variants: Mapping[str, Callable[[], object]]) -> dict[str, tuple[float, float]]:
    """Milliseconds of one call, and of its CPUs, by the name of what is called."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in variants}
    for _ in range(ROUNDS):
        for name, call in variants.items():
            call()
            for _ in range(CALLS):
                wall, cpu = time.perf_counter(), time.process_time()
                call()
                taken[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    medians = {name: 1e3 * np.median(each, axis=0) for name, each in taken.items()}
    return {name: (float(wall), float(cpu)) for name, (wall, cpu) in medians.items()}


def in_memory(val: ClipSet) -> ClipSet:
    """The first clip, decoded, of which nothing is remembered."""
    frames = val.read(val.paths[0])
    one = replace(val, paths=val.paths[:1], labels=val.labels[:1], groups=val.groups[:1])
    return replace(one, read=lambda _: frames, store=None)


def compare(name: str, model: Path, train: ClipSet, val: ClipSet, tree: config.Tree) -> None:
    """Prints a line for each form of a network."""
    with tempfile.TemporaryDirectory() as folder:
        halves = ["fp32", *(["bf16"] if is_native("bf16") else [])]
        variants = {f"torch {each}": of_torch(model, each, Path(folder, each)) for each in halves}
        variants |= dict(of_onnx(model, train, val, tree))
        clip = in_memory(val)
        calls = {key: (lambda made=made: made.predict_proba(clip)) for key, (made, _) in variants.items()}
        times, answers = timed(calls), {key: made.predict_proba(val) for key, (made, _) in variants.items()}
    exact = answers["torch fp32"].argmax(axis=1)
    for key, (_, size) in variants.items():
        score = metrics.curve_values(val.labels, answers[key])["macro_f1"]
        alike = int((answers[key].argmax(axis=1) == exact).sum())
        wall, cpu = times[key]
        print(
            f"{name:22} {key:11} {wall:7.1f} ms  {cpu:7.1f} CPU ms  {size:7.2f} MB  "
            f"macro F1 {score:.3f}  alike {alike} of {len(val)}",
            flush=True,
        )


def estimators_share(name: str, classifier: Classifier, val: ClipSet) -> None:
    """Prints what of a clip's time is the estimator's."""
    by_features, clip = classifier.by_features, in_memory(val)
    assert by_features is not None
    values = np.concatenate(list(by_features.blocks(clip).values()), axis=1)
    times = timed(
        {
            "whole": lambda: classifier.predict_proba(clip),
            "estimator": lambda: by_features.probabilities(values),
        }
    )
    print(f"{name:22} {times['whole'][0]:7.1f} ms a clip, the estimator {times['estimator'][0]:.2f} ms of it")


def of_random_weights(network: str, folder: Path) -> tuple[Path, ClipSet, ClipSet, config.Tree]:
    """A saved network that has learned nothing, and rendered clips."""
    manifest = render_demo_set(folder / "demo", subjects=5, takes=1, seed=0)
    kind = "frames2d" if spec_of(network).dims == 2 else "volume3d"
    tree = {
        "data": {"manifest": str(manifest), "frames": 16},
        "model": {"kind": kind, "network": network, "weights": "none"},
    }
    experiment = parse_experiment(tree, network).resolved()
    saved = untrained_model(experiment)
    (folder / "model").mkdir()
    saved.classifier.save(folder / "model")
    write_card(replace(saved.card, experiment=config.dump(experiment)), folder / "model")
    train, val = clip_sets(experiment, read_manifest(str(manifest)))
    return folder / "model", train, val, {"data": config.dump(experiment)["data"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="*", type=Path)
    parser.add_argument("--random", nargs="*", default=[], metavar="NETWORK")
    options = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    for run in options.runs:
        attempt = Attempt(run)
        experiment = experiment_of(attempt)
        train, val = clip_sets(experiment, read_manifest(experiment.data.manifest))
        if MODELS[experiment.kind].initialise is None:
            estimators_share(run.name, load_model(attempt.model).classifier, val)
            continue
        compare(run.name, attempt.model, train, val, {"data": config.dump(experiment)["data"]})
    for network in options.random:
        with tempfile.TemporaryDirectory() as folder:
            compare(network, *of_random_weights(network, Path(folder)))


if __name__ == "__main__":
    main()
