"""Which photos train and which are held out, where the scene says so itself."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from gns.errors import UserError
from gns.scene.readers.frames import Frame, some_of
from gns.scene.readers.photos import parts_inside, tails, without_suffix
from gns.utils.text import folded, read_text, spellings

Split = tuple[list[Frame], list[Frame] | None]  # frames to train on and held out; None: nothing is said

_LISTS = (("train_list.txt", "test_list.txt"), ("train.txt", "test.txt"))


def split_by_lists(frames: Sequence[Frame], folders: Sequence[Path], notes: list[str], warnings: list[str]) -> Split:
    """By `train_list.txt` and `test_list.txt`, else `train.txt` and `test.txt`, in the first folder that has any.

    Each names a photo a line, with or without folders and suffix. Where only one of the two is there, it holds for all
    photos. Lists that name no photo of the scene are of something else, and a warning says so.
    """
    for folder in folders:
        for names in _LISTS:
            lists = [_lines(folder / name) for name in names]
            notes += [f"{folder / name} is empty" for name, lines in zip(names, lists, strict=True) if lines == []]
            if any(lists):
                return split_by_names(frames, lists[0], lists[1], [folder / name for name in names], notes, warnings)
    return list(frames), None


def split_by_names(
    frames: Sequence[Frame],
    train: Sequence[str] | None,
    test: Sequence[str] | None,
    sources: Sequence[Path | str],
    notes: list[str],
    warnings: list[str],
) -> Split:
    """By the names of the photos that train and of those held out; None or none: all that the other does not name.

    `sources` say where the two lists come from. Raises UserError where a photo is in both, or none is left to train.
    """
    photos = PhotoNames([frame.name for frame in frames])
    chosen = list[set[str]]()
    for names, source in zip((train, test), sources, strict=True):
        found = {name: photos.find(name) for name in names or ()}
        chosen.append({photo for photo in found.values() if photo is not None})
        if names and not chosen[-1]:
            warnings.append(f"{source} names no photo of the scene ({some_of(names)}) and is not used")
        elif unknown := [name for name, photo in found.items() if photo is None]:
            warnings.append(f"{source} names {len(unknown)} photos that the scene does not have ({some_of(unknown)})")
    training, held_out = chosen
    if training == held_out:
        if training:
            notes.append(f"{sources[1]} lists the same photos as {sources[0]} and is not used")
        held_out = set()
    _check_apart(training, held_out, *sources)
    if not training and not held_out:
        return list(frames), None
    everything = {frame.name for frame in frames}
    training = training or everything - held_out
    held_out = held_out or everything - training
    if not training:
        raise UserError(f"{sources[1]} holds out all {len(everything)} photos: name some less")
    if neither := sorted(everything - training - held_out):
        notes.append(f"{len(neither)} photos are in neither part of the split and not used ({some_of(neither)})")
    used = [source for source, names in zip(sources, chosen, strict=True) if names]
    notes.append(
        f"split of {' and '.join(source.name if isinstance(source, Path) else source for source in used)}: "
        f"{len(training)} photos to train on, {len(held_out)} held out"
    )
    return [frame for frame in frames if frame.name in training], [
        frame for frame in frames if frame.name in held_out
    ] or None


def check_apart(train: Sequence[Frame], test: Sequence[Frame], train_source: str, test_source: str) -> None:
    """Raise UserError where a photo is in both."""
    _check_apart({frame.name for frame in train}, {frame.name for frame in test}, train_source, test_source)


def _check_apart(train: set[str], test: set[str], train_source: object, test_source: object) -> None:
    if both := sorted(train & test):
        raise UserError(
            f"{len(both)} of the photos ({some_of(both)}) are listed both in {train_source} and in {test_source}: "
            "remove them from one of the two"
        )


class PhotoNames:
    """The names of a scene's photos, to be found by what other lists call them."""

    def __init__(self, names: Sequence[str]) -> None:
        self._whole, self._last = defaultdict[str, list[str]](list), defaultdict[str, list[str]](list)
        for name in names:
            for table, key in ((self._whole, name), (self._last, PurePosixPath(name).name)):
                for form in dict.fromkeys((folded(key), folded(without_suffix(key)))):
                    table[form].append(name)

    def find(self, listed: str) -> str | None:
        """The photo that is meant, or None where there is none, or several.

        The listed name may have folders in front that the photo's has not, or none at all, and lack its suffix.
        """
        for spelling in spellings(listed):
            parts, _ = parts_inside(spelling)
            for table, candidates in ((self._whole, tails(parts)), (self._last, parts if len(parts) == 1 else ())):
                for name in candidates:
                    for form in (folded(name), folded(without_suffix(name))):
                        if len(found := table.get(form, [])) == 1:
                            return found[0]
        return None


def _lines(path: Path) -> list[str] | None:
    """The entries of a list; None where there is no such file."""
    if not path.is_file():
        return None
    try:
        lines = [line.strip() for line in read_text(path).splitlines()]
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    return [line for line in lines if line and not line.startswith("#")]
