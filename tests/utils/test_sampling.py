"""Weighted draws without replacement, and choices by rank."""

from __future__ import annotations

import pytest
import torch

from gns.utils.sampling import draw_without_replacement, mask_of, mask_of_largest


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_draws_distinct_rows_in_order() -> None:
    rows = draw_without_replacement(torch.rand(1_000), 400, _generator(0))
    assert rows.shape == (400,)
    assert (rows.diff() > 0).all()


def test_probabilities_follow_the_weights() -> None:
    # Two of three rows with weights 1, 2, 3. Row 0 is left out with probability
    # P(1, 2) + P(2, 1) = 2/6·3/4 + 3/6·2/3 = 1/4 + 1/3 = 7/12; row 1 with 1/6·3/5 + 3/6·1/3 = 1/10 + 1/6 = 4/15.
    weights, generator, draws = torch.tensor([1.0, 2.0, 3.0]), _generator(1), 4_000
    left_out = torch.zeros(3)
    for _ in range(draws):
        chosen = draw_without_replacement(weights, 2, generator)
        left_out[3 - int(chosen.sum())] += 1
    expected = torch.tensor([7 / 12, 4 / 15, 1 - 7 / 12 - 4 / 15])
    assert torch.allclose(left_out / draws, expected, atol=0.03)  # 3.7 standard deviations


def test_weightless_rows_come_last() -> None:
    weights = torch.tensor([0.0, 1e-30, torch.nan, 1.0, 0.0])
    assert draw_without_replacement(weights, 2, _generator(2)).tolist() == [1, 3]
    assert draw_without_replacement(weights, 3, _generator(2)).tolist() == [0, 1, 3]
    assert draw_without_replacement(weights, 5, _generator(2)).tolist() == [0, 1, 2, 3, 4]


def test_seed_decides() -> None:
    weights = torch.rand(100)
    first = draw_without_replacement(weights, 50, _generator(3))
    assert torch.equal(first, draw_without_replacement(weights, 50, _generator(3)))
    assert not torch.equal(first, draw_without_replacement(weights, 50, _generator(4)))


def test_more_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot draw 4 of 3"):
        draw_without_replacement(torch.ones(3), 4, _generator(0))


def test_the_largest_and_of_equals_the_first() -> None:
    values = torch.tensor([0.2, 0.5, 0.2, 0.9, 0.2])
    for count, rows in ((0, []), (1, [3]), (2, [1, 3]), (3, [0, 1, 3]), (4, [0, 1, 2, 3]), (5, [0, 1, 2, 3, 4])):
        mask = mask_of_largest(values, count)
        assert mask.dtype == torch.bool and mask.nonzero().squeeze(1).tolist() == rows
    many = torch.zeros(10_000)
    assert mask_of_largest(many, 4_000).nonzero().squeeze(1).tolist() == list(range(4_000))


def test_a_mask_of_rows() -> None:
    assert mask_of(torch.tensor([3, 1]), torch.rand(4)).tolist() == [False, True, False, True]
    assert not mask_of(torch.tensor([], dtype=torch.int64), torch.rand(4)).any()
