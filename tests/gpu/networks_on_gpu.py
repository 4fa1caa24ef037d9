"""Every network on the stand-in; run by `test_on_standin`."""

from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from tests.clips import write_squares
from tests.gpu.fits import on_both, sets
from vidclf.data.manifest import read_manifest
from vidclf.models.networks import NETWORKS, Pooling

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]

# Left out are swin3d_t's larger brothers, and those that take full clips alone, of 200 times the pixels.
SMALL = [
    name for name, spec in NETWORKS.items() if spec.max_size is None and name not in ("swin3d_s", "swin3d_b")
]


@pytest.mark.parametrize("network", SMALL)
def test_has_the_figures_of_the_cpu_and_no_tensor_on_the_wrong_device(tmp_path: Path, network: str) -> None:
    size, frames = max(32, NETWORKS[network].min_size), max(2, NETWORKS[network].min_frames)
    clips = sets(read_manifest(write_squares(tmp_path, groups=3, size=size)))
    keys = {"data.size": size, "data.resize": size, "data.frames": frames, "optimizer": "sgd"}
    ours, theirs = on_both(clips, tmp_path, network=network, epochs=1, **keys)
    np.testing.assert_allclose(ours.shares, theirs.shares, atol=1e-6)
    assert ours.losses == pytest.approx(theirs.losses, abs=1e-6)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("pooling", get_args(Pooling))
def test_poolings_have_the_figures_of_the_cpu(tmp_path: Path, pooling: str, precision: str) -> None:
    clips = sets(read_manifest(write_squares(tmp_path, groups=3)))
    keys = {"model.pooling": pooling, "model.frozen_stages": 3, "precision": precision, "views": 1}
    ours, theirs = on_both(clips, tmp_path, network="tiny2d", **keys)
    np.testing.assert_allclose(ours.shares, theirs.shares, atol=1e-4 if precision == "fp32" else 1e-2)
