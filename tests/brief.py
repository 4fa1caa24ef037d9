"""What a run does for its readers, in brief: figures are blank, and models timed seldom.

Of a tiny run both would take longer than the run itself. The server of workers imports this too.
"""

import functools
import io
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from vidclf.inference import profiling
from vidclf.reports import plots

_blank = io.BytesIO()
Image.new("RGB", (8, 8)).save(_blank, "png")
write_drawn = plots.write_png


def write_blank(_figure: Figure, path: Path, _colours: int = 64) -> None:
    path.write_bytes(_blank.getvalue())


plots.write_png = write_blank
profiling.measure_latency = functools.partial(profiling.measure_latency, runs=3, warmup=1)
profiling.measure_side_by_side = functools.partial(profiling.measure_side_by_side, rounds=2, runs=3)
