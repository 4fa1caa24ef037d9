"""How much a network computes for a clip."""

import functools

import torch
from torch.utils.flop_counter import FlopCounterMode

from vidclf.models.video_network import Pooling, build_network


@functools.cache
def multiply_accumulates(network: str, pooling: Pooling, classes: int, frames: int, size: int) -> int:
    """Multiply-accumulate operations of one view of a clip: those of convolutions and matrix products.

    Counted from shapes alone, which takes no memory; once a process for each shape.

    Args:
        network: Key into `vidclf.models.networks.NETWORKS`.
        pooling: See `vidclf.models.video_network.VideoNetwork`.
        classes: Outputs.
        frames: Of the clip.
        size: Edge of the frames in pixels.
    """
    with torch.device("meta"), torch.inference_mode(), FlopCounterMode(display=False) as counter:
        built = build_network(
            network, weights="none", classes=classes, dropout=0, frozen_stages=0, pooling=pooling
        )
        built.eval()(torch.empty(1, frames, 3, size, size))
    # It counts a multiplication and the addition after it as two.
    return int(counter.get_total_flops()) // 2
