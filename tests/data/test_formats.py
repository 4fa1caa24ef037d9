"""What counts as a video: every container is found in folders by its files' endings, and decoded."""

import os
from pathlib import Path
from typing import cast

import av
import numpy as np
import pytest
from av.format import ContainerFormat

from vidclf.data import video
from vidclf.data.formats import CONTAINERS
from vidclf.data.sources import VIDEO_SUFFIXES, read_folder
from vidclf.inference.predict import find_videos

LEVELS = [20, 90, 160, 230]
CODECS = {
    "mpeg": "mpeg2video",
    "mpegts": "libx264",
    "asf": "wmv2",
    "flv": "flv",
    "ogg": "libvpx",
    "rm": "rv20",
    "dv": "dvvideo",
    "gif": "gif",
    "apng": "apng",
    "mxf": "mpeg2video",
    "wtv": "mpeg2video",
    "ivf": "libvpx",
    "yuv4mpegpipe": "wrapped_avframe",
    "mpegvideo": "mpeg1video",
    "mjpeg": "mjpeg",
    "h261": "h261",
    "h263": "h263",
    "h264": "libx264",
    "hevc": "libx265",
    "obu": "libsvtav1",
}
"""An encoder for each container; `mpeg4` for the others."""
MUXERS = {"mpeg": "vob", "mpegvideo": "mpeg1video"}
WITHOUT_ENCODER = {".nsv", ".vvc", ".h266", ".266", ".vc1", ".drc"}
"""FFmpeg reads them and PyAV's build writes none."""
SIZES = {"dv": (720, 576), "h261": (176, 144), "h263": (176, 144)}
PIXELS = {"gif": "rgb8", "apng": "rgb24", "mjpeg": "yuvj420p"}


def write(path: Path, container: str) -> None:
    width, height = SIZES.get(container, (64, 48))
    with av.open(str(path), "w", format=MUXERS.get(container, container)) as output:
        codec = CODECS.get(container, "mpeg4")
        stream = cast(av.VideoStream, output.add_stream(codec, rate=25))
        stream.width, stream.height = width, height
        stream.pix_fmt = PIXELS.get(container, "yuv420p")
        for level in LEVELS:
            picture = np.full((height, width, 3), level, np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=stream.pix_fmt)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    if codec == "libsvtav1":  # run by root it makes its caller a real-time thread, which starves all others
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


@pytest.mark.slow
def test_every_kind_of_video_is_found_and_decoded(tmp_path: Path) -> None:
    wanted = sorted(VIDEO_SUFFIXES - WITHOUT_ENCODER)
    assert {".ts", ".mts", ".m2ts", ".vob", ".3gp", ".gif", ".ogv", ".dv", ".wmv", ".flv"} < set(wanted)
    folder = tmp_path / "clips"
    (folder / "Punch").mkdir(parents=True)
    for container, suffixes in CONTAINERS.items():
        for suffix in sorted(set(suffixes) - WITHOUT_ENCODER):
            write(folder / "Punch" / f"clip{suffix.upper()}", container)
    paths = [folder / "Punch" / f"clip{suffix.upper()}" for suffix in wanted]
    assert [clip.name for clip in read_folder(str(folder), None)[0]] == sorted(map(str, paths))
    assert find_videos([str(folder)]) == sorted(map(str, paths))
    for path in paths:
        levels = video.decode(path, 64, 48).frames.mean(axis=(1, 2, 3))
        assert levels.tolist() == pytest.approx(LEVELS, abs=3), path.name


@pytest.mark.parametrize("container", CONTAINERS)
def test_containers_are_named_as_ffmpeg_names_its_demuxers(container: str) -> None:
    assert container in ContainerFormat(container, "r").name.split(",")
