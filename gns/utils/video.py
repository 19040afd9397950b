"""Writing a video. Needs imageio-ffmpeg, which is optional: it brings a program ffmpeg of its own along."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from torch import Tensor

from gns.errors import UserError

ENDINGS = (".mp4", ".mkv", ".mov")

# H.264 in the form that every browser and phone plays; 18 is taken to be free of visible loss.
_ENCODING = ["-crf", "18", "-preset", "medium", "-movflags", "+faststart"]


def check_video(path: Path) -> None:
    """Raise UserError where `video_file` could not write `path`: no encoder, or an ending of no video."""
    if importlib.util.find_spec("imageio_ffmpeg") is None:
        raise UserError('--video needs the package imageio-ffmpeg: run pip install ".[video]" in the folder of gns')
    if path.suffix.lower() not in ENDINGS:
        raise UserError(f"--video {path} has no ending of a video: call it {path.with_suffix('.mp4').name}")


@contextmanager
def video_file(path: Path, size: tuple[int, int], fps: int) -> Iterator[Callable[[Tensor], None]]:
    """A function that takes the frames of a video in turn, each uint8 [H, W, 3] of `size` (width, height), both even.

    The file takes the place of `path` when the block ends, and vanishes if the block fails. Raises UserError as
    `check_video` does, and where the file cannot be written.
    """
    check_video(path)
    # The same ending, by which ffmpeg knows the container; the same folder, where renaming is atomic.
    temporary = path.with_name(f".gns-{os.getpid()}-{path.name}")
    encoder = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        encoder = importlib.import_module("imageio_ffmpeg").write_frames(
            str(temporary),
            size,
            fps=fps,
            codec="libx264",
            pix_fmt_in="rgb24",
            pix_fmt_out="yuv420p",
            quality=None,
            macro_block_size=2,
            output_params=_ENCODING,
            ffmpeg_log_level="error",
        )
        encoder.send(None)  # starts the program
        yield lambda frame: encoder.send(frame.contiguous().numpy())
        encoder.close()  # waits for it
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror or error}): give --video another place") from error
    finally:
        if encoder is not None:
            encoder.close()
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
