"""Networks as graphs: what torch traces of them, and ONNX in single precision and in eight bits."""

import contextlib
import importlib.util
import logging
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vidclf.exceptions import InputError
from vidclf.models.video_network import ProbabilityGraph

if TYPE_CHECKING:
    from onnxruntime import InferenceSession  # an extra

Clips = NDArray[np.float32]
"""Normalised clips, shape (B, T, 3, size, size)."""

INPUT, OUTPUT = "clips", "probabilities"
"""Names of what a graph takes and gives."""
TO_WRITE = ("onnx", "onnxscript", "onnxruntime")
TO_RUN = ("onnxruntime",)
"""Packages that an extra brings, for graphs to be written and to be run."""
_LONGEST_REASON = 300
"""Characters of a library's message that are passed on."""
_SILENT = 4
"""onnxruntime's number of the least severe message that it prints: what it cannot load it raises too."""


def check_onnx(*, to_run: bool = False) -> None:
    """Refuses to go on where the packages that write graphs, or run them, are missing.

    Raises:
        InputError: Names them, and the command that installs them.
    """
    missing = [name for name in (TO_RUN if to_run else TO_WRITE) if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"ONNX needs {', '.join(missing)}: pip install 'vidclf[onnx]'")


def traced(graph: nn.Module, views: Tensor) -> torch.export.ExportedProgram:
    """The graph for any number of clips.

    Args:
        graph: Of a `ProbabilityGraph`, or a part of it.
        views: An example of its input.
    """
    # Two clips, as of a batch of one torch makes a constant.
    example = views[:1].repeat(2, *(1 for _ in views.shape[1:]))
    batch = {0: torch.export.Dim("clips", min=1)}
    return torch.export.export(graph, (example,), dynamic_shapes=(batch,))


def write_onnx(graph: ProbabilityGraph, views: Tensor, file: Path) -> None:
    """Writes a graph with its weights in single precision.

    Raises:
        InputError: It cannot be one of ONNX: names the stage that is in the way.
    """
    try:
        _write(graph, views, file)
    except Exception as error:  # torch.export and torch.onnx have no class for what they do not know
        place = _in_the_way(graph, views)
        reason = f"{type(error).__name__}: {error}".partition("\n")[0][:_LONGEST_REASON]
        raise InputError(f"{graph.network.name} cannot be written as ONNX{place}: {reason}") from None


def _write(graph: nn.Module, views: Tensor, file: Path) -> None:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own parts that are going to change
        program = torch.onnx.export(
            traced(graph, views), input_names=[INPUT], output_names=[OUTPUT], dynamo=True, verbose=False
        )
    assert program is not None
    program.save(file, external_data=False)


def _in_the_way(graph: ProbabilityGraph, views: Tensor) -> str:
    """Which of a network's stages cannot be written by itself, in words; empty where each can."""
    network = graph.network
    maps = views.flatten(0, 1) if network.dims == 2 else views.transpose(1, 2)
    with tempfile.TemporaryDirectory(prefix="vidclf-") as folder, torch.no_grad():
        for name, stage in network.stages.named_children():
            try:
                _write(stage, maps, Path(folder, "stage.onnx"))
            except Exception:  # as above
                return f", its stage {name} is in the way"
            maps = stage(maps)
    return ""


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what is logged by the root logger itself, as onnxruntime does of each bias."""

    def nothing(_: logging.LogRecord) -> bool:
        return False

    root = logging.getLogger()
    root.addFilter(nothing)
    try:
        yield
    finally:
        root.removeFilter(nothing)


def write_int8(single: Path, file: Path, examples: Iterable[Clips]) -> None:
    """Writes a graph whose weights and activations have eight bits, channel by channel.

    Args:
        single: The graph in single precision.
        file: What is written.
        examples: Inputs; the range of each activation is what they reach.

    Raises:
        InputError: onnxruntime cannot quantise it.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left: Iterator[Clips] = iter(examples)

        def get_next(self) -> dict[str, Clips] | None:
            clip = next(self._left, None)
            return None if clip is None else {INPUT: clip}

    try:
        with _quiet(), tempfile.TemporaryDirectory(prefix="vidclf-") as folder:
            fused = Path(folder, "fused.onnx")  # batch norm inside the convolutions before it
            quant_pre_process(str(single), str(fused), skip_symbolic_shape=True)
            quantize_static(
                str(fused),
                str(file),
                Reader(),
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                reduce_range=True,  # else sums overflow on CPUs without VNNI, which then predict otherwise
            )
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".partition("\n")[0][:_LONGEST_REASON]
        raise InputError(f"the graph cannot be quantised: {reason}") from None


def session(graph: bytes, threads: int) -> "InferenceSession":
    """What runs a graph on the CPU, with so many threads.

    Raises:
        InputError: onnxruntime is not installed.
    """
    check_onnx(to_run=True)
    import onnxruntime

    options: Any = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Threads that wait in a loop for the next operation take the cores from others, and from each other.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = _SILENT
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def probabilities(running: "InferenceSession", clips: Clips) -> NDArray[np.float64]:
    """What a graph makes of clips, shape (B, classes)."""
    [found] = running.run([OUTPUT], {INPUT: clips})
    return np.asarray(found, dtype=np.float64)
