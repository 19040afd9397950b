"""Every reader takes a damaged file or refuses it with a sentence: a short, repeatable slice of what fuzzing does."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gns.errors import UserError
from gns.testing import fuzzing
from gns.testing.fuzzing import Target, corpus_of, damaged, store_corpus, targets

DAMAGED = 40  # files a target


COLMAP = [f"colmap {stem}.{kind}" for kind in ("bin", "txt") for stem in ("cameras", "images", "points3D")]
OTHERS = ["transforms.json", "points.ply", "model.ply", "image", "depth map", "checkpoint", "config.json", "cfg_args"]
OTHERS += ["results.json", "budget.txt", "rendered picture", "log.jsonl"]


@pytest.fixture(params=[*COLMAP, *OTHERS])
def target(request: pytest.FixtureRequest) -> Target:
    return targets()[request.param]


@pytest.mark.filterwarnings("ignore")  # of Pillow and numpy, on what strange files say
def test_damaged_files_are_taken_or_refused(target: Target, tmp_path: Path) -> None:
    path = target.prepare(tmp_path)
    assert all(target.try_on(path, seed) for seed in target.seeds)
    generator = np.random.default_rng(7)
    taken = [target.try_on(path, content) for content in damaged(target.seeds, generator, DAMAGED)]
    if corpus := corpus_of(target.name):
        taken += [target.try_on(path, content) for content in damaged(corpus, generator, DAMAGED)]
    # The damage is of a kind that is noticed; a log is read line by line, whatever some of them have become.
    assert not all(taken) or target.name == "log.jsonl"


@pytest.mark.filterwarnings("ignore")
def test_the_corpus_is_taken_or_refused(target: Target, tmp_path: Path) -> None:
    path = target.prepare(tmp_path)
    for content in corpus_of(target.name):
        target.try_on(path, content)


def test_every_reader_has_a_corpus() -> None:
    assert all(corpus_of(name) for name in targets())


def test_a_corpus_comes_back_the_smaller_files_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzzing, "CORPUS", tmp_path)
    monkeypatch.setattr(fuzzing, "_LARGEST_CORPUS", 1000)
    noise = np.random.default_rng(0).bytes(2000)
    with zipfile.ZipFile(tmp_path / "a-reader.zip", "w") as archive:
        archive.writestr("0000", b"of an earlier run")
        archive.writestr("defect-1", noise)
    store_corpus("a reader", [noise[:700], b"", b"small", noise[:900]])
    assert corpus_of("a reader") == [noise, b"", b"small", noise[:700]]
    assert corpus_of("another") == []


def test_no_reader_is_left_out() -> None:
    assert [*targets()] == [*COLMAP, *OTHERS]


def test_what_is_neither_taken_nor_refused_is_noticed(tmp_path: Path) -> None:
    def read(path: Path) -> object:
        raise KeyError if b"k" in path.read_bytes() else UserError("no")

    planted = Target("planted", "file", [b"whole"], read)
    path = planted.prepare(tmp_path)
    assert not planted.try_on(path, b"x")
    with pytest.raises(KeyError):
        planted.try_on(path, b"k")


def test_damage_is_the_same_for_the_same_seed() -> None:
    def some() -> Iterator[bytes]:
        return damaged([b"0123456789" * 20, b"another"], np.random.default_rng(3), 200)

    assert list(some()) == list(some())
    assert len(set(some())) > 150
