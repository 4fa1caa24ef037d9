"""Pictures as planes: what is kept of them is what was decoded, in any size, and RGB is as FFmpeg has it."""

from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.clips import write_squares
from vidclf.data import cache
from vidclf.data.clips import ClipStore
from vidclf.data.manifest import read_manifest
from vidclf.data.pictures import Frames, Picture, StoredFrames, compressed, most_bytes, rgb_frames
from vidclf.data.video import decode, write_video
from vidclf.exceptions import InputError


def noise(height: int, width: int, seed: int = 0) -> Picture:
    generator = np.random.default_rng(seed)
    half = ((height + 1) // 2, (width + 1) // 2)
    return Picture(
        *(generator.integers(0, 256, size, dtype=np.uint8) for size in ((height, width), half, half))
    )


@given(st.integers(1, 9), st.integers(1, 9), st.lists(st.integers(0, 3), min_size=1, max_size=6), st.data())
def test_what_is_kept_is_what_was_decoded(
    height: int, width: int, which: list[int], data: st.DataObject
) -> None:
    different = [noise(height, width, seed) for seed in range(4)]
    pictures = [different[number] for number in which]
    content = compressed(pictures)
    stored = StoredFrames(content)
    expected = rgb_frames(pictures)
    assert stored.shape == expected.shape
    np.testing.assert_array_equal(stored[:], expected)
    chosen = np.array(data.draw(st.lists(st.integers(0, len(which) - 1), min_size=1)))
    np.testing.assert_array_equal(stored[chosen], expected[chosen])
    assert len(content) <= most_bytes(len(which), height, width)


def test_a_picture_that_comes_again_is_kept_once() -> None:
    picture = noise(32, 32)
    assert len(compressed([picture] * 8)) < len(compressed([picture])) + 8 * 16


@pytest.mark.parametrize(
    ("planes", "colour"),
    [
        ((16, 128, 128), (0, 0, 0)),
        ((235, 128, 128), (255, 255, 255)),
        ((81, 90, 240), (255, 0, 0)),
        ((145, 54, 34), (0, 255, 0)),
        ((41, 240, 110), (0, 0, 255)),
    ],
)
def test_colours_are_those_of_bt_601(planes: tuple[int, int, int], colour: tuple[int, int, int]) -> None:
    """ITU-R BT.601-7, table of 100 % colour bars."""
    sizes = ((5, 3), (3, 2), (3, 2))
    picture = Picture(*(np.full(size, value, np.uint8) for size, value in zip(sizes, planes, strict=True)))
    assert picture.rgb().shape == (5, 3, 3)
    np.testing.assert_allclose(picture.rgb().reshape(-1, 3).astype(int), [colour] * 15, atol=1)


@pytest.mark.parametrize(("codec", "form"), [("libx264", "yuv420p"), ("mjpeg", "yuvj420p"), ("ffv1", "gray")])
@pytest.mark.parametrize("colours", ["bt709", "smpte170m"])
def test_rgb_is_as_ffmpeg_has_it(codec: str, form: str, colours: str, tmp_path: Path) -> None:
    path = tmp_path / "clip.mkv"
    frames = moving()
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options={"colorspace": colours})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], form  # type: ignore[union-attr]
        for frame in frames:
            shown = av.VideoFrame.from_ndarray(frame, format="rgb24")
            container.mux(stream.encode(shown))  # type: ignore[union-attr]
        container.mux(stream.encode(None))  # type: ignore[union-attr]
    with av.open(str(path)) as container:
        expected = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    np.testing.assert_allclose(decode(path, 8, 256).frames.astype(int), expected, atol=6)


def moving() -> Frames:
    """A colour gradient that moves: no edges, where FFmpeg spreads colours otherwise."""
    row, column = np.mgrid[:48, :64]
    pictures = [np.stack([row * 4, column * 3, row + column + 8 * time], axis=2) for time in range(4)]
    return np.array(pictures, dtype=np.uint8)


def test_a_foreign_entry_is_replaced_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    path = read_manifest(write_squares(tmp_path, groups=4)).entries[0].clip_path
    store = ClipStore(6, 16)
    expected = store.read(path)[:]
    entry = store.entry(path)
    assert cache.save(entry, np.zeros(100, dtype=np.uint8))
    np.testing.assert_array_equal(store.read(path)[:], expected)
    kept = store.kept(path)
    assert kept is not None
    content = bytearray(entry.read_bytes())
    content[-20] ^= 255
    entry.write_bytes(content)
    with pytest.raises(InputError, match=rf"{entry}: damaged on the disk; delete it"):
        store.read(path)[:]


def test_a_clip_of_flat_areas_takes_a_quarter_of_its_rgb(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", np.repeat(np.repeat(moving(), 4, 1), 4, 2))
    clip = decode(tmp_path / "clip.mp4", 8, 256)
    assert len(compressed(clip.pictures)) < clip.frames.nbytes / 4
