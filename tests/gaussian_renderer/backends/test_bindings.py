"""Any array that does not fit is refused by the native module before it reads or writes anything.

benchmarks/check_native.py runs this under the address sanitizer, which sees what is refused too late or not at all.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gns.gaussian_renderer import instruction_sets, use_instruction_set
from gns.utils import native

Array = npt.NDArray[Any]
Arrays = dict[str, Array]
Shapes = dict[str, tuple[int, ...]]

COUNT, HEIGHT, WIDTH = 5, 4, 6
GROUPS = ("means", "log_scales", "quats", "opacity_logits", "sh_dc", "sh_rest")
TARGETS = ("image", "alpha", "radii", "importance", "inverse_depth", "counts")
BYTES, WHOLE_NUMBERS = ("target", "mask"), ("counts",)  # arrays that are not of the call's precision


def group_shapes(count: int) -> Shapes:
    planes = ((3, count), (3, count), (4, count), (count,), (1, 3, count), (3, 3, count))
    return dict(zip(GROUPS, planes, strict=True))


def image_shapes(height: int, width: int, *maps: str) -> Shapes:
    return {"image": (3, height, width)} | dict.fromkeys(maps, (height, width))


def parameters(kind: Any, arrays: Arrays) -> Any:
    return kind(**{name: arrays[name] for name in GROUPS})


def rendering(module: Any, arrays: Arrays, width: int = WIDTH, height: int = HEIGHT) -> Any:
    inputs = module.RenderInputs(
        intrinsics=(6.0, 6.0, width / 2, height / 2),
        size=(width, height),
        world_to_camera=tuple(np.eye(4).ravel().tolist()),
        parameters=parameters(module.Parameters, arrays),
        sh_degree=1,
        background=(0.1, 0.2, 0.3),
        edges=arrays.get("edges"),
    )
    targets = {name: arrays.get(name) for name in TARGETS}
    return module.Rendering(inputs, module.RenderTargets(**targets))


def backward(module: Any, arrays: Arrays) -> None:
    """Of a picture that was drawn well."""
    precision = module.__name__.removeprefix("gns_native.")
    drawn = rendering(module, whole(group_shapes(COUNT) | image_shapes(HEIGHT, WIDTH), precision))
    gradients = module.RenderGradients(
        image=arrays["by_image"],
        alpha=arrays["by_alpha"],
        parameters=parameters(module.Gradients, arrays),
        abs_mean2d=arrays["abs_mean2d"],
        mean2d=arrays["mean2d"],
        inverse_depth=arrays["by_inverse_depth"],
    )
    drawn.backward(arrays["image"], gradients, arrays["inverse_depth"])


def loss(module: Any, arrays: Arrays) -> None:
    module.photometric_loss(arrays["image"], arrays["target"], arrays["mask"], arrays["gradient"])


def dissimilarity(module: Any, arrays: Arrays) -> None:
    module.dissimilarity(arrays["image"], arrays["target"], arrays["mask"], arrays["out"])


def adam(_: Any, arrays: Arrays) -> None:
    native.load().adam([tuple(arrays.values())], [0.1], [1], [0.0], 0.9, 0.999, 1e-15)


@dataclass(frozen=True)
class Call:
    """A function of the native module, the arrays that it takes, and those of them that it writes."""

    run: Callable[[Any, Arrays], Any]
    shapes: Shapes
    written: tuple[str, ...]
    precisions: tuple[str, ...] = ("float32", "float64")


CALLS = {
    "forward": Call(
        rendering,
        group_shapes(COUNT)
        | image_shapes(HEIGHT, WIDTH, "edges", "alpha", "inverse_depth", "counts")
        | {"radii": (COUNT,), "importance": (COUNT,)},
        TARGETS,
    ),
    "backward": Call(
        backward,
        group_shapes(COUNT)
        | image_shapes(HEIGHT, WIDTH, "by_alpha", "inverse_depth", "by_inverse_depth")
        | {"by_image": (3, HEIGHT, WIDTH), "abs_mean2d": (2, COUNT), "mean2d": (2, COUNT)},
        (*GROUPS, "abs_mean2d", "mean2d"),
    ),
    "loss": Call(
        loss,
        image_shapes(HEIGHT, WIDTH, "mask") | {"target": (HEIGHT, WIDTH, 3), "gradient": (3, HEIGHT, WIDTH)},
        ("gradient",),
    ),
    "dissimilarity": Call(
        dissimilarity,
        image_shapes(HEIGHT, WIDTH, "mask") | {"target": (HEIGHT, WIDTH, 3), "out": (HEIGHT, WIDTH)},
        ("out",),
    ),
    "adam": Call(
        adam,
        dict.fromkeys(("parameter", "gradient", "first", "second"), (COUNT,)),
        ("parameter", "gradient", "first", "second"),
        ("float32",),
    ),
}


def whole(shapes: Shapes, precision: npt.DTypeLike) -> Arrays:
    """Arrays that fit, of ones."""

    def dtype(name: str) -> npt.DTypeLike:
        return np.uint8 if name in BYTES else np.int32 if name in WHOLE_NUMBERS else precision

    return {name: np.ones(shape, dtype(name)) for name, shape in shapes.items()}


def between_numbers(values: Array) -> Array:
    """The same, beginning at an odd address."""
    shifted = np.zeros(values.nbytes + 1, np.uint8)[1:].view(values.dtype).reshape(values.shape)
    shifted[...] = values
    return shifted


def read_only(values: Array) -> Array:
    copy: Array = values.copy()
    copy.flags.writeable = False
    return copy


def unfit(name: str, values: Array, written: bool) -> Iterator[tuple[str, Any]]:
    """Everything that may not stand in for `values`, and what it is called."""
    for other in ("float16", "float32", "float64", "int32", "int64", "uint8", "bool", "complex64", "O"):
        if values.dtype != other:
            yield other, values.astype(other)
    if values.itemsize > 1:
        yield "other byte order", values.astype(values.dtype.newbyteorder())
        yield "between numbers", between_numbers(values)
    yield "every other", np.repeat(values, 2, axis=-1)[..., ::2]
    yield "backwards", values[..., ::-1]
    if values.ndim > 1:
        yield "transposed", np.ascontiguousarray(values.T).T
        yield "flat", values.reshape(-1)
    yield "another dimension", values[None]
    yield "a list", values.tolist()
    yield "text", "values"
    yield "another device", torch.ones(values.shape, dtype=getattr(torch, values.dtype.name), device="meta")
    if written:
        yield "read-only", read_only(values)
    for axis, change in itertools.product(range(values.ndim), (-1, 1, 1000)):
        if (name, axis) == ("sh_rest", 0) and change > 0 and not written:
            continue  # coefficients of a higher degree than is drawn
        shape = list(values.shape)
        shape[axis] += change
        yield f"{change} along axis {axis}", np.ones(shape, values.dtype)


CASES = [(name, precision) for name, call in CALLS.items() for precision in call.precisions]


@pytest.mark.parametrize(("name", "precision"), CASES)
def test_what_does_not_fit_is_refused_before_any_memory_is_touched(name: str, precision: str) -> None:
    call, module = CALLS[name], getattr(native.load(), precision)
    call.run(module, whole(call.shapes, precision))
    for field in call.shapes:
        for what, wrong in unfit(field, whole(call.shapes, precision)[field], field in call.written):
            arrays = whole(call.shapes, precision) | {field: wrong}
            try:
                call.run(module, arrays)
            except (TypeError, ValueError) as refusal:
                assert str(refusal)
            else:
                pytest.fail(f"{field}, {what}: taken")
            for other, values in arrays.items():
                if isinstance(values, np.ndarray):
                    assert (values == 1).all(), f"{field}, {what}: {other} was written"


sizes = st.sampled_from((0, 1, 2, 5, 16, 17, 33))


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(st.lists(sizes, min_size=8, max_size=8), st.integers(0, 4), st.sampled_from(("float32", "float64")))
def test_arrays_of_any_sizes_are_taken_or_refused(drawn: list[int], odd: int, precision: str) -> None:
    """Under a sanitizer: all of one size, or some of another."""
    count, height, width = drawn[:3]
    module = getattr(native.load(), precision)
    shapes = group_shapes(count) | image_shapes(height, width, "edges", "alpha", "inverse_depth", "counts", "mask")
    shapes |= {"radii": (count,), "importance": (count,), "target": (height, width, 3), "gradient": (3, height, width)}
    shapes |= {"out": (height, width)}
    for number, size in enumerate(drawn[3 : 3 + odd]):
        name = sorted(shapes)[(number * 7 + size) % len(shapes)]
        shapes[name] = (*shapes[name][:-1], size)
    arrays = whole(shapes, precision)
    with suppress(ValueError):
        rendering(module, arrays, width, height)
    with suppress(ValueError):
        loss(module, arrays)
    with suppress(ValueError):
        dissimilarity(module, arrays)


def test_a_picture_goes_back_by_the_instruction_set_that_drew_it() -> None:
    """Each cuts its tiles in its own way: what another makes of them is wrong without an error."""
    generator = np.random.default_rng(3)
    forward = {name: generator.normal(size=shape).astype(np.float32) for name, shape in group_shapes(40).items()}
    forward["means"][2] += 4
    module, names = native.load().float32, instruction_sets()
    if len(names) == 1:
        pytest.skip("this machine has one instruction set")
    results = []
    for later in (names[-1], names[0]):
        try:
            use_instruction_set(names[-1])
            image = np.zeros((3, 32, 32), np.float32)
            drawn = rendering(module, forward | {"image": image}, 32, 32)
            use_instruction_set(later)
            gradients = {name: np.zeros_like(values) for name, values in forward.items()}
            drawn.backward(
                image,
                module.RenderGradients(np.ones_like(image), None, parameters(module.Gradients, gradients), None, None),
            )
        finally:
            use_instruction_set(names[0])
        results.append(gradients)
    assert any(values.any() for values in results[0].values())
    for name, values in results[0].items():
        assert np.array_equal(values, results[1][name]), name
