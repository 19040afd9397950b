"""The frames of a video that a reconstruction needs: sharp ones, as far apart as the camera has moved."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from gns.errors import UserError
from gns.sfm.options import MOST_FRAMES

Grey = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]

FRAME_NAME = "frame_{:05d}.jpg"
_JPEG_QUALITY = 97

_WIDTH = 320  # pixels at which frames are compared
_SPACING = 0.06  # of the width: how far the picture moves from one chosen frame to the next
_FEWEST = 40
_STANDSTILL = 0.0005  # of the width: less is noise, and a camera on a tripod shows nothing new
_CORNERS = 100


def choose_frames(path: Path, count: int, tell: Callable[[int, int], None]) -> list[int]:
    """The numbers of the frames to take, ascending, from 0.

    The way of the picture, the median displacement from frame to frame summed up, is parted into `count` pieces of
    equal length, and the sharpest frame of each is taken: frames are dense where the camera turns fast and sparse where
    it rests. For a `count` of 0 a piece is 6 % of the picture's width, within 40 and 300 pieces. `tell` hears of
    (frames looked at, frames in all). Raises UserError where the file is no video or too short.
    """
    sharpness, steps = list[float](), list[float]()
    before: Grey | None = None
    total = _frame_count(path)
    for number, frame in enumerate(_frames(path)):
        grey = _small_grey(frame)
        sharpness.append(float(cv2.Laplacian(grey, cv2.CV_64F).var()))
        steps.append(0.0 if before is None else _displacement(before, grey))
        before = grey
        tell(number + 1, max(total, number + 1))
    if len(sharpness) < 3:
        raise UserError(f"{path} has {len(sharpness)} frames: a scene needs a video that goes round it")
    way = np.cumsum(np.maximum(steps, _STANDSTILL))
    if count == 0:
        count = int(np.clip(round(way[-1] / _SPACING), _FEWEST, MOST_FRAMES))
    return sharpest_of_each_piece(np.array(sharpness), way, count)


def sharpest_of_each_piece(sharpness: Floats, way: Floats, count: int) -> list[int]:
    """The sharpest frame of each of `count` equally long pieces of `way` [N], ascending. Empty pieces give none."""
    piece = np.minimum((way - way[0]) / max(way[-1] - way[0], 1e-12) * count, count - 1).astype(int)
    chosen = []
    for number in range(count):
        frames = np.flatnonzero(piece == number)
        if len(frames):
            chosen.append(int(frames[np.argmax(sharpness[frames])]))
    return chosen


def write_frames(path: Path, numbers: list[int], folder: Path, tell: Callable[[int, int], None]) -> list[str]:
    """Write frames of a video as JPEGs into `folder` and return their names. Raises UserError where that fails."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted, names = set(numbers), list[str]()
    for number, frame in enumerate(_frames(path)):
        if number not in wanted:
            continue
        name = FRAME_NAME.format(number)
        if not cv2.imwrite(str(folder / name), frame, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]):
            raise UserError(f"cannot write {folder / name}: free some space there, or choose another folder with -o")
        names.append(name)
        tell(len(names), len(numbers))
        if len(names) == len(numbers):
            break
    return names


def _frames(path: Path) -> Iterator[npt.NDArray[np.uint8]]:
    """The frames of a video as uint8 BGR [H, W, 3], turned as the file says. Raises UserError where it is none."""
    video = cv2.VideoCapture(str(path))
    try:
        if not video.isOpened():
            raise UserError(f"{path} cannot be read as a video: convert it to MP4 (H.264)")
        while True:
            there, frame = video.read()
            if not there:
                return
            yield np.asarray(frame, np.uint8)
    finally:
        video.release()


def _frame_count(path: Path) -> int:
    """How many frames the file says it has: some say 0, or a few too many."""
    video = cv2.VideoCapture(str(path))
    try:
        return int(video.get(cv2.CAP_PROP_FRAME_COUNT))
    finally:
        video.release()


def _small_grey(frame: npt.NDArray[np.uint8]) -> Grey:
    height, width = frame.shape[:2]
    small = cv2.resize(frame, (_WIDTH, max(1, round(height * _WIDTH / width))), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.cvtColor(small, cv2.COLOR_BGR2GRAY), np.uint8)


def _displacement(before: Grey, after: Grey) -> float:
    """How far corners of the picture have moved, in widths: the median. 0 where there are no corners to follow."""
    corners = cv2.goodFeaturesToTrack(before, _CORNERS, 0.01, 8)
    if corners is None:
        return 0.0
    moved, found, _ = cv2.calcOpticalFlowPyrLK(before, after, corners, np.zeros_like(corners))
    lengths = np.linalg.norm((np.asarray(moved) - np.asarray(corners))[:, 0], axis=1)[np.asarray(found)[:, 0] == 1]
    return float(np.median(lengths)) / _WIDTH if len(lengths) else 0.0
