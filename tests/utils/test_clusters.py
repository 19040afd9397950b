"""Code books and palettes."""

from __future__ import annotations

import numpy as np
import torch

from gns.utils.clusters import clusters, code_book


def test_few_values_are_kept_as_they_are() -> None:
    values = np.array([[3.0, 1.0], [1.0, 2.0]], np.float32)
    book, entries = code_book(values)
    assert book.shape == (256,) and (np.diff(book) >= 0).all()
    np.testing.assert_allclose(book[entries], values, atol=1e-6)


def test_a_code_book_serves_the_crowd_and_reaches_the_ends() -> None:
    values = np.random.default_rng(0).standard_cauchy(20_000).clip(-50, 50).astype(np.float32)
    book, entries = code_book(values)
    error = np.abs(book[entries] - values)
    assert np.median(error) < 0.01  # an even grid has 0.1
    assert error.max() < 8
    nearest = np.abs(values[:500, None] - book).argmin(axis=1)
    np.testing.assert_allclose(book[entries[:500]], book[nearest], atol=1e-6)


def test_points_in_heaps_find_their_heaps() -> None:
    generator = torch.Generator().manual_seed(0)
    middles = 10 * torch.randn(9, 4, generator=generator)
    points = middles.repeat_interleave(20, dim=0) + 0.01 * torch.randn(180, 4, generator=generator)
    centers, labels = clusters(points, 36)
    assert len(centers) <= 36 and labels.max() < len(centers)
    assert float((centers[torch.from_numpy(labels)] - points).norm(dim=1).max()) < 0.5


def test_as_many_clusters_as_points_lose_nothing() -> None:
    points = torch.randn(50, 3, generator=torch.Generator().manual_seed(1))
    centers, labels = clusters(points, 50)
    assert torch.equal(centers[torch.from_numpy(labels)], points)
