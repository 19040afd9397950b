"""k-means, for code books and palettes: few values that stand for many."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_ROUNDS = 10  # Lloyd's; the error hardly falls after that
_AT_ONCE = 1 << 24  # distances in memory


def code_book(
    values: npt.NDArray[np.float32], size: int = 256
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """At most `size` ≤ 256 numbers, ascending, [size], that stand for all `values`; and of each the nearest's index.

    Begins at the quantiles of the values, so that every number has its share of them.
    """
    flat = np.sort(values.reshape(-1).astype(np.float64))
    if len(flat) == 0:
        return np.zeros(size, np.float32), np.zeros(values.shape, np.uint8)
    book = np.quantile(flat, (np.arange(size) + 0.5) / size)
    book[0], book[-1] = flat[0], flat[-1]
    sums = np.concatenate([[0.0], np.cumsum(flat)])
    for _ in range(4 * _ROUNDS):
        ends = np.concatenate([[0], np.searchsorted(flat, (book[1:] + book[:-1]) / 2), [len(flat)]])
        counts = np.diff(ends)
        book = np.sort(np.where(counts > 0, np.diff(sums[ends]) / np.maximum(counts, 1), book))
    found = book.astype(np.float32)
    return found, np.searchsorted((found[1:] + found[:-1]) / 2, values).astype(np.uint8)


def clusters(points: Tensor, count: int, seed: int = 0) -> tuple[Tensor, npt.NDArray[np.int64]]:
    """Centres [at most count, D] of the clusters of `points` [N, D], and the number of each point's, [N].

    In two stages, which takes time by √count instead of count: about √count clusters first, and each of these into its
    share of what is asked for. Works on one thread: most steps are too short to be shared.
    """
    if count >= len(points):
        return points, np.arange(len(points))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _two_stages(points, count, seed)
    finally:
        torch.set_num_threads(threads)


def _two_stages(points: Tensor, count: int, seed: int) -> tuple[Tensor, npt.NDArray[np.int64]]:
    generator = torch.Generator().manual_seed(seed)
    _, first = _lloyd(points, max(1, round(count**0.5)), generator)
    sizes = torch.bincount(first)
    # Shares in proportion to their points, at least one each and at most as many as there are points.
    shares = ((count - len(sizes)) * sizes.double() / len(points)).floor().long() + 1
    shares = torch.minimum(shares, sizes)
    centers, labels, used = list[Tensor](), torch.zeros(len(points), dtype=torch.int64), 0
    for cluster, share in enumerate(shares.tolist()):
        if share == 0:
            continue
        members = (first == cluster).nonzero()[:, 0]
        of_members, own = _lloyd(points[members], share, generator)
        labels[members] = own + used
        centers.append(of_members)
        used += len(of_members)
    return torch.cat(centers), labels.numpy()


def _lloyd(points: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Centres [count, D] and the nearest's number for each point. One that loses all its points stays where it is."""
    centers = points[torch.randperm(len(points), generator=generator)[:count]].clone()
    labels = _nearest(points, centers)
    for _ in range(_ROUNDS):
        sums = torch.zeros_like(centers).index_add_(0, labels, points)
        counts = torch.bincount(labels, minlength=len(centers))[:, None]
        centers = torch.where(counts > 0, sums / counts.clamp(min=1), centers)
        labels = _nearest(points, centers)
    return centers, labels


def _nearest(points: Tensor, centers: Tensor) -> Tensor:
    batch = max(1, _AT_ONCE // len(centers))
    # |p − c|² without |p|², which does not decide.
    norms = (centers * centers).sum(dim=1)
    return torch.cat([(norms - 2 * part @ centers.T).argmin(dim=1) for part in torch.split(points, batch)])
