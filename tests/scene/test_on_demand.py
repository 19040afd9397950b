"""Photos decoded when they are needed: the same pixels, in bounded memory, and few of them twice."""

from __future__ import annotations

import gc
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gns.errors import UserError
from gns.scene import Camera, PointCloud, Scene, View
from gns.scene.digest import scene_digest
from gns.scene.inspection import doubts
from gns.scene.on_demand import AHEAD, PhotoStore, ViewOnDemand, in_turn, memory_of
from gns.scene.readers import SceneOptions, read_scene
from gns.scene.readers import views as reading
from gns.scene.sampler import ViewSampler
from gns.testing.scene_files import SmallScene, small_scene, write_colmap
from gns.testing.tiny import cameras_on_an_arc, same_state, tiny_config
from gns.training import scaled_views
from gns.training.loop import Trainer, train
from gns.training.memory import Uploads, photo_bytes, views_on
from gns.training.scaled_views import ScaledViews

WIDTH, HEIGHT, COUNT = 140, 132, 9
PIXELS = WIDTH * HEIGHT
LARGEST = PIXELS * (3 + 1 + 1 + 1 + 4)  # bytes: colours, edge map, mask, transparency, depth
ROOM = 3 * LARGEST


class Living:
    """How many bytes of decoded photos are alive: all that somebody holds on to, whoever it is."""

    def __init__(self) -> None:
        self.decoded, self.now, self.peak = 0, 0, 0
        self._lock = threading.RLock()

    def note(self, view: View) -> None:
        nbytes = view.nbytes
        with self._lock:
            self.decoded += 1
            self.now += nbytes
            self.peak = max(self.peak, self.now)
        weakref.finalize(view.image, self._gone, nbytes)

    def _gone(self, nbytes: int) -> None:
        with self._lock:
            self.now -= nbytes

    def begin(self) -> None:
        """Count anew what is decoded, and the most that is alive."""
        gc.collect()  # earlier runs leave circles
        self.decoded, self.peak = 0, self.now


@pytest.fixture
def living(monkeypatch: pytest.MonkeyPatch) -> Living:
    """Counts photos and reduced photos from now on."""
    living = Living()
    load, reduce = reading._load_view, scaled_views._reduced_to

    def loading(*arguments, **options):  # type: ignore[no-untyped-def]
        loaded = load(*arguments, **options)
        living.note(loaded.view)
        return loaded

    def reducing(*arguments):  # type: ignore[no-untyped-def]
        view = reduce(*arguments)
        living.note(view)
        return view

    monkeypatch.setattr(reading, "_load_view", loading)
    monkeypatch.setattr(scaled_views, "_reduced_to", reducing)
    return living


def _write(folder: Path, scale: float = 1.0) -> Path:
    """A scene of photos with and without masks, transparency and depth maps; `scale` times as large in the world."""
    scene = small_scene(count=COUNT, width=WIDTH, height=HEIGHT)
    cameras = []
    for camera in scene.cameras:
        pose = camera.world_to_camera.copy()
        pose[:3, 3] *= scale
        cameras.append(replace(camera, world_to_camera=pose))
    points = PointCloud(scale * scene.points.positions, scene.points.colors)
    write_colmap(folder, SmallScene(cameras, scene.images, points))
    generator = np.random.default_rng(0)
    for name in ("masks", "depths"):
        (folder / name).mkdir()
    for index in range(COUNT):
        ramp = np.tile(np.linspace(0, 255, WIDTH).astype(np.uint8), (HEIGHT, 1))
        if index % 2:
            Image.fromarray(np.roll(ramp, 20 * index, axis=1)).save(folder / f"masks/{index:02}.png")
        if index % 3:
            Image.fromarray(np.dstack([scene.images[index], ramp])).save(folder / f"images/{index:02}.png")
        if index % 4:
            depth = generator.integers(10_000, 20_000, (HEIGHT, WIDTH), dtype=np.uint16)
            Image.fromarray(depth).save(folder / f"depths/{index:02}.png")
    entries = ", ".join(f'"{index:02}": {{"scale": 1.0, "offset": 0.0}}' for index in range(COUNT))
    (folder / "sparse/0/depth_params.json").write_text(f"{{{entries}}}")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _write(tmp_path_factory.mktemp("scene"))


def _read(folder: Path, room: int | None) -> Scene:
    return read_scene(folder, SceneOptions(depths="depths", image_memory=room), lambda line: None)


def test_all_photos_stay_where_there_is_room(folder: Path, living: Living) -> None:
    scene = _read(folder, None)
    assert {type(view) for view in [*scene.train, *scene.test]} == {View}
    assert _read(folder, memory_of([*scene.train, *scene.test])).train[0].decoded().__class__ is View
    assert living.decoded == 2 * COUNT


def test_pixels_are_those_of_the_file_and_bounded_in_number(folder: Path, living: Living) -> None:
    whole = _read(folder, None)
    expected, doubted = scene_digest(whole), doubts(whole)
    del whole
    scene = _read(folder, ROOM)
    assert {type(view) for view in [*scene.train, *scene.test]} == {ViewOnDemand}
    living.begin()
    assert scene_digest(scene) == expected and doubts(scene) == doubted
    assert living.decoded > COUNT and living.peak <= ROOM + LARGEST  # the one in use may be out of the store
    assert memory_of(scene.train) == ROOM
    for view in scene.train:
        parts = (view.mask, view.alpha, view.inverse_depth)
        nbytes = view.image.nbytes + PIXELS + sum(part.nbytes for part in parts if part is not None)
        assert nbytes == view.nbytes and view.has_mask == (view.mask is not None)
        assert view.device == view.image.device and torch.equal(view.edges, view.decoded().edges)
        black, grey = torch.zeros(3), torch.full((3,), 0.5)
        assert torch.equal(view.over(grey, black), view.decoded().over(grey, black))


@pytest.mark.parametrize("scale", [1.0, 0.01])  # the second is trained in coordinates of its own
@pytest.mark.parametrize("options", [{"exposure": True}, {"preset": "best"}, {"random_background": True}], ids=str)
def test_training_ends_in_the_same_bits(tmp_path: Path, living: Living, scale: float, options: dict[str, bool]) -> None:
    folder = _write(tmp_path / "scene", scale)
    config = tiny_config(tmp_path, iterations=60, **options)
    whole = _read(folder, None)
    expected = train(whole, config).state_dict()
    del whole
    scene = _read(folder, ROOM)
    living.begin()
    assert same_state(train(scene, config).state_dict(), expected)
    assert living.decoded > 20  # the limit was felt
    reducing = "preset" in options
    assert reducing or living.peak <= ROOM + LARGEST


def test_reduced_photos_take_the_place_of_large_ones(folder: Path, living: Living) -> None:
    """At half their size most photos fit: they are reduced once, and large ones are alive only meanwhile."""
    views = ScaledViews(_read(folder, ROOM).train)
    views.use(2)
    small = sum(views[index].nbytes for index in range(len(views)))
    assert small <= ROOM
    for view in views:
        view.decoded()
    living.begin()
    assert living.now == small  # large ones have made room
    for view in [*views, *views]:
        assert view.image.shape == (HEIGHT // 2, WIDTH // 2, 3)
    assert living.decoded == 0
    views.use(1)
    assert views[0].image.shape == (HEIGHT, WIDTH, 3)
    assert living.now <= views[0].nbytes + LARGEST  # the small ones are gone with their views


def _view(index: int) -> View:
    (camera,) = cameras_on_an_arc(1, 10, 10)
    return View(replace(camera, name=str(index)), torch.full((10, 10, 3), index, dtype=torch.uint8))


def _on_demand(store: PhotoStore, count: int, decoded: Callable[[int], None] = lambda index: None) -> list[View]:
    def decoder(index: int) -> Callable[[], View]:
        def decode() -> View:
            decoded(index)
            return _view(index)

        return decode

    return [ViewOnDemand(_view(i).camera, decoder(i), store, 4, has_mask=False) for i in range(count)]


def _epochs(count: int, times: int) -> Iterator[int]:
    sampler = ViewSampler(count, torch.Generator().manual_seed(0))
    return (sampler.next() for _ in range(count * times))


def test_room_for_half_of_the_photos_saves_half_of_the_decoding() -> None:
    """A cache that lets go of what was used least recently would save 17 in a hundred."""
    decoded: list[int] = []
    store = PhotoStore(20 * 400)
    views = _on_demand(store, 40, decoded.append)
    for index in _epochs(40, times=20):
        assert int(views[index].image[0, 0, 0]) == index
        assert store.nbytes <= store.room
    assert 0.45 < 1 - len(decoded) / 800 < 0.55

    recent, missed = OrderedDict[int, None](), 0
    for index in _epochs(40, times=20):
        missed += index not in recent
        recent[index] = None
        recent.move_to_end(index)
        if len(recent) > 20:
            recent.popitem(last=False)
    assert 0.1 < 1 - missed / 800 < 0.2


def test_the_next_photos_are_decoded_by_other_threads() -> None:
    threads: list[str] = []
    views = _on_demand(PhotoStore(8 * 400), 20, lambda index: threads.append(threading.current_thread().name))
    assert [view.camera.name for view in in_turn(views)] == [str(index) for index in range(20)]
    assert sorted(threads)[0] == "MainThread" and threads.count("MainThread") == 1 and len(threads) == 20


def test_what_is_decoded_ahead_leaves_the_photo_in_use_and_half_of_the_room() -> None:
    decoded: list[int] = []
    store = PhotoStore(4 * 400)
    views = _on_demand(store, 9, decoded.append)
    for view in views[:5]:
        view.decoded()
    for view in views[5:]:
        view.decode_ahead()
    for view in views[5:7]:
        view.decoded()
    assert decoded[:5] == [0, 1, 2, 3, 4] and sorted(decoded[5:]) == [5, 6]  # two of 400 bytes: half of the room
    decoded.clear()
    views[4].decoded()
    assert decoded == []


def test_a_photo_that_cannot_be_decoded_is_told_to_who_asks_and_tried_again() -> None:
    broken = [True]

    def fail(index: int) -> None:
        if broken[0]:
            raise UserError("no")

    store = PhotoStore(8 * 400)
    (view,) = _on_demand(store, 1, fail)
    view.decode_ahead()  # nobody hears of it
    with pytest.raises(UserError, match="no"):
        _ = view.image
    assert store.nbytes == 0
    broken[0] = False
    assert view.image.shape == (10, 10, 3)


def test_photos_of_views_that_are_gone_are_forgotten() -> None:
    store = PhotoStore(8 * 400)
    views = _on_demand(store, 3)
    for view in views:
        view.decoded()
    del view, views[0]
    views[0].decoded()
    assert store.nbytes == 2 * 400


def test_many_threads_get_the_right_photos() -> None:
    store = PhotoStore(5 * 400)
    views = _on_demand(store, 12)
    wrong: list[int] = []

    def look(seed: int) -> None:
        for index in np.random.default_rng(seed).integers(12, size=200).tolist():
            views[(index + 1) % 12].decode_ahead()
            if int(views[index].decoded().image[0, 0, 0]) != index:
                wrong.append(index)

    threads = [threading.Thread(target=look, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [] and store.nbytes <= store.room


def _replaced(path: Path) -> None:
    with Image.open(path) as picture:
        size = picture.size
    Image.new("RGB", size, (9, 9, 9)).save(path)


@pytest.mark.parametrize(("change", "sentence"), [(_replaced, "has changed since"), (Path.unlink, "cannot be read")])
def test_a_photo_that_changes_or_goes_away_ends_the_run(
    tmp_path: Path, change: Callable[[Path], None], sentence: str
) -> None:
    folder = _write(tmp_path)
    scene = _read(folder, ROOM)
    for path in (folder / "images").iterdir():
        change(path)
    with pytest.raises(UserError, match=sentence):
        train(scene, tiny_config(iterations=20))


def test_views_on_demand_go_to_a_device_for_good_or_one_at_a_time(folder: Path) -> None:
    scene = _read(folder, ROOM)
    meta = torch.device("meta")
    assert views_on(scene.train, torch.device("cpu"), 0) is scene.train
    kept = views_on(scene.train, meta, photo_bytes(scene.train))
    assert [view.device for view in kept] == len(scene.train) * [meta]
    uploads = views_on(scene.train, meta, photo_bytes(scene.train) - 1)
    assert isinstance(uploads, Uploads) and uploads[3].image.device == meta


def test_training_asks_for_the_views_that_come_next(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Sequence[int]] = []
    monkeypatch.setattr(ScaledViews, "decode_ahead", lambda views, indices: asked.append(list(indices)))
    trainer = Trainer(tiny_config(iterations=20), _read(folder, ROOM))
    state = trainer.begin()
    seen: list[str] = []
    for _ in range(len(trainer.views)):
        trainer.advance(state, lambda it, names, loss: seen.extend(names))
    names = [trainer.views[index].camera.name for index in asked[0]]
    assert names == seen[1 : 1 + AHEAD] and asked[-1] == []


def test_a_camera_of_a_view_on_demand_costs_no_decoding(folder: Path, living: Living) -> None:
    scene = _read(folder, ROOM)
    living.begin()
    local = scene.local()
    assert isinstance(local.train[0].camera, Camera) and scene.frame is not None
    assert Trainer(tiny_config(), scene).begin().iteration == 0
    assert living.decoded == 0
