"""Files of strangers: for every reader some whole ones, what reads them, and ways to damage them.

A reader may take a damaged file, or refuse it with a `UserError`. Anything else, a hang included, is a defect.
"""

from __future__ import annotations

import io
import json
import os
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from gns.arguments import CONFIG_FILE, read_config
from gns.commands.test import read_budgets, read_results
from gns.errors import UserError
from gns.run_folder import RunFolder, read_checkpoint
from gns.scene.ply import load_ply, save_ply
from gns.scene.readers import SceneOptions, find_reader, read_scene
from gns.scene.readers.depth_maps import read_depth_map
from gns.scene.readers.frames import DepthMap
from gns.scene.readers.ply_points import read_ply_points
from gns.testing.examples import random_gaussians
from gns.testing.scene_files import SmallScene, small_scene, write_colmap, write_nerfstudio
from gns.testing.tiny import tiny_config, tiny_scene
from gns.training.loop import Trainer
from gns.utils.images import image_size, read_image, read_mask
from gns.utils.png import read_png

Read = Callable[[Path], object]  # of the file at a path

_HOSTILE_NUMBERS = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 60, (1 << 63) - 1, (1 << 64) - 1)
_HOSTILE_TEXTS = (b"nan", b"-1", b"1e999", b"5e-324", b"9" * 400, b"", b"\0", b"../../etc/passwd", b"[" * 3000, b"{}")


@dataclass(frozen=True)
class Target:
    """A reader, the name that its file must have, and whole files of its kind."""

    name: str
    file: str
    seeds: Sequence[bytes]
    read: Read
    beside: Callable[[Path], object] = lambda folder: None  # writes what the file needs beside itself

    def prepare(self, folder: Path) -> Path:
        """Make `folder` ready, and return where the file goes."""
        folder.mkdir(parents=True, exist_ok=True)
        self.beside(folder)
        path = folder / self.file
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def try_on(self, path: Path, content: bytes) -> bool:
        """Whether the reader takes `content`; False where it refuses it properly. Raises what it should not raise."""
        path.write_bytes(content)
        try:
            self.read(path)
        except UserError as error:
            assert len(str(error)) < 5000, "a sentence of more than a page"
            return False
        return True


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A new folder for the length of a block, in memory where the system has such a place."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as name:
        yield Path(name)


@cache
def targets() -> dict[str, Target]:
    """All readers by name."""
    with tempfile.TemporaryDirectory() as name:
        return {target.name: target for target in _targets(Path(name))}


def damaged(seeds: Sequence[bytes], generator: np.random.Generator, count: int) -> Iterator[bytes]:
    """`count` versions of the seeds with up to four places changed, cut, doubled or overwritten with hostile values."""
    for _ in range(count):
        content = bytearray(seeds[int(generator.integers(len(seeds)))])
        for _ in range(int(generator.integers(1, 5))):
            content = _damaged_once(content, seeds, generator)
        yield bytes(content)


def _damaged_once(content: bytearray, seeds: Sequence[bytes], generator: np.random.Generator) -> bytearray:
    if not content:
        return content
    at = int(generator.integers(len(content)))
    length = int(generator.integers(1, 1 + min(64, len(content) - at)))
    match int(generator.integers(8)):
        case 0:
            content[at] ^= 1 << int(generator.integers(8))
        case 1:
            del content[at:]
        case 2:
            del content[at : at + length]
        case 3:
            content[at:at] = content[at : at + length]
        case 4:
            number = _HOSTILE_NUMBERS[generator.integers(len(_HOSTILE_NUMBERS))]
            content[at : at + 8] = number.to_bytes(8, "little")
        case 5:
            content[at : at + length] = _HOSTILE_TEXTS[generator.integers(len(_HOSTILE_TEXTS))]
        case 6:
            content[at : at + length] = generator.bytes(length)
        case _:
            other = seeds[int(generator.integers(len(seeds)))]
            start = int(generator.integers(max(1, len(other) - length)))
            content[at : at + length] = other[start : start + length]
    return content


def _targets(work: Path) -> Iterator[Target]:
    scene = small_scene(count=3, width=8, height=6, points=5)
    for kind, binary in (("bin", True), ("txt", False)):
        model = write_colmap(work / kind, scene, binary=binary, coefficients=(), model="PINHOLE") / "sparse" / "0"
        for stem in ("cameras", "images", "points3D"):
            file = f"sparse/0/{stem}.{kind}"
            beside = _scene_writer(scene, binary=binary)
            yield Target(f"colmap {stem}.{kind}", file, [(model / f"{stem}.{kind}").read_bytes()], _capture, beside)
    nerfstudio = write_nerfstudio(work / "nerfstudio", scene)
    listing = (nerfstudio / "transforms.json").read_bytes()
    richer = json.loads(listing)
    richer |= {"train_filenames": ["images/00.png"], "test_filenames": ["images/01.png"], "k1": 0.01, "p1": 0.001}
    richer["frames"][0]["mask_path"] = "masks/00.png"
    yield Target(
        "transforms.json",
        "transforms.json",
        [listing, json.dumps(richer).encode()],
        _capture,
        lambda folder: _with_mask(write_nerfstudio(folder, scene)),
    )
    points = [(nerfstudio / "points.ply").read_bytes()]
    points.append((write_nerfstudio(work / "ascii", scene, points="ascii") / "points.ply").read_bytes())
    yield Target("points.ply", "points.ply", points, read_ply_points)
    save_ply(random_gaussians(3, 1), work / "model.ply")
    save_ply(random_gaussians(2, 0), work / "small.ply")
    models = [(work / name).read_bytes() for name in ("model.ply", "small.ply")]
    yield Target("model.ply", "point_cloud.ply", models, load_ply)
    yield Target("image", "photo.png", list(_pictures()), _picture)
    yield Target("depth map", "depth.png", [list(_pictures())[-1]], _depth_map)
    yield from _of_a_run(work)


def _of_a_run(work: Path) -> Iterator[Target]:
    """What a run leaves and comes back to."""
    config = tiny_config(work)
    run = RunFolder.create(config.model_path, config)
    scene = tiny_scene(train_views=2, test_views=0, points=4, count=20)
    trainer, other = Trainer(config, scene), Trainer(tiny_config(work, method="learned-mask"), scene)
    run.save_checkpoint(trainer.begin().state_dict(), 3)

    def resume(path: Path) -> object:
        with suppress(UserError):
            other.begin(read_checkpoint(path), adapt=True)  # what --start-checkpoint does
        return trainer.begin(read_checkpoint(path))

    yield Target("checkpoint", "iteration_3.pt", [run.checkpoint_path(3).read_bytes()], resume)
    yield Target("config.json", CONFIG_FILE, [(run.path / CONFIG_FILE).read_bytes()], read_config)
    arguments = (run.path / "cfg_args").read_bytes()
    yield Target("cfg_args", "cfg_args", [arguments], lambda path: RunFolder.open(path.parent))
    results = json.dumps({"ours_3": {"SSIM": 0.5, "PSNR": 20.0, "LPIPS": None, "model_sha256": "0"}}).encode()
    yield Target("results.json", "results.json", [results], lambda path: read_results(RunFolder(path.parent, config)))
    yield Target("budget.txt", "budget.txt", [b"# scenes\nfirst one 1k images\nlast two 500 images_4\n"], read_budgets)
    yield Target("rendered picture", "00000.png", [next(_pictures())], read_png)
    record = json.dumps({"iteration": 3, "loss": 0.1}).encode() + b"\n"
    yield Target("log.jsonl", "log.jsonl", [3 * record], lambda path: RunFolder(path.parent, config).read_log())


def _scene_writer(scene: SmallScene, *, binary: bool) -> Callable[[Path], object]:
    return lambda folder: write_colmap(folder, scene, binary=binary)


def _with_mask(folder: Path) -> None:
    (folder / "masks").mkdir()
    Image.new("L", (8, 6), 255).save(folder / "masks" / "00.png")


def _capture(path: Path) -> object:
    """The whole scene: what a damaged file says is used, too."""
    folder = path.parents[len(path.relative_to(_scene_of(path)).parts) - 1]
    find_reader(folder)
    return read_scene(folder, SceneOptions(), lambda line: None)


def _scene_of(path: Path) -> Path:
    return path.parent if path.name == "transforms.json" else path.parents[2]


def _picture(path: Path) -> object:
    width, height = image_size(path)
    if width * height > _MOST_PIXELS:
        raise UserError("a panorama, which may take its time")
    return read_image(path), read_mask(path)


def _depth_map(path: Path) -> object:
    return read_depth_map(DepthMap(path, 1.0, 0.0), (8, 6))


def _pictures() -> Iterator[bytes]:
    """Small pictures in the formats that photos come in."""
    generator = np.random.default_rng(0)
    colours = Image.fromarray(generator.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    deep = Image.fromarray(generator.integers(0, 65536, (6, 8), dtype=np.uint16))
    for picture, kind in (
        (colours, "PNG"),
        (colours, "JPEG"),
        (colours, "TIFF"),
        (colours, "WEBP"),
        (colours, "BMP"),
        (colours, "GIF"),
        (colours.convert("RGBA"), "PNG"),
        (deep, "PNG"),
    ):
        stream = io.BytesIO()
        picture.save(stream, format=kind)
        yield stream.getvalue()


CORPUS = Path(__file__).resolve().parents[2] / "tests" / "fuzz" / "corpus"
_MOST_PIXELS = 20_000_000  # of a photo that is fuzzed: larger ones are read too, slowly, and have tests of their own
_LARGEST_CORPUS = 8_000  # bytes of a target, compressed


def corpus_of(name: str) -> list[bytes]:
    """The files that fuzzing has found to reach code that others do not, and those that once showed a defect."""
    path = _archive(name)
    if not path.exists():
        return []
    with zipfile.ZipFile(path) as archive:
        return [archive.read(entry) for entry in archive.namelist()]


def store_corpus(name: str, files: Sequence[bytes]) -> None:
    """Keep `files`, and those whose names in the archive begin with `defect`, as the corpus of a target.

    The smaller ones go first, and what is too much for a repository is left out.
    """
    kept = {}
    if _archive(name).exists():
        with zipfile.ZipFile(_archive(name)) as archive:
            kept = {entry: archive.read(entry) for entry in archive.namelist() if entry.startswith("defect")}
    room = _LARGEST_CORPUS
    for index, content in enumerate(sorted(files, key=len)):
        room -= len(zlib.compress(content))
        if room < 0:
            break
        kept[f"{index:04}"] = content
    CORPUS.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(_archive(name), "w", zipfile.ZIP_DEFLATED) as archive:
        for entry, content in kept.items():
            archive.writestr(zipfile.ZipInfo(entry), content, zipfile.ZIP_DEFLATED)


def _archive(name: str) -> Path:
    return CORPUS / f"{name.replace(' ', '-')}.zip"
