"""The process that has COLMAP in it: `python -m gns.sfm.worker JOB.json`, called by `gns.sfm.process` only.

It writes a line of JSON for every step on stdout, {"stage": …, "done": …, "of": …}, and what COLMAP says on stderr.
What is in the database is not computed again: features of a photo, matches of a pair. Job and result are described in
`gns.sfm.process`.
"""

# zlib comes first: pycolmap brings another one, and whoever loads the system's later gets a mixture of the two.
import zlib  # noqa: F401, I001
import json
import os
import shutil
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap

from gns.sfm.focal_lengths import ENOUGH, note_focal_lengths
from gns.sfm.pairs import Pair, all_pairs, each_once, sequential_pairs
from gns.sfm.refinement import pipeline_options, refined
from gns.utils.undistortion import Lens, undistorted_lens

_PHOTOS_AT_ONCE = 8
_PAIRS_AT_ONCE = 100
_SEED = 0  # of RANSAC: one machine and one number of threads find the same poses again

# Photos that look alike are found by the words that their descriptors are put down to, as in text retrieval.
_ALIKE = 40  # photos that each is compared with
_WORDS = 4096
_SAMPLES_PER_WORD = 39  # what the clustering asks for
_DESCRIPTORS_ASKED = 2000  # of a photo, the largest features first


def main(job_path: str) -> int:
    """Do the job in the file and write its result beside it."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    job = json.loads(Path(job_path).read_text(encoding="utf-8"))
    folder = Path(job["folder"])
    device = pycolmap.Device.auto if job["gpu"] and pycolmap.has_cuda else pycolmap.Device.cpu
    if job["map"]:
        _extract(job, folder, device)
        _match(job, folder, device)
        _map(job, folder)
    result = _write_scene(job, folder)
    (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")
    return 0


def _extract(job: dict[str, Any], folder: Path, device: Any) -> None:
    """Features of every photo into the database; the photos of one group share a camera."""
    options = pycolmap.FeatureExtractionOptions()
    options.num_threads = job["threads"] or -1
    options.sift.max_num_features = job["features"]
    done = _with_features(folder)
    total = sum(len(group) for group in job["groups"])
    _tell("features", min(len(done), total), total)
    for group in job["groups"]:
        missing = [name for name in group if name not in done]
        # Where COLMAP is given a folder of masks, it refuses photos that have none there.
        masked = [name for name in missing if job["masks"] and (folder / "masks" / f"{name}.png").exists()]
        bare = [name for name in missing if name not in masked]
        for names in [*_chunks(masked, _PHOTOS_AT_ONCE), *_chunks(bare, _PHOTOS_AT_ONCE)]:
            reader = pycolmap.ImageReaderOptions()
            reader.camera_model = job["camera"]
            if names[0] in masked:
                reader.mask_path = str(folder / "masks")
            if (camera := _camera_of_any(folder, group)) is not None:
                reader.existing_camera_id = camera
            pycolmap.extract_features(
                folder / "database.db",
                folder / "images",
                list(names),
                camera_mode=pycolmap.CameraMode.SINGLE,
                reader_options=reader,
                extraction_options=options,
                device=device,
            )
            done.update(names)
            _tell("features", len(done), total)


def _with_features(folder: Path) -> set[str]:
    """The photos whose features are in the database."""
    with pycolmap.Database.open(folder / "database.db") as database:
        images = database.read_all_images()
        return {image.name for image in images if database.exists_descriptors(image.image_id)}


def _camera_of_any(folder: Path, group: Sequence[str]) -> int | None:
    """The camera in the database of the first photo in `group` that has one."""
    with pycolmap.Database.open(folder / "database.db") as database:
        cameras = {image.name: image.camera_id for image in database.read_all_images()}
    return next((int(cameras[name]) for name in group if name in cameras), None)


def _match(job: dict[str, Any], folder: Path, device: Any) -> None:
    """Matches that agree on a motion of the camera, of all pairs to be compared, into the database."""
    options, pairing = pycolmap.FeatureMatchingOptions(), pycolmap.ImportedPairingOptions()
    options.num_threads = job["threads"] or -1
    verification = _verification()
    pairs = _pairs(job, folder)
    listed = folder / "pairs.txt"
    for start in range(0, len(pairs), _PAIRS_AT_ONCE):
        _tell("matching", start, len(pairs))
        listed.write_text("\n".join(f"{a} {b}" for a, b in pairs[start : start + _PAIRS_AT_ONCE]), encoding="utf-8")
        pairing.match_list_path = str(listed)
        pycolmap.match_image_pairs(
            folder / "database.db",
            matching_options=options,
            pairing_options=pairing,
            verification_options=verification,
            device=device,
        )
    _tell("matching", len(pairs), len(pairs))


def _verification() -> Any:
    options = pycolmap.TwoViewGeometryOptions()
    options.ransac.random_seed = _SEED
    return options


def _pairs(job: dict[str, Any], folder: Path) -> list[Pair]:
    names = sorted(name for group in job["groups"] for name in group)
    match job["matching"]:
        case "exhaustive":
            return all_pairs(names)
        case "sequential":
            return sequential_pairs(names)
        case _:
            return _alike_pairs(folder, job["threads"])


def _alike_pairs(folder: Path, threads: int) -> list[Pair]:
    """Each photo with those that look most like it: their descriptors fall under the same words."""
    kept = folder / "alike.json"
    if kept.exists():
        pairs: list[Pair] = json.loads(kept.read_text(encoding="utf-8"))
        return pairs
    with pycolmap.Database.open(folder / "database.db") as database:
        names = {image.image_id: image.name for image in database.read_all_images()}
        descriptors = [database.read_descriptors(number).data for number in names]
        words = min(_WORDS, sum(map(len, descriptors)) // _SAMPLES_PER_WORD)
        if words < 2:
            return []
        _tell("comparing looks", 0, 1)
        samples = _sampled(descriptors, words * _SAMPLES_PER_WORD)
        build = pycolmap.VisualIndex.BuildOptions()
        build.num_visual_words, build.num_iterations, build.num_rounds = words, 20, 1
        build.num_threads = threads or -1
        index = pycolmap.VisualIndex.create(samples.shape[1], 64)
        index.build(build, pycolmap.FeatureDescriptors(pycolmap.FeatureExtractorType.SIFT, samples).to_float())
        index.write(folder / "words.bin")
        options = pycolmap.VocabTreePairingOptions()
        options.num_images, options.max_num_features = _ALIKE + 1, _DESCRIPTORS_ASKED  # the photo itself is among them
        options.vocab_tree_path, options.num_threads = str(folder / "words.bin"), threads or -1
        found = pycolmap.VocabTreePairGenerator(options, database).all_pairs()
    _tell("comparing looks", 1, 1)
    pairs = each_once((names[a], names[b]) for a, b in found)
    kept.write_text(json.dumps(pairs), encoding="utf-8")
    return pairs


def _sampled(descriptors: Sequence[Any], count: int) -> Any:
    """`count` of the descriptors [N, 128] of all photos, drawn at random."""
    pool = np.concatenate(descriptors)
    return pool[np.random.default_rng(_SEED).choice(len(pool), min(count, len(pool)), replace=False)]


def _map(job: dict[str, Any], folder: Path) -> None:
    """Poses and points into `folder`/sparse, a folder for each group of photos that hang together."""
    photos = sum(len(group) for group in job["groups"])
    _tell("mapping", 0, photos)
    shutil.rmtree(folder / "sparse", ignore_errors=True)
    partial = folder / "sparse.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    if job["mapper"] == "global":
        _map_at_once(job, folder, partial, photos)
    else:
        _map_one_by_one(job, folder, partial, photos)
    _tell("mapping", photos, photos)
    _refine(job, folder, partial)
    partial.rename(folder / "sparse")


def _refine(job: dict[str, Any], folder: Path, partial: Path) -> None:
    """Cameras and points of the largest reconstruction in `partial` made better; the others are not used."""
    models = {path: pycolmap.Reconstruction(path) for path in sorted(partial.iterdir()) if path.is_dir()}
    if not models:
        return
    path, largest = max(models.items(), key=lambda item: item[1].num_reg_images())
    _tell("refining", 0, 1)
    workspace = folder / "refining"
    better = refined(
        largest,
        folder / "database.db",
        folder / "images",
        workspace,
        principal_point=job["principal_point"],
        threads=job["threads"],
        seed=_SEED,
    )
    better.write(path)
    shutil.rmtree(workspace)
    _tell("refining", 1, 1)


def _map_one_by_one(job: dict[str, Any], folder: Path, partial: Path, photos: int) -> None:
    options = _incremental_options(job, photos)
    registered = 2

    def next_photo() -> None:
        nonlocal registered
        registered = min(registered + 1, photos - 1)  # a photo that fails is tried again
        _tell("mapping", registered, photos)

    pycolmap.incremental_mapping(
        folder / "database.db", folder / "images", partial, options, next_image_callback=next_photo
    )


def _incremental_options(job: dict[str, Any], photos: int) -> Any:
    options = pipeline_options(job["threads"], _SEED)
    options.min_model_size = min(options.min_model_size, max(3, photos // 2))
    return options


def _map_at_once(job: dict[str, Any], folder: Path, partial: Path, photos: int) -> None:
    note_focal_lengths(
        folder / "database.db",
        folder / "images",
        folder / "some",
        _incremental_options(job, min(photos, ENOUGH)),
        _verification(),
    )
    options = pycolmap.GlobalPipelineOptions()
    options.num_threads = job["threads"] or -1
    options.random_seed = _SEED
    pycolmap.global_mapping(folder / "database.db", folder / "images", partial, options)


def _write_scene(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The largest reconstruction into job["sparse"], and what is to be said of it."""
    folders = sorted(path for path in (folder / "sparse").iterdir() if path.is_dir())
    models = [pycolmap.Reconstruction(path) for path in folders]
    models = sorted(models, key=lambda model: -model.num_reg_images())
    if not models:
        return {"photos": {}, "cameras": {}, "others": [], "points": 0, "error": None}
    best = models[0]
    cameras = {
        number: {"model": camera.model.name, "width": camera.width, "height": camera.height}
        | {"parameters": [float(value) for value in camera.params]}
        for number, camera in best.cameras.items()
    }
    registered = {image.name: image.camera_id for image in best.images.values() if image.has_pose}
    error = best.compute_mean_reprojection_error()
    if job["undistort"]:
        _make_pinhole(best)
    sparse = Path(job["sparse"])
    sparse.mkdir(parents=True, exist_ok=True)
    best.write_binary(sparse)
    return {
        "photos": registered,
        "cameras": cameras,
        "others": [model.num_reg_images() for model in models[1:]],
        "points": best.num_points3D(),
        "error": error,
    }


def _make_pinhole(model: Any) -> None:
    """Replace each camera by that of `gns.utils.undistortion`, and move the features to where they are seen there."""
    ideal = {}
    for number, camera in model.cameras.items():
        lens = undistorted_lens(
            Lens.from_parameters(camera.model.name, camera.width, camera.height, tuple(camera.params))
        )
        ideal[number] = pycolmap.Camera(
            model="PINHOLE",
            width=lens.width,
            height=lens.height,
            params=[lens.fx, lens.fy, lens.cx, lens.cy],
            camera_id=number,
        )
    for image in model.images.values():
        features = image.points2D
        if len(features) == 0:
            continue
        rays = model.cameras[image.camera_id].cam_from_img(np.array([feature.xy for feature in features]))
        ahead = np.column_stack([rays, np.ones(len(rays))])
        for feature, seen in zip(features, ideal[image.camera_id].img_from_cam(ahead), strict=True):
            feature.xy = seen
    for number, camera in ideal.items():
        model.cameras[number].model = camera.model
        model.cameras[number].width, model.cameras[number].height = camera.width, camera.height
        model.cameras[number].params = camera.params


def _end_with_parent() -> None:
    """Wait until the process that called has ended, however it did, and end too: nobody will take the result."""
    sys.stdin.buffer.read()
    os._exit(1)


def _chunks(items: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _tell(stage: str, done: int, of: int) -> None:
    print(json.dumps({"stage": stage, "done": done, "of": of}), flush=True)


if __name__ == "__main__":
    status = main(sys.argv[1])
    sys.stdout.flush()
    os._exit(status)  # the libraries' own clean-up may abort after all is written
