"""What training reaches on the device of this machine, a GPU above all; made for a rented one.

    python benchmarks/gpu.py --to gpu.json

It needs torch, torchvision and vidclf's own code, and of vidclf's other libraries no mlflow, optuna, plotly,
imagehash, typer, av and skops: clips are noise that lies decoded in a store of their own, weights are random.
Each line trains a network, its head alone, the half or all of it, with `vidclf train`'s own loop, and
compares that with the same steps on tensors that are on the device already (of cached lines on outputs of the
frozen part):

clips/s     of the last epoch of training, validation left out; in brackets as a share of the bare loop's
TFLOP/s     of the bare loop, in brackets as a share of a matrix product of the same precision
kernels     that a step of the bare loop starts (CUDA only)
waits       of the last epoch for the device, as `torch.cuda.set_sync_debug_mode` counts them (CUDA only)
MiB         that tensors took at most (CUDA only)

The last line of a network is all of it again with `train.compile = "on"`, CUDA graphs and all; `compile_s` of
the JSON is what its first epoch took longer than its last.

Then, of every network, whether two fits with one seed are equal to the last bit, and by how much its
probabilities differ in bf16 and fp16 from those in fp32; and a training that runs out of memory (CUDA only).
"""

import argparse
import contextlib
import json
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from torch.utils.flop_counter import FlopCounterMode

from vidclf.data import video
from vidclf.data.clips import ClipSet, ClipStore
from vidclf.data.pictures import Picture
from vidclf.models import MODELS, devices, precision, training
from vidclf.models.classifier import NeuralClassifier
from vidclf.models.compiled import TrainingForward
from vidclf.models.networks import NETWORKS
from vidclf.models.train_config import Compile, Precision
from vidclf.runs.experiment import parse_experiment

CLASSES = ("left", "right")
Line = tuple[str, bool, Compile]
LINES: tuple[Line, ...] = (
    *(("head", False, "off"), ("head", True, "off")),
    *(("partial", False, "off"), ("partial", True, "off")),
    *(("full", False, "off"), ("full", False, "on")),
)
"""Of each network: which part is trained, whether from kept outputs of the rest, and `train.compile`."""
Sets = tuple[ClipSet, ClipSet]


def clip_sets(folder: Path, given: argparse.Namespace) -> Sets:
    """Clips of noise in a store, so that nothing decodes them: to train on, and to judge by."""
    store, generator = ClipStore(64, 256), np.random.default_rng(0)
    height, width = given.stored
    paths = [folder / f"{number}.clip" for number in range(given.clips + given.val)]
    for number, path in enumerate(paths):
        path.write_text(str(number))
        noise = generator.integers(0, 256, (given.grid, 3, height, width), dtype=np.uint8)
        pictures = [Picture(each[0], *each[1:, : (height + 1) // 2, : (width + 1) // 2]) for each in noise]
        assert store.keep(path, video.Clip(pictures, None, given.grid)), "the cache has no room"
    labels = np.arange(len(paths)) % 2

    def part(start: int, end: int) -> ClipSet:
        names = tuple(map(str, range(start, end)))
        return ClipSet(tuple(paths[start:end]), labels[start:end], names, CLASSES, store.read, store)

    return part(0, given.clips), part(given.clips, len(paths))


def built(network: str, given: argparse.Namespace, **keys: Any) -> NeuralClassifier:
    spec = NETWORKS[network]
    size = given.size or spec.preprocessing.size
    tree = {
        "data": {"manifest": "/none.csv", "frames": max(given.frames, spec.min_frames), "size": size},
        "model": {"network": network, "weights": "none", "frozen_stages": keys.pop("frozen", 0)},
        "train": {
            "epochs": given.epochs,
            "batch_size": given.batch,
            "precision": given.precision,
            "patience": 0,
            **keys,
        },
    }
    kind = tree["model"]["kind"] = "volume3d" if spec.dims == 3 else "frames2d"
    made = MODELS[kind].build(parse_experiment(tree, "benchmark"), CLASSES)
    assert isinstance(made, NeuralClassifier)
    return made


def seconds(call: Callable[[], object], device: torch.device) -> float:
    """Of one call, once it has been made and the device has nothing else to do."""
    call()
    finish(device)
    started = time.perf_counter()
    call()
    finish(device)
    return time.perf_counter() - started


def finish(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def product_flops(name: Precision, edge: int, device: torch.device) -> float:
    """FLOP/s of a matrix product."""
    dtype = precision.HALVES.get(name, torch.float32)
    left, right = torch.randn(2, edge, edge, device=device, dtype=dtype)
    with precision.reproducible(name):
        return 2 * edge**3 / seconds(lambda: left @ right, device)


@contextlib.contextmanager
def waits_counted(device: torch.device) -> Iterator[list[warnings.WarningMessage]]:
    """Each wait for a CUDA device."""
    with warnings.catch_warnings(record=True) as caught:
        if device.type == "cuda":
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
        try:
            yield caught
        finally:
            if device.type == "cuda":
                torch.cuda.set_sync_debug_mode("default")


def kernels_of(call: Callable[[], object], device: torch.device) -> int | None:
    """Kernels that a call starts; ``None`` where there is no CUDA."""
    if device.type != "cuda":
        return None
    from torch.profiler import DeviceType, ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        call()
        finish(device)
    return sum(1 for event in profiled.events() if event.device_type == DeviceType.CUDA)


def step_of(made: NeuralClassifier, cached: bool, given: argparse.Namespace) -> Callable[[], None]:
    """A step of training on inputs that are on the device, compiled if training was."""
    network, device = made.network_.train(), made.forward_.views.device
    shape = (given.batch, made.frames, 3, made.size, made.size)
    inputs = torch.randint(0, 256, shape, dtype=torch.uint8, device=device)
    if cached:
        inputs = made.forward_._frozen(inputs)
    targets, weights = (
        torch.zeros(given.batch, dtype=torch.int64, device=device),
        torch.ones(2, device=device),
    )
    optimizer = training.make_optimizer(
        network.stages,
        network.fresh_parameters(),
        optimizer="adamw",
        lr=1e-4,
        weight_decay=0.0,
        backbone_lr_scale=1.0,
    )

    made.training_forward_ = TrainingForward(made.forward_, made.compile)

    def step() -> None:
        optimizer.zero_grad()
        made._accumulate(inputs, targets, weights, 1)
        made.scaler_.step(optimizer)
        made.scaler_.update()

    return step


def measured(network: str, line: Line, sets: Sets, given: argparse.Namespace) -> dict[str, Any]:
    """A line of the table."""
    part, cached, compiled = line
    stages = len(NETWORKS[network].stages)
    frozen = {"head": stages, "partial": stages // 2, "full": 0}[part]
    keys = {"views": int(cached), "cache": "auto" if cached else "off", "compile": compiled}
    made = built(network, given, frozen=frozen, **keys)
    device, ends, waits = devices.current(), list[float](), list[int]()
    devices.reset_peak_memory()
    with waits_counted(device) as caught:

        def report(step: int, _: Mapping[str, float]) -> None:
            ends.append(time.perf_counter())
            waits.append(len(caught))

        made.fit(sets[0], empty(sets[1]), report)
    memory = devices.peak_memory("allocated")
    trained = len(sets[0]) / (ends[-1] - ends[-2])
    with precision.reproducible(made.precision):
        step = step_of(made, cached, given)
        bare = given.batch / seconds(step, device)
        kernels = kernels_of(step, device)
        made.training_forward_.give_up()  # operations are counted of what is not compiled
        with FlopCounterMode(display=False) as counter:
            step()
    flops = counter.get_total_flops() / given.batch * bare
    return {
        **{"network": network, "part": part, "cached": cached, "precision": made.precision},
        **{"compile": compiled, "compile_s": (ends[1] - ends[0]) - (ends[-1] - ends[-2])},
        **{"clips_s": trained, "bare_clips_s": bare, "share": trained / bare},
        **{"flops": flops, "kernels_a_step": kernels},
        "waits_an_epoch": waits[-1] - waits[-2] if device.type == "cuda" else None,
        "memory_mib": None if memory is None else memory / 2**20,
    }


def empty(clips: ClipSet) -> ClipSet:
    """None of them."""
    return ClipSet((), clips.labels[:0], (), clips.classes, clips.read, clips.store)


def checked(network: str, sets: Sets, given: argparse.Namespace) -> dict[str, Any]:
    """Whether a seed repeats a network's fit, and how far half precision is off."""
    curves = list[list[Mapping[str, float]]]()
    for _ in range(2):
        curves.append([])
        made = built(network, given, epochs=2)
        made.fit(*sets, lambda _, values: curves[-1].append(dict(values)))
    exact = None
    off = {}
    names: tuple[Precision, ...] = ("fp32", "bf16", "fp16")
    for name in names:
        made.precision = made.forward_._precision = name
        probabilities = made.predict_proba(sets[1])
        exact = probabilities if exact is None else exact
        off[f"{name}_off"] = float(np.abs(probabilities - exact).max())
    return {"network": network, "seed_repeats": curves[0] == curves[1], **off}


def out_of_memory(network: str, sets: Sets, given: argparse.Namespace) -> dict[str, Any] | None:
    """In how many parts a step is done where there is room for a third of it; ``None``: in none."""
    device = devices.current()
    if device.type != "cuda":
        return None
    devices.reset_peak_memory()
    built(network, given, epochs=1).fit(*sets, lambda *_: None)
    needed = devices.peak_memory("allocated") or 0
    devices.release_memory()
    torch.cuda.set_per_process_memory_fraction(needed / 3 / torch.cuda.mem_get_info(device)[1], device)
    made, parts = built(network, given, epochs=1), None
    try:
        made.fit(*sets, lambda *_: None)
        parts = made.parts_
    except torch.OutOfMemoryError as error:
        print(error)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
    return {"network": network, "needed_mib": needed / 2**20, "parts": parts}


def run(given: argparse.Namespace) -> dict[str, Any]:
    """All figures; the tables are printed as they come."""
    device = devices.current()
    versions = {
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "cuda": torch.version.cuda,
    }
    names: list[Precision] = ["fp32", "tf32", "bf16", "fp16"] if device.type == "cuda" else ["fp32", "bf16"]
    products = {name: product_flops(name, given.edge, device) for name in names}
    agree = {
        name: precision.is_native(name) and precision.agrees(name) for name in names[-2:] if name != "fp32"
    }
    print(f"{devices.name()}, {versions}")
    print(
        "matrix products, TFLOP/s: "
        + ", ".join(f"{name} {each / 1e12:.3g}" for name, each in products.items())
    )
    print(f"native, and convolutions and gradients agree with fp32: {agree}\n")
    titles = ("network", "part", "cached", "precision", "clips/s", "TFLOP/s", "kernels", "waits", "MiB")
    print("".join(f"{title:>18}" for title in titles))
    lines, checks = [], []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["VIDCLF_CACHE"] = str(Path(folder, "cache"))
        sets = clip_sets(Path(folder), given)
        for network in given.networks:
            for part, cached, compiled in LINES:
                line = measured(network, (part, cached, compiled), sets, given)
                of_product = line["flops"] / products[line["precision"]]
                cells = [
                    network,
                    f"{part}, compiled" if compiled == "on" else part,
                    cached,
                    line["precision"],
                ]
                cells += [f"{line['clips_s']:.1f} ({line['share']:.0%})"]
                cells += [f"{line['flops'] / 1e12:.3g} ({of_product:.0%})"]
                cells += [line["kernels_a_step"], line["waits_an_epoch"], line["memory_mib"]]
                print("".join(f"{'-' if cell is None else cell!s:>18.17}" for cell in cells), flush=True)
                lines.append(line)
        print()
        for network in given.checked:
            checks.append(checked(network, sets, given))
            print(", ".join(f"{name} {value}" for name, value in checks[-1].items()), flush=True)
        memory = out_of_memory(given.networks[0], sets, given)
        print(f"\nout of memory: {memory}")
    return {
        **{"device": devices.name(), "versions": versions, "settings": vars(given) | {"to": str(given.to)}},
        **{"product_flops": products, "agree": agree, "training": lines, "checks": checks, "memory": memory},
    }


def listed(text: str) -> list[str]:
    return text.split(",")


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--networks", default=["r3d_18", "s3d", "resnet18"], help="to be timed", type=listed)
    parser.add_argument(
        "--checked", default=list(NETWORKS), help="of which seeds are checked (all)", type=listed
    )
    parser.add_argument("--clips", type=int, default=256, help="to train on (256)")
    parser.add_argument("--val", type=int, default=16, help="to judge by (16)")
    parser.add_argument("--batch", type=int, default=16, help="clips a step (16)")
    parser.add_argument("--epochs", type=int, default=3, help="two or more (3)")
    parser.add_argument("--frames", type=int, default=16, help="of a clip that a network sees (16)")
    parser.add_argument("--size", type=int, help="pixels (the network's own)")
    parser.add_argument("--grid", type=int, default=64, help="stored frames of a clip (64)")
    parser.add_argument("--stored", type=int, nargs=2, default=(256, 342), help="height and width (256 342)")
    parser.add_argument("--edge", type=int, default=8192, help="of the matrices of the product (8192)")
    parser.add_argument("--precision", default="auto", help="auto, fp32, tf32, bf16 or fp16 (auto)")
    parser.add_argument("--to", type=Path, help="JSON file to write")
    return parser.parse_args(words)


def main(words: list[str] | None = None) -> None:
    given = arguments(words)
    figures = run(given)
    if given.to:
        given.to.write_text(json.dumps(figures, indent=1, default=str) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
