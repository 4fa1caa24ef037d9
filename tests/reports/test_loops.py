"""Clips that play on a page: what a browser would show of them, and what a page may take."""

import base64
import io
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from vidclf.data.manifest import Manifest
from vidclf.data.video import encoded, write_video
from vidclf.reports.loops import Loops
from vidclf.reports.rendering import film_uri, render


def ramp(frames: int) -> np.ndarray:
    """Grey pictures that brighten by the same step, 40 x 60."""
    levels = np.linspace(40, 210, frames).astype(np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (frames, 40, 60, 3))


def test_a_loop_shows_the_whole_clip_as_fast_as_it_was(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", ramp(50), rate=25)
    loop = Loops().of(tmp_path / "clip.mp4")
    assert loop is not None
    assert loop.film is not None
    with av.open(io.BytesIO(loop.film)) as film:
        stream = film.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert float(stream.average_rate or 0) == pytest.approx(16)  # 32 pictures of two seconds
        levels = [frame.to_ndarray(format="gray").mean() for frame in film.decode(stream)]
    assert len(levels) == 32
    assert np.all(np.diff(levels) > 0)
    assert levels[0] < 50
    assert levels[-1] > 190
    assert loop.strip.shape == (40, 4 * 60, 3)
    assert np.all(np.diff(loop.strip[20, 30::60, 0].astype(int)) > 0)


@pytest.mark.parametrize("frames", [1, 2])
def test_a_clip_of_few_frames_plays(tmp_path: Path, frames: int) -> None:
    write_video(tmp_path / "clip.mp4", ramp(frames))
    loop = Loops().of(tmp_path / "clip.mp4")
    assert loop is not None
    assert loop.strip.shape == (40, frames * 60, 3)
    with av.open(io.BytesIO(loop.film or b"")) as film:
        assert len(list(film.decode(video=0))) == frames


def test_odd_sides_lose_their_last_row() -> None:
    film = encoded(np.zeros((3, 41, 59, 3), np.uint8), 10)
    assert film is not None
    with av.open(io.BytesIO(film)) as container:
        assert (container.streams.video[0].height, container.streams.video[0].width) == (40, 58)


def test_what_is_too_small_to_encode_stands_still() -> None:
    assert encoded(np.zeros((3, 1, 40, 3), np.uint8), 10) is None


def test_what_is_gone_or_no_video_has_no_loop(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    assert Loops().of(tmp_path / "gone.mp4") is None
    assert Loops().of(tmp_path / "text.mp4") is None


def test_on_a_full_page_clips_stand_still(squares: Manifest) -> None:
    first, second = (entry.clip_path for entry in squares.entries[:2])
    loops = Loops(left=1)
    played, still = loops.of(first), loops.of(second)
    assert played is not None
    assert still is not None
    assert played.film
    assert still.film is None
    assert loops.of(first) is played  # shown twice, it is counted once


def test_a_page_holds_the_film_and_the_strip(squares: Manifest) -> None:
    loop = Loops().of(squares.entries[0].clip_path)
    assert loop is not None
    assert loop.film is not None
    clip = {"label": "down", "predicted": "right", "confidence": 0.9, "group": "g", "loop": loop}
    page = render(
        "study.html.j2",
        **dict.fromkeys(("title", "question", "counts", "warning", "best_config"), ""),
        **dict.fromkeys(("facts", "sections", "leaderboard"), ()),
        hidden=0,
        wrong=[clip],
    )
    assert f'src="{film_uri(loop.film)}"' in page
    content = page.split("data:image/jpeg;base64,")[1].split('"')[0]
    strip = cv2.imdecode(np.frombuffer(base64.b64decode(content), np.uint8), cv2.IMREAD_COLOR_RGB)
    assert strip.shape == loop.strip.shape
    assert ">down</b>, called right\n(90 %)" in page
