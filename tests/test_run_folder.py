"""The output folder: what other tools read in it, checkpoints, and that nothing is left half-written."""

from __future__ import annotations

import ast
import hashlib
import json
import math
import os
import resource
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gns.arguments import SceneConfig, TrainConfig
from gns.errors import UserError
from gns.run_folder import CHECKPOINT_FORMAT, RunFolder, read_checkpoint
from gns.scene import Camera, PointCloud, Scene, View
from gns.testing.examples import random_gaussians
from gns.testing.tiny import same_state
from gns.utils.ply_file import read_table


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    return TrainConfig(
        source_path=Path("/data/it's here"),
        model_path=tmp_path / "out",
        final_budget=1000,
        checkpoint_iterations=(20, 40),
        resolution=2,
        white_background=True,
    )


@pytest.fixture
def run(config: TrainConfig) -> RunFolder:
    return RunFolder.create(config.model_path, config)


def files(folder: Path) -> set[str]:
    """Every file under `folder`, hidden ones too."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def a_scene() -> Scene:
    """Three views with different poses, two for training."""

    def view(name: str, angle: float) -> View:
        pose = np.eye(4)
        pose[:3, :3] = [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
        pose[:3, 3] = [angle, 2.0, 3.0]
        return View(Camera(6, 4, 10.0, 11.0, 3.5, 2.0, pose, name), torch.zeros(4, 6, 3, dtype=torch.uint8))

    points = PointCloud(np.array([[1.0, 2.0, 3.0]]), np.array([[9, 8, 7]], dtype=np.uint8))
    return Scene("three", [view("b.jpg", 0.3), view("c.jpg", 0.7)], [view("a.jpg", 0.1)], points, 1.0, (0, 0, 0))


# What a new run writes


def test_cfg_args_is_what_3dgs_tools_evaluate(run: RunFolder, config: TrainConfig) -> None:
    text = (run.path / "cfg_args").read_text(encoding="utf-8")
    assert "\n" not in text
    call = ast.parse(text, mode="eval").body  # what evaluating it comes to, for tools that do
    assert isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "Namespace"
    assert not call.args
    assert {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords} == {
        "data_device": "cpu",
        "eval": True,
        "images": "images",
        "model_path": str(config.model_path),
        "resolution": 2,
        "sh_degree": 3,
        "source_path": "/data/it's here",
        "white_background": True,
    }


def test_open_reads_our_config(run: RunFolder, config: TrainConfig) -> None:
    assert RunFolder.open(run.path).config == config


def test_open_reads_the_folder_of_another_tool(tmp_path: Path) -> None:
    line = (
        "Namespace(sh_degree=2, source_path='/data/garden', model_path='./output/xyz', images='images_4', "
        "resolution=-1, white_background=True, data_device='cuda', eval=False, extra=PosixPath('/unknown'))"
    )
    (tmp_path / "cfg_args").write_text(line, encoding="utf-8")
    assert RunFolder.open(tmp_path).config == SceneConfig(
        source_path=Path("/data/garden"),
        model_path=tmp_path,
        images="images_4",
        white_background=True,
        eval=False,
    )


@pytest.mark.parametrize(
    "line",
    [
        "",
        "Namespace(",
        "Namespace()",
        "42",
        "Namespace(source_path=__import__('os').mkdir('evil'))",
        "Namespace(source_path='a', resolution='2')",
        "Namespace(source_path=5)",
        "Namespace(source_path=" + "(" * 2000 + "'a'" + ")" * 2000 + ")",
        "Namespace(source_path=" + "-" * 20_000 + "1)",
    ],
)
def test_cfg_args_is_never_run_as_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cfg_args").write_text(line, encoding="utf-8")
    with pytest.raises(UserError, match="cfg_args"):
        RunFolder.open(tmp_path)
    assert files(tmp_path) == {"cfg_args"}
    assert not (tmp_path / "evil").exists()


def test_open_refuses_another_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no output folder of a training"):
        RunFolder.open(tmp_path)


def test_cameras_and_points_are_written(run: RunFolder) -> None:
    scene = a_scene()
    run.write_scene(scene)
    cameras = json.loads((run.path / "cameras.json").read_text(encoding="utf-8"))
    assert [camera["id"] for camera in cameras] == [0, 1, 2]
    assert [camera["img_name"] for camera in cameras] == ["a.jpg", "b.jpg", "c.jpg"]  # held-out ones first
    for record, view in zip(cameras, [*scene.test, *scene.train], strict=True):
        assert set(record) == {"id", "img_name", "width", "height", "position", "rotation", "fy", "fx"}
        assert (record["width"], record["height"], record["fx"], record["fy"]) == (6, 4, 10.0, 11.0)
        # A point one unit in front of the camera, from its axes in the world, lands on the optical axis.
        ahead = np.array(record["position"]) + np.array(record["rotation"]) @ [0, 0, 1]
        np.testing.assert_allclose(view.camera.world_to_camera @ [*ahead, 1], [0, 0, 1, 1], atol=1e-12)
    assert read_table(run.path / "input.ply")[0].tolist() == (1, 2, 3, 0, 0, 0, 9, 8, 7)


# Models


def test_models_by_iteration(run: RunFolder) -> None:
    with pytest.raises(UserError, match="holds no saved model"):
        run.load_model()
    models = {iteration: random_gaussians(3, 1, seed=iteration) for iteration in (30, 7, 100)}
    for iteration, gaussians in models.items():
        path = run.save_model(gaussians, iteration)
        assert path == run.path / f"point_cloud/iteration_{iteration}/point_cloud.ply"
    (run.path / "point_cloud" / "iteration_x").mkdir()
    assert run.saved_iterations() == [7, 30, 100]
    assert torch.equal(run.load_model().means, models[100].means)
    assert torch.equal(run.load_model(7).means, models[7].means)
    with pytest.raises(UserError, match="no model of iteration 8: saved are 7, 30, 100"):
        run.load_model(8)


def test_a_bit_flipped_in_a_model_is_noticed(run: RunFolder) -> None:
    path = run.save_model(random_gaussians(3, 1), 30)
    record = path.with_name("model.json")
    content = path.read_bytes()
    assert json.loads(record.read_text()) == {
        "iteration": 30,
        "gaussians": 3,
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    assert run.model_digest(30) == hashlib.sha256(content).hexdigest()
    flipped = bytearray(content)
    flipped[-50] ^= 1  # in the lowest bits of a number: still a model
    path.write_bytes(flipped)
    with pytest.raises(UserError, match=r"point_cloud\.ply is not what was written there: .*model\.json"):
        run.load_model()
    for nothing in ("{", "[]", "{}"):  # of another tool, or of none
        record.write_text(nothing)
        assert run.model_digest(30) == "" and len(run.load_model()) == 3
    record.unlink()
    assert len(run.load_model()) == 3


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_model_that_is_not_finite_is_not_written(run: RunFolder, bad: float) -> None:
    gaussians = random_gaussians(3, 1)
    gaussians.log_scales[1, 2] = bad
    with pytest.raises(UserError, match=r"the model's scale_2 is (nan|inf) in row 1: it is not written to"):
        run.save_model(gaussians, 30)
    assert run.saved_iterations() == []


def test_a_new_run_does_not_overwrite_an_older_one(run: RunFolder, config: TrainConfig) -> None:
    RunFolder.create(run.path, config)  # nothing is lost: no model and no checkpoint yet
    run.save_model(random_gaussians(3, 1), 30)
    before = {name: (run.path / name).read_bytes() for name in files(run.path)}
    with pytest.raises(UserError, match=r"holds a run already \(iteration 30\): continue it with --resume"):
        RunFolder.create(run.path, replace(config, seed=1))
    assert {name: (run.path / name).read_bytes() for name in files(run.path)} == before
    RunFolder.create(run.path, replace(config, resume=True))


def test_a_checkpoint_alone_is_not_overwritten_either(run: RunFolder, config: TrainConfig) -> None:
    run.save_checkpoint({}, 5)
    with pytest.raises(UserError, match="iteration 5"):
        RunFolder.create(run.path, config)


# Checkpoints


def test_checkpoint_round_trip(run: RunFolder) -> None:
    state = {
        "rows": torch.randn(5, 3),
        "planes": torch.randn(3, 5).movedim(0, -1),
        "steps": 7,
        "rate": 2e-4,
        "finished_at": None,
        "generator": torch.Generator().manual_seed(3).get_state(),
        "nested": {"order": [3, 1, 2], "name": "a"},
    }
    run.save_checkpoint(state, 7)
    loaded = run.load_checkpoint()
    assert same_state(state, loaded)
    assert loaded["planes"].stride() == state["planes"].stride()  # type: ignore[attr-defined]


def test_newest_two_and_those_asked_for_are_kept(run: RunFolder) -> None:
    for iteration in (10, 20, 30, 40, 50, 60):
        run.save_checkpoint({"iteration": iteration}, iteration)
    assert run.checkpoint_iterations() == [20, 40, 50, 60]
    assert run.load_checkpoint() == {"iteration": 60}
    assert read_checkpoint(run.checkpoint_path(20)) == {"iteration": 20}


def test_missing_checkpoints_are_refused(run: RunFolder) -> None:
    with pytest.raises(UserError, match="holds no checkpoint"):
        run.load_checkpoint()
    with pytest.raises(UserError, match=r"there is no checkpoint .*nowhere\.pt"):
        read_checkpoint(run.path / "nowhere.pt")


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, 0.99, -1])
def test_checkpoint_that_is_cut_short_is_refused(run: RunFolder, keep: float) -> None:
    path = run.save_checkpoint({"rows": torch.randn(500, 3)}, 7)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if 0 < keep < 1 else int(keep)])
    with pytest.raises(UserError, match=r"iteration_7\.pt is damaged or cut short"):
        run.load_checkpoint()


@pytest.mark.parametrize("at", [0.3, 0.6])
def test_checkpoint_with_flipped_bits_is_refused(run: RunFolder, at: float) -> None:
    path = run.save_checkpoint({"rows": torch.randn(5000, 3)}, 7)
    content = bytearray(path.read_bytes())
    content[int(at * len(content))] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(UserError, match="damaged"):
        run.load_checkpoint()


def test_damaged_checkpoints_are_passed_over_with_a_sentence(run: RunFolder) -> None:
    older, newer = (run.save_checkpoint({"iteration": iteration}, iteration) for iteration in (10, 30))
    sentences: list[str] = []
    assert run.load_checkpoint(sentences.append) == {"iteration": 30} and sentences == []
    newer.write_bytes(newer.read_bytes()[:500])
    assert run.load_checkpoint(sentences.append) == {"iteration": 10}
    assert sentences == [f"{newer} is damaged or cut short: going on from iteration 10 instead"]
    older.write_bytes(b"")
    with pytest.raises(UserError, match=r"iteration_30\.pt is damaged"):
        run.load_checkpoint(sentences.append)


def test_an_edited_config_is_noticed_where_it_would_change_the_result(run: RunFolder, config: TrainConfig) -> None:
    run.save_checkpoint({"iteration": 5}, 5)
    for harmless in ({"threads": 3}, {"save_iterations": (9,)}, {"quiet": True}, {"source_path": Path("/moved")}):
        assert RunFolder(run.path, replace(config, **harmless)).load_checkpoint() == {"iteration": 5}
    rules = {**config.rules, "natural_selection": replace(config.rules["natural_selection"], final_cut="lowest")}
    for change, sentence in (
        ({"iterations": 7}, r"--iterations is 7 in .*config\.json, but was \d+ until"),
        ({"white_background": False}, "--white-background is False"),
        ({"rules": rules}, "--final-cut is lowest"),
    ):
        with pytest.raises(UserError, match=sentence):
            RunFolder(run.path, replace(config, **change)).load_checkpoint()


def test_another_scene_is_noticed(run: RunFolder) -> None:
    run.scene_digest = "a"
    run.save_checkpoint({}, 5)
    run.load_checkpoint()
    run.scene_digest = "b"
    with pytest.raises(UserError, match="the photos, masks or cameras are not those that the run"):
        run.load_checkpoint()
    run.scene_digest = ""  # not known here
    run.load_checkpoint()


def test_a_packed_checkpoint_is_refused_unread(run: RunFolder) -> None:
    """One whose packed data are damaged made zlib complain; one of zeros would grow a thousandfold in memory."""
    path = run.save_checkpoint({"rows": torch.zeros(5000)}, 7)
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    packed = path.read_bytes()
    for damage in (0, 255):
        changed = bytearray(packed)
        changed[len(packed) // 3] ^= damage
        path.write_bytes(changed)
        with pytest.raises(UserError, match=r"iteration_7\.pt is damaged"):
            read_checkpoint(path)


def test_models_without_their_configuration_are_not_overwritten(run: RunFolder, config: TrainConfig) -> None:
    run.save_model(random_gaussians(3, 1), 30)
    (run.path / "config.json").unlink()
    with pytest.raises(UserError, match=r"holds a run \(iteration 30\) without its config\.json"):
        RunFolder.create(run.path, replace(config, resume=True))


def test_checkpoint_of_another_version_is_refused(run: RunFolder) -> None:
    path = run.checkpoint_path(7)
    path.parent.mkdir()
    torch.save({"format": CHECKPOINT_FORMAT + 1, "gns": "9.9", "iteration": 7, "state": {}}, path)
    with pytest.raises(UserError, match=r"written by gns 9\.9 in format 3, and this version reads 2"):
        run.load_checkpoint()


@pytest.mark.parametrize("content", [{}, [1], torch.zeros(3), {"state": {}}])
def test_other_torch_files_are_refused(run: RunFolder, content: object) -> None:
    torch.save(content, run.path / "other.pt")
    with pytest.raises(UserError, match=r"other\.pt is no checkpoint of gns"):
        read_checkpoint(run.path / "other.pt")


class Planted:
    """An object whose unpickling would run code."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return Path.mkdir, (Path("evil"),)  # type: ignore[return-value]


def test_checkpoint_with_code_inside_is_refused(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.path)
    torch.save({"format": CHECKPOINT_FORMAT, "state": Planted()}, run.path / "evil.pt")
    with pytest.raises(UserError, match=r"evil\.pt"):
        read_checkpoint(run.path / "evil.pt")
    assert not (run.path / "evil").exists()


# Stops and full disks


def write_model(run: RunFolder) -> None:
    run.save_model(random_gaussians(3, 1, seed=1), 7)


def write_checkpoint(run: RunFolder) -> None:
    run.save_checkpoint({"rows": torch.ones(3)}, 7)


def write_the_scene(run: RunFolder) -> None:
    run.write_scene(a_scene())


@pytest.mark.parametrize("write", [write_model, write_checkpoint, write_the_scene])
def test_full_disk_leaves_what_was_there(run: RunFolder, monkeypatch: pytest.MonkeyPatch, write: Any) -> None:
    run.save_model(random_gaussians(3, 1), 7)
    run.save_checkpoint({"rows": torch.zeros(3)}, 7)
    before = {name: (run.path / name).read_bytes() for name in files(run.path)}

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"cannot write .* \(No space left on device\): free some space"):
        write(run)
    assert {name: (run.path / name).read_bytes() for name in files(run.path)} == before


def test_stop_in_the_middle_of_a_write_leaves_what_was_there(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    run.save_checkpoint({"rows": torch.zeros(3)}, 7)
    before = files(run.path)

    def stopped(document: object, file: Any) -> None:
        file.write(b"half a checkpoint")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", stopped)
    for iteration in (7, 8):
        with pytest.raises(KeyboardInterrupt):
            run.save_checkpoint({"rows": torch.ones(3)}, iteration)
    assert files(run.path) == before
    assert run.load_checkpoint()["rows"].sum() == 0


def test_output_folder_that_is_a_file_is_refused(config: TrainConfig, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file", encoding="utf-8")
    with pytest.raises(UserError, match="cannot write"):
        RunFolder.create(tmp_path / "out", config)
    assert (tmp_path / "out").read_text(encoding="utf-8") == "a file"


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only to the superuser")
def test_read_only_output_folder_is_refused(config: TrainConfig, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir(mode=0o555)
    with pytest.raises(UserError, match="cannot write"):
        RunFolder.create(tmp_path / "out", config)
    assert files(tmp_path / "out") == set()


def test_read_only_folder_is_refused_whoever_runs_this(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The superuser may write anywhere, so here the refusal is the operating system's in words only."""

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refused)
    for write in (write_model, write_checkpoint, write_the_scene, lambda run: run.log({})):
        with pytest.raises(UserError, match="Permission denied"):
            write(run)


@pytest.fixture
def small_files() -> Iterator[None]:
    """The operating system refuses to let a file grow beyond 64 kB, much as a full disk does."""
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, usual[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, usual)


@pytest.mark.usefixtures("small_files")
def test_write_that_the_operating_system_ends(run: RunFolder) -> None:
    before = files(run.path)
    with pytest.raises(UserError, match=r"cannot write .*File too large"):
        run.save_checkpoint({"rows": torch.zeros(100_000)}, 7)
    with pytest.raises(UserError, match=r"cannot write .*File too large"):
        run.save_model(random_gaussians(5000, 3), 7)
    assert files(run.path) == before


# Log


def test_log_outlives_a_cut_line(run: RunFolder) -> None:
    assert run.read_log() == []
    run.log({"iteration": 1, "loss": 0.5})
    run.log({"iteration": 2, "loss": 0.25})
    run.log_path.write_text(run.log_path.read_text(encoding="utf-8") + '{"iteration": 3, "lo', encoding="utf-8")
    assert run.read_log() == [{"iteration": 1, "loss": 0.5}, {"iteration": 2, "loss": 0.25}]


def test_a_new_run_starts_a_new_log_and_a_resumed_one_goes_on(run: RunFolder, config: TrainConfig) -> None:
    resumed = replace(config, resume=True)
    for again in (config, resumed):  # before the first checkpoint both begin at the beginning
        run.log({"iteration": 1})
        assert RunFolder.create(run.path, again).read_log() == []
    run.log({"iteration": 1})
    run.save_checkpoint({}, 1)
    assert RunFolder.create(run.path, resumed).read_log() == [{"iteration": 1}]
