"""The options of `gns convert`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gns.errors import UserError
from gns.utils.option_table import build, check, given_options, option

# SIMPLE_RADIAL, COLMAP's own choice, first: with few photos, richer models fit the noise (docs/LOG.md, "Photos in").
CAMERAS = (
    "SIMPLE_RADIAL",
    "RADIAL",
    "OPENCV",
    "SIMPLE_PINHOLE",
    "PINHOLE",
    "OPENCV_FISHEYE",
    "SIMPLE_RADIAL_FISHEYE",
    "RADIAL_FISHEYE",
    "FULL_OPENCV",
)
MATCHINGS = ("auto", "exhaustive", "sequential", "retrieval")
MAPPERS = ("incremental", "global")
MOST_FRAMES = 300  # of a video, unless --frames says otherwise


@dataclass(frozen=True, kw_only=True)
class PhotosConfig:
    """How photos become a scene: what `gns convert` and `gns make` share. Raises UserError for what cannot be."""

    output: Path | None = field(
        default=None,
        metadata=option(
            "folder of the scene that is made (default: scenes/NAME; PHOTOS itself where they lie in PHOTOS/input)",
            group="photos",
            short="-o",
            metavar="SCENE",
        ),
    )
    camera: str = field(
        default=CAMERAS[0],
        metadata=option("camera model of COLMAP: what the lens may do to a photo", group="photos", choices=CAMERAS),
    )
    matching: str = field(
        default=MATCHINGS[0],
        metadata=option(
            "which photos are compared: exhaustive: all with all; sequential: each with those before and after it in "
            "the order of names; retrieval: each with those that look alike; auto: by their number and kind",
            group="photos",
            choices=MATCHINGS,
        ),
    )
    frames: int = field(
        default=0,
        metadata=option(
            f"pictures to take from a video; 0: as many as the camera's way asks for, at most {MOST_FRAMES}",
            group="photos",
            at_least=0,
        ),
    )
    features: int = field(
        default=8192, metadata=option("most features to find in a photo", group="photos", at_least=100)
    )
    mapper: str = field(
        default=MAPPERS[0],
        metadata=option(
            "incremental: photo by photo; global: all at once, much faster for many hundreds",
            group="photos",
            choices=MAPPERS,
        ),
    )
    undistort: bool = field(
        default=True,
        metadata=option(
            "photos without lens distortion and PINHOLE cameras, as every tool of the 3DGS family takes them; off: the "
            "photos as they are and the cameras with their distortion, which gns takes too",
            group="photos",
        ),
    )
    principal_point: bool = field(
        default=True,
        metadata=option(
            "estimate where the lens's axis meets the photos, of cameras with many; off: in their middle, which the "
            "original 3DGS and some other tools take for granted",
            group="photos",
        ),
    )
    mask_features: bool = field(
        default=True,
        metadata=option(
            "find no features where masks are dark; off: everywhere, for masks around one object that the camera went "
            "round",
            group="photos",
        ),
    )
    min_registered: float = field(
        default=0.5,
        metadata=option("share of the photos that must find their place, else there is no scene", group="photos"),
    )
    gpu: bool = field(
        default=True, metadata=option("use an NVIDIA GPU where there is one and pycolmap can", group="photos")
    )

    def __post_init__(self) -> None:
        check(self)
        if not 0 <= self.min_registered <= 1:
            raise UserError(f"--min-registered is {self.min_registered}: give a share from 0 to 1")


@dataclass(frozen=True, kw_only=True)
class ConvertConfig(PhotosConfig):
    """What `gns convert` does."""

    source_path: Path = field(
        metadata=option(
            "folder of photos, or a video; -s may be left out", group="photos", short="-s", metavar="PHOTOS"
        )
    )
    skip_matching: bool = field(
        default=False,
        metadata=option(
            "take the reconstruction that is in SCENE/distorted/sparse/0, and only undistort", group="3DGS"
        ),
    )
    resize: bool = field(
        default=False,
        metadata=option(
            "also write images_2, images_4 and images_8; train.py does not need them: it has -r", group="3DGS"
        ),
    )
    colmap_executable: str = field(
        default="", metadata=option("not needed: COLMAP is called through its library", group="3DGS")
    )
    magick_executable: str = field(default="", metadata=option("not needed: Pillow resizes", group="3DGS"))
    threads: int = field(default=0, metadata=option("processor threads; 0: all cores", group="machine", at_least=0))
    quiet: bool = field(default=False, metadata=option("print nothing but errors", group="machine"))
    json: bool = field(
        default=False,
        metadata=option("print the result as JSON on stdout; all else goes to stderr", group="machine"),
    )


def parse_convert(argv: Sequence[str], *, prog: str = "convert.py") -> ConvertConfig:
    """The configuration that a command line of convert.py asks for; the photos may stand alone. Raises UserError."""
    config: ConvertConfig = build(
        ConvertConfig,
        given_options(
            [ConvertConfig],
            with_source_flag(argv),
            prog=prog,
            description="Find out where photos, or the frames of a video, were taken from: a scene to train on.",
        ),
    )
    return config


def with_source_flag(argv: Sequence[str]) -> list[str]:
    """The words of a command line, with `-s` in front of a first word that is no option."""
    words = list(argv)
    return ["-s", *words] if words and not words[0].startswith("-") else words
