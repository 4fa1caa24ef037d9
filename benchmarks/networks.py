"""Size, work and speed of every network on clips of 16 frames: python benchmarks/networks.py.

Random weights, one clip at a time, at the size that each network's own weights want.
"""

import argparse
import platform
import statistics
import time

import torch
import torchvision
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from vidclf.models.networks import NETWORKS
from vidclf.models.precision import is_native
from vidclf.models.video_network import VideoNetwork

FRAMES, CLASSES, ROUNDS = 16, 10, 5
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def build(name: str) -> VideoNetwork:
    return VideoNetwork(name, weights="none", classes=CLASSES, dropout=0.0, frozen_stages=0).eval()


def own_size(name: str) -> int:
    return NETWORKS[name].preprocessing.size


def multiplications(name: str, clips: Tensor) -> float:
    """Multiply-adds of one forward pass, counted on shapes alone."""
    with torch.device("meta"):
        network = build(name)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(clips.to("meta"))
    return float(counter.get_total_flops()) / 2


@torch.inference_mode()
def seconds(network: VideoNetwork, clips: Tensor, precisions: list[bool]) -> list[float]:
    """Medians for each precision, bf16 or not; they take turns, so that a noisy moment hits all of them."""
    taken: list[list[float]] = [[] for _ in precisions]
    for _ in range(ROUNDS + 1):
        for durations, bf16 in zip(taken, precisions, strict=True):
            started = time.perf_counter()
            with torch.autocast(DEVICE.type, torch.bfloat16, enabled=bf16):
                network(clips).float().cpu()
            durations.append(time.perf_counter() - started)
    return [statistics.median(durations[1:]) for durations in taken]


def main(names: list[str]) -> None:
    native = is_native("bf16")
    device = torch.cuda.get_device_name() if DEVICE.type == "cuda" else platform.processor() or "CPU"
    print(f"device     {device}")
    print(f"threads    {torch.get_num_threads()}")
    print(f"versions   torch {torch.__version__}, torchvision {torchvision.__version__}")
    print(f"automatic  {'bf16' if native else 'fp32'}")
    print(f"clips      1 at a time of {FRAMES} frames; median of {ROUNDS}\n")
    print(f"{'network':<20}{'size':>6}{'M parameters':>14}{'GMAC':>8}{'s in fp32':>11}{'s automatic':>13}")
    for name in names:
        size = own_size(name)
        clips = torch.randn(1, FRAMES, 3, size, size, device=DEVICE)
        network = build(name)
        network = network.to(DEVICE).to(memory_format=network.memory_format)
        parameters = sum(values.numel() for values in network.parameters()) / 1e6
        fp32, automatic = seconds(network, clips, [False, native])
        work = multiplications(name, clips) / 1e9
        print(
            f"{name:<20}{size:>6}{parameters:>14.2f}{work:>8.2f}{fp32:>11.4f}{automatic:>13.4f}", flush=True
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", default=",".join(NETWORKS), help="comma-separated; default: all")
    main(parser.parse_args().networks.split(","))
