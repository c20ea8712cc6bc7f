"""Splatting: what it is, in both ways to it, and that the kernel's bits depend on nothing but its
input.
"""

import os
import subprocess
import sys
from pathlib import Path

import jaxtyping
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import interpolate

from model.render.splatting import SPLAT_MODES, splat, splat_torch
from model.render.splatting_cpu import load_kernel, splat_compiled

ROOT = Path(__file__).parents[3]
MEANS = SPLAT_MODES[1:]
INF, NAN = float("inf"), float("nan")


@pytest.fixture(params=["plain", "kernel"])
def way(request):
    """One of the two ways to the same thing."""
    return splat_torch if request.param == "plain" else kernel_or_skip()


def kernel_or_skip():
    if load_kernel() is None:
        pytest.skip("no C++ compiler to build the kernel with")
    return splat_compiled


def scene(shape=(2, 5, 9, 12), *, mode="softmax", reach=3.0, seed=0, dtype=torch.float32):
    """Features, flow, mode, metric: all random, much of it leaving the picture where `reach` is
    large.
    """
    random = torch.Generator().manual_seed(seed)
    batch, _, height, width = shape
    features, flow = (
        torch.randn(shape, generator=random, dtype=dtype),
        reach * torch.randn(batch, 2, height, width, generator=random, dtype=dtype),
    )
    metric = 0.1 + 3 * torch.rand(batch, 1, height, width, generator=random, dtype=dtype)
    return features, flow, mode, metric if mode in ("linear", "softmax") else None


def uniform(x, y, *, like):
    """One flow everywhere."""
    return torch.tensor([x, y], dtype=like.dtype)[:, None, None].expand(
        len(like), 2, *like.shape[2:]
    )


def with_gradients(way, features, flow, mode, metric, weight=None):
    """Splatted, holes, and the gradients of a random linear function of it."""
    inputs = [
        x.detach().clone().requires_grad_() for x in (features, flow, metric) if x is not None
    ]
    splatted, holes = way(inputs[0], inputs[1], mode, inputs[2] if metric is not None else None)
    weight = (
        torch.randn(
            splatted.shape, generator=torch.Generator().manual_seed(9), dtype=splatted.dtype
        )
        if weight is None
        else weight
    )
    return [splatted.detach(), holes, *torch.autograd.grad((splatted * weight).sum(), inputs)]


@pytest.mark.parametrize("mode", SPLAT_MODES)
def test_no_flow_changes_nothing(way, mode):
    features, flow, _, metric = scene(mode=mode)
    splatted, holes = way(features, torch.zeros_like(flow), mode, metric)
    assert torch.equal(splatted, features)
    assert not holes.any()


@pytest.mark.parametrize("mode", SPLAT_MODES)
@pytest.mark.parametrize(("x", "y"), [(2, 0), (0, -3), (-1, 2), (-11, 8)])
def test_whole_pixels_are_a_shift_and_leave_holes_behind(way, mode, x, y):
    features, _, _, metric = scene(mode=mode)
    splatted, holes = way(features, uniform(x, y, like=features), mode, metric)
    expected, empty = torch.zeros_like(features), torch.ones(2, 1, 9, 12, dtype=torch.bool)
    to, of = (
        (slice(max(y, 0), 9 + min(y, 0)), slice(max(x, 0), 12 + min(x, 0))),
        (slice(max(-y, 0), 9 + min(-y, 0)), slice(max(-x, 0), 12 + min(-x, 0))),
    )
    expected[..., *to], empty[..., *to] = features[..., *of], False
    assert torch.equal(splatted, expected)
    assert torch.equal(holes, empty)


def test_x_is_to_the_right_and_y_down(way):
    features = torch.zeros(1, 1, 4, 5)
    features[0, 0, 1, 1] = 7
    splatted, _ = way(features, uniform(2, 1, like=features), "sum", None)
    assert splatted[0, 0, 2, 3] == 7


def test_half_a_pixel_is_two_halves(way):
    features, flow = torch.zeros(1, 1, 3, 4), torch.zeros(1, 2, 3, 4)
    features[0, 0, 1, 1], flow[0, 0, 1, 1] = 8, 0.5
    assert way(features, flow, "sum", None)[0].tolist() == [[[[0] * 4, [0, 4, 4, 0], [0] * 4]]]
    flow[0, 1, 1, 1] = -0.25
    assert way(features, flow, "sum", None)[0].tolist() == [[[[0, 1, 1, 0], [0, 3, 3, 0], [0] * 4]]]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), reach=st.floats(0.0, 4.0))
def test_a_sum_loses_nothing_that_stays_in_the_picture(seed, reach):
    features, flow, *_ = scene((1, 3, 20, 24), seed=seed, mode="sum", dtype=torch.float64)
    features[..., :5, :] = features[..., -5:, :] = features[..., :5] = features[..., -5:] = 0
    for way in (splat_torch, splat):
        splatted, _ = way(features, flow.clamp(-1, 1) * reach, "sum", None)
        assert torch.allclose(
            splatted.sum((2, 3)), features.sum((2, 3)), rtol=0, atol=1e-4
        )  # shares under 2^-20 are dropped


@pytest.mark.parametrize("mode", SPLAT_MODES)
def test_it_is_linear_in_the_features(way, mode):
    features, flow, _, metric = scene(mode=mode, dtype=torch.float64)
    other = scene(seed=1, dtype=torch.float64)[0]
    mixed, a, b = (
        way(x, flow, mode, metric)[0] for x in (2 * features - 3 * other, features, other)
    )
    torch.testing.assert_close(mixed, 2 * a - 3 * b)


def two_objects():
    """A row of 1 at rest, and 5 that come to its pixel 3 from pixel 0."""
    features, flow = torch.ones(1, 1, 1, 6), torch.zeros(1, 2, 1, 6)
    features[..., 0], flow[0, 0, 0, 0] = 5, 3
    return features, flow


def test_the_larger_metric_is_in_front(way):
    features, flow = two_objects()
    metric = torch.zeros(1, 1, 1, 6)
    for front, seen in ((30.0, 5), (-30.0, 1), (1e30, 5), (-1e30, 1), (-INF, 1), (0.0, 3)):
        metric[..., 0] = front
        splatted, holes = way(features, flow, "softmax", metric)
        assert splatted[0, 0, 0].tolist() == pytest.approx([0, 1, 1, seen, 1, 1])
        assert holes.flatten().tolist() == [True] + [False] * 5
    assert way(features, flow, "average", None)[0][0, 0, 0, 3] == 3
    assert way(features, flow, "linear", 3 * torch.eye(6)[:1, None, None] + 1)[0][
        0, 0, 0, 3
    ] == pytest.approx((4 * 5 + 1) / 5)
    assert way(features, flow, "sum", None)[0][0, 0, 0, 3] == 6


def test_a_huge_range_of_the_metric_leaves_no_holes(way):
    features, flow, mode, _ = scene(reach=0.4)
    metric = torch.linspace(-1e4, 1e4, 2 * 9 * 12).view(2, 1, 9, 12)
    splatted, holes = way(features, flow, mode, metric)
    assert torch.equal(holes, way(features, flow, "average", None)[1])
    assert splatted.isfinite().all()
    assert all(x.isfinite().all() for x in with_gradients(way, features, flow, mode, metric))


def test_what_has_no_weight_leaves_a_hole(way):
    features, flow = two_objects()
    metric = torch.ones(1, 1, 1, 6)
    for mode, none in (("linear", 0.0), ("softmax", -INF)):
        metric[..., 2] = none
        splatted, holes = way(features, flow, mode, metric)
        assert splatted[0, 0, 0, 2] == 0
        assert holes.flatten().tolist() == [True, False, True, False, False, False]
        assert all(x.isfinite().all() for x in with_gradients(way, features, flow, mode, metric))


@pytest.mark.parametrize("mode", ["linear", "softmax"])
def test_a_constant_metric_is_an_average(way, mode):
    features, flow, *_ = scene()
    splatted, holes = way(features, flow, mode, torch.full((2, 1, 9, 12), 2.5))
    expected, empty = way(features, flow, "average", None)
    torch.testing.assert_close(splatted, expected)
    assert torch.equal(holes, empty)
    assert empty.any() and not empty.all()


@pytest.mark.parametrize("mode", SPLAT_MODES)
def test_a_shift_of_all_shifts_the_result(way, mode):
    """Things amid an empty margin, at positions that a shift of whole pixels does not round."""
    features, flow, _, metric = scene((1, 3, 16, 20), mode=mode, reach=1)
    flow = (flow.clamp(-2, 2) * 64).round() / 64
    features[..., :5, :] = features[..., -5:, :] = features[..., :5] = features[..., -5:] = 0
    moved = [None if x is None else x.roll((2, -1), (2, 3)) for x in (features, flow, metric)]
    before, after = way(features, flow, mode, metric)[0], way(moved[0], moved[1], mode, moved[2])[0]
    torch.testing.assert_close(
        after[..., 5:-3, 4:-5], before.roll((2, -1), (2, 3))[..., 5:-3, 4:-5]
    )


@pytest.mark.sample(2)
@pytest.mark.slow
@pytest.mark.parametrize("mode", SPLAT_MODES)
def test_gradients(way, mode):
    """Channels over one block of the kernel; some of it leaves the picture."""
    features, flow, _, metric = scene((2, 9, 3, 4), mode=mode, reach=1, dtype=torch.float64)
    inputs = [x.requires_grad_() for x in (features, flow, metric) if x is not None]

    def splatted(features, flow, metric=None):
        return way(features, flow, mode, metric)[0]

    assert torch.autograd.gradcheck(splatted, inputs)


@pytest.mark.parametrize("mode", SPLAT_MODES)
def test_both_ways_are_equal(mode):
    compiled = kernel_or_skip()
    for seed, (shape, reach) in enumerate(
        [((2, 5, 9, 12), 3), ((1, 64, 40, 30), 2), ((3, 8, 17, 5), 50), ((1, 17, 31, 43), 0.3)]
    ):
        inputs = scene(shape, mode=mode, reach=reach, seed=seed)
        ours, theirs = with_gradients(compiled, *inputs), with_gradients(splat_torch, *inputs)
        assert torch.equal(ours[1], theirs[1])
        torch.testing.assert_close(ours[0], theirs[0], rtol=1e-5, atol=1e-5)
        for a, b in zip(ours[2:], theirs[2:], strict=True):
            assert (
                a - b
            ).norm() <= 1e-5 * b.norm() + 1e-4  # rounding alone, where nothing meets anything


def bits(tensors):
    return [x.view(torch.int32) if x.dtype == torch.float32 else x for x in tensors]


@pytest.mark.slow
@pytest.mark.parametrize("mode", SPLAT_MODES)
def test_the_kernel_s_bits_depend_on_nothing_else(mode):
    """A picture that is large enough for four threads, from run to run and for any number of them."""
    compiled, threads = kernel_or_skip(), torch.get_num_threads()
    inputs = scene((2, 37, 150, 260), mode=mode, reach=5)
    try:
        found = []
        for count in (1, 2, 4, 4, 3):
            torch.set_num_threads(count)
            found.append(bits(with_gradients(compiled, *inputs)))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))


def test_plain_torch_gives_the_same_bits_from_run_to_run():
    inputs = scene((1, 8, 100, 120), reach=5)
    assert all(
        map(
            torch.equal,
            bits(with_gradients(splat_torch, *inputs)),
            bits(with_gradients(splat_torch, *inputs)),
        )
    )


@pytest.mark.parametrize("mode", SPLAT_MODES)
def test_a_sample_knows_nothing_of_the_others(way, mode):
    features, flow, _, metric = scene((3, 5, 9, 12), mode=mode)
    together = with_gradients(way, features, flow, mode, metric, torch.ones_like(features))
    for b in range(3):
        one = slice(b, b + 1)
        alone = with_gradients(
            way,
            features[one],
            flow[one],
            mode,
            None if metric is None else metric[one],
            torch.ones_like(features[one]),
        )
        for a, t in zip(alone, together, strict=True):
            torch.testing.assert_close(a, t[one])


@pytest.mark.parametrize("value", [NAN, INF, -INF, 1e30, -1e30, 3e9])
@pytest.mark.parametrize("mode", SPLAT_MODES)
def test_what_flows_nowhere_is_dropped(way, mode, value):
    features, flow, _, metric = scene(mode=mode, reach=1)
    for axis in (0, 1):
        broken, outside = flow.clone(), flow.clone()
        broken[:, axis, 3:5, 2:9], outside[:, axis, 3:5, 2:9] = value, -100
        ours, expected = (
            with_gradients(way, features, broken, mode, metric),
            with_gradients(way, features, outside, mode, metric),
        )
        for a, b in zip(ours, expected, strict=True):
            torch.testing.assert_close(a, b)
        assert not ours[3][:, :, 3:5, 2:9].any()


def test_nothing_that_is_dropped_is_seen(way):
    """Not even where it is no number."""
    features, flow, mode, metric = scene(reach=0)
    features[:, :, 4, 4], flow[:, 0, 4, 4] = NAN, 100
    splatted, holes = way(features, flow, mode, metric)
    assert splatted.isfinite().all()
    assert holes.nonzero().tolist() == [[0, 0, 4, 4], [1, 0, 4, 4]]


@pytest.mark.parametrize("mode", SPLAT_MODES)
@pytest.mark.parametrize(
    "shape",
    [
        (1, 1, 1, 1),
        (1, 3, 1, 7),
        (2, 9, 6, 1),
        (1, 65, 2, 3),
        (0, 3, 4, 5),
        (1, 0, 4, 5),
        (1, 3, 0, 5),
    ],
    ids=str,
)
def test_any_size(way, mode, shape):
    features, flow, _, metric = scene(shape, mode=mode, reach=0.3)
    splatted, holes, *gradients = with_gradients(way, features, flow, mode, metric)
    expected = with_gradients(splat_torch, features, flow, mode, metric)
    assert splatted.shape == shape and holes.shape == (shape[0], 1, *shape[2:])
    for a, b in zip((splatted, holes, *gradients), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", SPLAT_MODES)
def test_any_layout(way, mode):
    features, flow, _, metric = scene(mode=mode)
    expected = with_gradients(way, features, flow, mode, metric)
    last = (
        features.to(memory_format=torch.channels_last),
        flow.to(memory_format=torch.channels_last),
    )
    for a, b in zip(with_gradients(way, *last, mode, metric), expected, strict=True):
        torch.testing.assert_close(a, b)
    wide = [x.repeat_interleave(2, 3)[..., ::2] for x in (features, flow)]
    assert torch.equal(way(*wide, mode, metric)[0], expected[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_many_small_things_add_up_in_half_precision(dtype):
    """4,096 pixels of 1 + 1/128 come together: in bfloat16 a sum would stand still at 256, in
    float16 at 2,048.
    """
    features, flow = torch.full((1, 2, 64, 64), 1 + 1 / 128, dtype=dtype), torch.zeros(1, 2, 64, 64)
    flow[:, 0], flow[:, 1] = 32 - torch.arange(64.0), 32 - torch.arange(64.0)[:, None]
    for moved in (flow, flow.to(dtype)):
        splatted = splat(features, moved, "sum").features
        assert splatted.dtype == dtype
        assert float(splatted[0, 0, 32, 32]) == pytest.approx(4128, rel=0.005)
        assert float(splat(features, moved, "average").features[0, 1, 32, 32]) == 1 + 1 / 128
        assert (
            float(
                splat(features, moved, "softmax", torch.ones(1, 1, 64, 64, dtype=dtype)).features[
                    0, 1, 32, 32
                ]
            )
            == 1 + 1 / 128
        )


def test_gradients_come_back_in_the_types_of_the_inputs():
    features, flow, mode, metric = scene()
    inputs = [
        features.half().requires_grad_(),
        flow.requires_grad_(),
        metric.bfloat16().requires_grad_(),
    ]
    with torch.autocast("cpu", torch.bfloat16):
        splatted = splat(inputs[0], inputs[1], mode, inputs[2]).features
    splatted.float().square().sum().backward()
    assert splatted.dtype == torch.float16
    assert [x.grad.dtype for x in inputs] == [torch.float16, torch.float32, torch.bfloat16]


def test_autocast_computes_in_float32():
    for way in (splat, splat_torch):
        expected = way(*scene())[0]
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(way(*scene())[0], expected)


def test_only_once_differentiable():
    kernel_or_skip()
    features, flow, mode, metric = scene()
    (gradient,) = torch.autograd.grad(
        splat(features, flow.requires_grad_(), mode, metric).features.square().sum(),
        flow,
        create_graph=True,
    )
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(mode="mean"), "mode is 'mean', expected one of sum, average, linear, softmax"),
        (dict(mode="average"), "metric is given in mode 'average'"),
        (dict(metric=None), "metric is missing in mode 'softmax'"),
        (
            dict(flow=torch.zeros(2, 2, 9, 11)),
            r"flow is \[2, 2, 9, 11\] on cpu, expected \[2, 2, 9, 12\]",
        ),
        (dict(flow=torch.zeros(1, 2, 9, 12)), r"flow is \[1, 2, 9, 12\]"),
        (
            dict(metric=torch.zeros(2, 2, 9, 12)),
            r"metric is \[2, 2, 9, 12\] on cpu, expected \[2, 1, 9, 12\]",
        ),
        (dict(features=torch.zeros(9, 12)), r"features are \[9, 12\]"),
        (dict(features=torch.zeros(2, 5, 9, 12, dtype=torch.uint8)), r"torch.uint8.*real numbers"),
        (
            dict(mode="linear", metric=torch.full((2, 1, 9, 12), -0.5)),
            "metric goes down to -0.5, expected at least 0 in mode 'linear'",
        ),
    ],
)
def test_what_does_not_fit_is_named(monkeypatch, change, message):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=message):
        splat(**dict(zip(("features", "flow", "mode", "metric"), scene(), strict=True)) | change)


PROGRAM = """
import logging, torch
logging.basicConfig(format="%(levelname)s %(message)s")
from model.render.splatting import splat
from model.render.splatting_cpu import load_kernel
from tests.model.render.test_splatting import scene
for _ in range(3):
    splatted = splat(*scene()).features
print(load_kernel() is not None, splatted.double().sum().item())
"""


def python(**environment):
    """What the program prints, in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_without_a_compiler_one_line_says_so(tmp_path):
    done = python(CXX=str(tmp_path / "no-compiler"), TORCH_EXTENSIONS_DIR=str(tmp_path))
    out, errors = done.communicate(timeout=120)
    assert done.returncode == 0, errors
    built, total = out.split()
    assert built == "False"
    assert float(total) == pytest.approx(float(splat(*scene()).features.double().sum()), rel=1e-4)
    assert errors.count("WARNING") == 1
    assert "splatting runs in plain torch" in errors


@pytest.mark.slow
def test_a_cache_that_cannot_be_written_is_no_end(tmp_path):
    (tmp_path / "quiver").write_text("no folder")
    done = python(TORCH_EXTENSIONS_DIR=str(tmp_path))
    out, errors = done.communicate(timeout=120)
    assert (done.returncode, out.split()[0], errors.count("WARNING")) == (0, "False", 1)


@pytest.mark.thorough
def test_two_processes_build_at_once(tmp_path):
    """Beside the lock of a build that was killed."""
    kernel_or_skip()
    (tmp_path / "quiver").mkdir()
    (tmp_path / "quiver" / "lock").touch()
    both = [python(TORCH_EXTENSIONS_DIR=str(tmp_path)) for _ in range(2)]
    found = [one.communicate(timeout=200) for one in both]
    assert [out.split()[0] for out, _ in found] == ["True", "True"], found
    assert found[0][0] == found[1][0]
    assert [
        path.suffix for path in sorted((tmp_path / "quiver").iterdir()) if path.name != "lock"
    ] == [".so"]


def test_a_smooth_flow_is_followed_there_and_back():
    """Splatted by a flow, a smooth picture seen at the targets is the picture at the sources."""
    y, x = torch.meshgrid(torch.arange(60.0), torch.arange(80.0), indexing="ij")
    picture = (torch.sin(x / 6) * torch.cos(y / 7))[None, None]
    flow = interpolate(
        torch.randn(1, 2, 4, 5, generator=torch.Generator().manual_seed(3)),
        (60, 80),
        mode="bicubic",
    )
    splatted, holes = splat(picture, flow, "average")
    grid = torch.stack(((x + flow[:, 0]) / 79 * 2 - 1, (y + flow[:, 1]) / 59 * 2 - 1), -1)
    found = torch.nn.functional.grid_sample(splatted, grid, align_corners=True)
    assert (found - picture)[..., 5:-5, 5:-5].abs().mean() < 0.02
    assert not holes[..., 5:-5, 5:-5].any()
