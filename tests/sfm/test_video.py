"""Frames of a video: which are taken, and that they are those."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from gns.errors import UserError
from gns.sfm.video import choose_frames, sharpest_of_each_piece, write_frames
from tests.sfm.room import room_cameras, room_photo

Frames = list[npt.NDArray[np.uint8]]


def write_video(path: Path, frames: Frames) -> Path:
    """RGB frames as an MP4 file."""
    height, width = frames[0].shape[:2]
    video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, (width, height))
    for frame in frames:
        video.write(frame[:, :, ::-1])
    video.release()
    return path


def pan(steps: list[int]) -> Frames:
    """A window that moves over a wall by so many pixels from frame to frame."""
    wall = room_photo(room_cameras(2)[0])
    left = np.cumsum([0, *steps])
    return [np.ascontiguousarray(wall[:128, x : x + 128]) for x in left]


def test_the_sharpest_of_each_piece_is_taken() -> None:
    sharpness = np.array([1, 9, 2, 3, 1, 8, 5, 1.0])
    assert sharpest_of_each_piece(sharpness, np.arange(8.0), 3) == [1, 3, 5]
    assert sharpest_of_each_piece(sharpness, np.array([0, 1, 2, 2, 2, 2, 2, 8.0]), 4) == [1, 5, 7]
    assert sharpest_of_each_piece(sharpness, np.zeros(8), 2) == [1]


def test_blurred_frames_are_left_out_and_a_resting_camera_gives_few(tmp_path: Path) -> None:
    frames = pan([3] * 20 + [0] * 20 + [3] * 20)
    blurred = range(1, len(frames), 2)
    for number in blurred:
        frames[number] = np.asarray(cv2.GaussianBlur(frames[number], (0, 0), 2.5), np.uint8)
    seen: list[tuple[int, int]] = []
    chosen = choose_frames(write_video(tmp_path / "v.mp4", frames), 12, lambda *step: seen.append(step))
    assert seen[-1] == (61, 61)
    assert not set(chosen) & set(blurred)
    resting = [number for number in chosen if 22 <= number < 39]
    assert len(chosen) >= 10 and len(resting) <= 2


def test_the_frames_written_are_those_that_were_chosen(tmp_path: Path) -> None:
    frames = [np.full((64, 64, 3), level, np.uint8) for level in range(0, 250, 10)]
    video = write_video(tmp_path / "v.mp4", frames)
    names = write_frames(video, [3, 4, 20], tmp_path / "out", lambda *_: None)
    assert names == ["frame_00003.jpg", "frame_00004.jpg", "frame_00020.jpg"]
    for name, level in zip(names, (30, 40, 200), strict=True):
        assert abs(np.asarray(Image.open(tmp_path / "out" / name)).mean() - level) < 4


def test_what_is_no_video_is_refused(tmp_path: Path) -> None:
    (tmp_path / "v.mp4").write_bytes(b"no video")
    with pytest.raises(UserError, match="cannot be read as a video"):
        choose_frames(tmp_path / "v.mp4", 5, lambda *_: None)
