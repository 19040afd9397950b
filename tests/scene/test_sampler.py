"""Views without replacement, and a resumed sampler that goes on exactly where it was."""

from __future__ import annotations

import io

import pytest
import torch

from gns.errors import UserError
from gns.scene.sampler import ViewSampler


def sampler(count: int, seed: int = 0) -> ViewSampler:
    return ViewSampler(count, torch.Generator().manual_seed(seed))


def draw(source: ViewSampler, times: int) -> list[int]:
    return [source.next() for _ in range(times)]


def test_each_epoch_shows_every_view_once_in_a_new_order() -> None:
    views = sampler(20)
    epochs = [draw(views, 20) for _ in range(3)]
    assert all(sorted(epoch) == list(range(20)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_the_seed_decides() -> None:
    assert draw(sampler(20, 3), 50) == draw(sampler(20, 3), 50)
    assert draw(sampler(20, 3), 50) != draw(sampler(20, 4), 50)


@pytest.mark.parametrize("before", [0, 1, 13, 20, 27])
def test_resuming_continues_exactly(before: int) -> None:
    views = sampler(20)
    draw(views, before)
    saved = io.BytesIO()
    torch.save(views.state_dict(), saved)
    expected = draw(views, 70)
    saved.seek(0)
    resumed = sampler(20, seed=99)
    resumed.load_state_dict(torch.load(saved, weights_only=True))
    assert draw(resumed, 70) == expected


def test_a_saved_state_does_not_move_with_the_sampler() -> None:
    views = sampler(5)
    draw(views, 2)
    state = views.state_dict()
    expected = draw(views, 30)
    resumed = sampler(5)
    resumed.load_state_dict(state)
    assert draw(resumed, 30) == expected


def test_one_view() -> None:
    assert draw(sampler(1), 3) == [0, 0, 0]


def test_another_number_of_views_is_refused() -> None:
    with pytest.raises(UserError, match="5 training views and the scene has 6"):
        sampler(6).load_state_dict(sampler(5).state_dict())
