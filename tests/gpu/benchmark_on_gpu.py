"""The benchmark on the stand-in, for its logic; run by `test_on_standin`."""

import json
import runpy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.gpu.standin import gpu, log

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "gpu.py"
TINY = (
    "--networks tiny3d --checked tiny2d,tiny3d --clips 6 --val 4 --batch 2 --epochs 2 --frames 4 --size 32 "
    "--grid 8 --stored 36 48 --edge 32"
)


def test_a_line_for_each_part_and_figures_of_each_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kernels_of(call: Callable[[], None], _: torch.device) -> int:
        log.reset()
        call()
        return sum(times for (kind, *_), times in log.events.items() if kind == "kernel")

    benchmark = runpy.run_path(str(BENCHMARK))
    monkeypatch.setitem(benchmark["measured"].__globals__, "kernels_of", kernels_of)
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda *_: None)
    monkeypatch.setenv("VIDCLF_CACHE", str(tmp_path / "cache"))
    to = tmp_path / "gpu.json"
    with gpu():
        benchmark["main"]([*TINY.split(), "--to", str(to)])
    figures = json.loads(to.read_text())
    assert figures["device"] == "stand-in"
    lines = [(line["part"], line["cached"], line["compile"]) for line in figures["training"]]
    assert lines == [
        *[("head", False, "off"), ("head", True, "off"), ("partial", False, "off"), ("partial", True, "off")],
        *[("full", False, "off"), ("full", False, "on")],
    ]
    assert all(line["clips_s"] > 0 and line["kernels_a_step"] > 0 for line in figures["training"])
    assert [check["network"] for check in figures["checks"]] == ["tiny2d", "tiny3d"]
    assert all(check["seed_repeats"] for check in figures["checks"])
    assert all(check["bf16_off"] < 0.05 for check in figures["checks"])
    assert figures["memory"]["needed_mib"] > 0
