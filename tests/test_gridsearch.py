"""Searched grids: the costs are those of real moves, the path is the cheapest, and few steps stray less on it."""

from __future__ import annotations

from functools import cache, partial
from itertools import combinations, pairwise

import pytest
import torch
from exact import Exact
from hypothesis import given, settings
from hypothesis import strategies as st

from fromnoise.build import build_denoiser, build_grid
from fromnoise.codec.image import ImageCodec
from fromnoise.cond import Cond
from fromnoise.config import Config, ModelConfig, RunConfig, SampleConfig, UNetConfig, from_json, to_json
from fromnoise.extend import extension
from fromnoise.generate import walk
from fromnoise.grid import Karras, Linear, LogSNR
from fromnoise.gridsearch import Teacher, costs, grids, search, shortest, teach, teacher_times
from fromnoise.path import logsnr
from fromnoise.posterior import Mean
from fromnoise.prior import Expected
from fromnoise.process import Gaussian
from fromnoise.release import Release
from fromnoise.rng import Rng
from fromnoise.sample import finish, sample
from fromnoise.stepper import Multistep
from fromnoise.types import FromNoiseError

FORMULAS = {"linear 1": Linear(), "linear 3": Linear(shift=3.0), "logsnr": LogSNR(), "karras": Karras()}
LASTS = {4: 0.1, 5: 0.1, 6: 0.1, 8: 0.1, 12: 0.05, 16: 0.05}  # the caller's choice: nearer to 0 with more moves


def priors(seed: int, t: float = 1.0, n: int = 64) -> torch.Tensor:
    return Exact.process.prior((n, 2), t, Rng.of(seed, range(n)), dtype=torch.float64)


def begun(rows: range, t: float) -> torch.Tensor:
    return priors(0, t)[rows]


def end(times: tuple[float, ...], seed: int) -> torch.Tensor:
    x = priors(seed, times[0])
    return finish(sample(Exact(), Multistep(), times, x, Cond.empty(len(x)), Rng.of(0, range(len(x)))))


@cache
def taught(count: int, last: float) -> Teacher:
    halves = [(partial(begun, rows), Cond.empty(32)) for rows in (range(32), range(32, 64))]
    teacher = teach(Exact(), teacher_times(1.0, last, count), halves)
    assert teacher is not None
    return teacher


@cache
def found(moves: int) -> tuple[float, ...]:
    return grids(taught(48, LASTS[moves]), [moves])[moves]


@cache
def solution(seed: int) -> torch.Tensor:
    return end(teacher_times(1.0, 1e-3, 250), seed)


def strayed(times: tuple[float, ...], seed: int) -> float:
    return float((end(times, seed) - solution(seed)).square().mean().sqrt())


@pytest.mark.parametrize("moves", LASTS)
@pytest.mark.parametrize("seed", [0, 1], ids=["the priors searched on", "fresh priors"])
def test_no_formula_comes_nearer_to_the_solution_than_the_searched_grid(seed, moves):
    formulas = {name: strayed(formula(moves), seed) for name, formula in FORMULAS.items()}
    assert strayed(found(moves), seed) < min(formulas.values()), formulas


@pytest.mark.parametrize("moves", LASTS)
def test_searched_grids_fall_from_the_start_or_below_to_the_last_time_and_zero(moves):
    times = found(moves)
    assert len(times) == moves + 1 and all(a > b for a, b in pairwise(times))
    assert times[0] <= 1.0 and times[-2:] == (LASTS[moves], 0.0)


def test_the_search_is_deterministic_and_does_not_depend_on_how_priors_are_batched():
    batches = [(partial(begun, rows), Cond.empty(len(rows))) for rows in (range(8), range(4), range(4, 8))]
    whole, again, parts = (
        teach(Exact(), teacher_times(1.0, 0.1, 20), some) for some in (batches[:1], batches[:1], batches[1:])
    )
    assert whole is not None and again is not None and parts is not None
    assert torch.equal(whole.gram, again.gram) and torch.equal(whole.growth, again.growth)
    assert torch.allclose(whole.gram, parts.gram, rtol=1e-12)
    assert torch.allclose(whole.begun, parts.begun, rtol=1e-12)
    assert grids(whole, [5]) == grids(again, [5])
    assert teach(Exact(), teacher_times(1.0, 0.1, 20), []) is None


@given(picked=st.lists(st.integers(0, 9), min_size=3, max_size=3, unique=True))
def test_costs_are_the_errors_of_the_steppers_own_moves(picked):
    """From the teacher's own states the stepper misses the teacher's next one by what the Gram matrix says."""
    i, j, k = sorted(picked)
    if k == 9:
        j = 8  # the last move starts at the last time
    i = min(i, j - 1)
    teacher = taught(9, 0.2)
    x = priors(0)
    cond, rng = Cond.empty(64), Rng.of(0, range(64))
    walked = list(sample(Exact(), Multistep(), teacher.times, x, cond, rng))
    states = [x, *(step.x for step in walked)]

    def square(a: torch.Tensor, b: torch.Tensor) -> float:
        return float((a - b).square().mean() * teacher.growth[k] ** 2)

    time = [torch.full((64, 1), t, dtype=torch.float64) for t in teacher.times]
    _, _, state = Multistep().step(Exact(), states[i], time[i], time[j], cond, None, rng)
    x_k, _, _ = Multistep().step(Exact(), states[j], time[j], time[k], cond, state, rng)
    first, second = costs(teacher)
    assert float(second[i, j, k]) == pytest.approx(square(x_k, states[k]), rel=1e-6, abs=1e-14)
    euler, _, _ = Multistep().step(Exact(), states[j], time[j], time[k], cond, None, rng)
    begins = float((priors(0, teacher.times[j]) - states[j]).square().mean() * teacher.growth[j] ** 2)
    assert float(first[j, k]) == pytest.approx(square(euler, states[k]) + begins, rel=1e-6, abs=1e-14)


class Normal:
    """The posterior mean of data N(0, 0.3²), whose exact solution scales x_t by its standard deviation."""

    process = Gaussian()

    def __call__(self, x_t, t, cond, s=None):
        return Mean((1 - t) * 0.09 / variance(t) * x_t)


def variance(t: torch.Tensor) -> torch.Tensor:
    return (1 - t) ** 2 * 0.09 + t**2


def test_growth_is_what_becomes_of_a_small_error():
    teacher = teach(Normal(), teacher_times(1.0, 0.01, 200), [(partial(begun, range(64)), Cond.empty(64))])
    assert teacher is not None and float(teacher.growth[-1]) == 1.0
    t = torch.tensor(teacher.times, dtype=torch.float64)
    assert torch.allclose(teacher.growth, 0.3 / variance(t).sqrt(), rtol=0.01)


@given(seed=st.integers(0, 10_000), count=st.integers(3, 6))
@settings(max_examples=40)
def test_the_path_is_the_cheapest_of_all(seed, count):
    g = torch.Generator().manual_seed(seed)
    every = torch.arange(count + 1)
    rises = every[:, None] < every
    first = torch.where(rises, torch.rand(count + 1, count + 1, generator=g, dtype=torch.float64), torch.inf)
    second = torch.rand(count + 1, count + 1, count + 1, generator=g, dtype=torch.float64)
    second = torch.where(rises[:, :, None] & rises, second, torch.inf)

    def cost(path: tuple[int, ...]) -> float:
        moves = zip(path, path[1:], path[2:], strict=False)
        return float(first[path[0], path[1]]) + sum(float(second[i, j, k]) for i, j, k in moves)

    for moves, path in enumerate(shortest(first, second, count), start=1):
        best = min(cost((*inner, count)) for inner in combinations(range(count), moves))
        assert len(path) == moves + 1 and path[-1] == count
        assert cost(tuple(path)) == pytest.approx(best, rel=1e-12)


@given(start=st.floats(0.5, 1.0), last=st.floats(0.001, 0.4), count=st.integers(2, 80))
def test_a_teachers_times_fall_from_start_over_last_to_zero(start, last, count):
    times = teacher_times(start, last, count)
    assert len(times) == count + 1 and times[0] == start and times[-1] == 0.0
    assert times[-2] == pytest.approx(last, abs=1e-6)
    assert all(a > b for a, b in pairwise(times))
    if count > 3:
        gaps = [float(b - a) for a, b in pairwise(logsnr(torch.tensor(times[1:-1], dtype=torch.float64)))]
        assert max(gaps) - min(gaps) < 0.01


def test_impossible_searches_are_refused():
    with pytest.raises(FromNoiseError, match="between 0 and its start 1"):
        teacher_times(1.0, 0.0, 8)
    with pytest.raises(FromNoiseError, match="2 to 9 moves"):
        grids(taught(9, 0.2), [1, 4])
    with pytest.raises(FromNoiseError, match="2 to 9 moves"):
        grids(taught(9, 0.2), [10])


def test_a_searched_grid_goes_before_the_formula_for_its_own_number_of_multistep_moves():
    searched = SampleConfig(searched=((0.99, 0.5, 0.1, 0.0), (1.0, 0.1, 0.0)))
    plain = SampleConfig()
    assert build_grid(searched, 1.0)(3) == build_grid(plain, 1.0)(3)  # asked for 24 steps
    for steps, times in ((3, searched.searched[0]), (2, searched.searched[1])):
        of = SampleConfig(searched=searched.searched, steps=steps)
        assert build_grid(of, 1.0)(steps) == times
        other = SampleConfig(searched=searched.searched, steps=steps, sampler="heun")
        assert build_grid(other, 1.0)(steps) == build_grid(plain, 1.0)(steps)
    config = Config(run=RunConfig(steps=1), sample=searched)
    assert from_json(to_json(config)) == config


TINY = Config(net=UNetConfig(widths=(32,), attention=(False,), emb=32), run=RunConfig(steps=1))


def release(config: Config) -> Release:
    codec = ImageCodec.full_range(height=4, width=4, channels=1, alpha=False, dtype="uint8")
    denoiser = build_denoiser(config, (), 1).eval()
    return Release(denoiser=denoiser, codec=codec, columns=(), rows=Cond.empty(0), config=config, digest="")


@pytest.mark.parametrize("batches", [0, 2])
def test_a_search_keeps_to_its_seconds(batches):
    """On a clock that counts evaluations, a batch costs two walks, and two evaluations tell that in advance."""
    model, batch = release(TINY), 2 * 26
    calls: list[None] = []
    model.denoiser.register_forward_hook(lambda *_: calls.append(None))
    found = search(model, nodes=26, seconds=(batches + 0.9) * batch + 2, clock=lambda: float(len(calls)))
    assert len(calls) == batches * batch + 2
    assert [len(times) - 1 for times in found] == (list(range(3, 25)) if batches else [])


def test_a_search_does_not_depend_on_the_clock_where_time_is_enough():
    few = {"steps": [4], "priors": 8, "nodes": 10}
    assert search(release(TINY), **few, seconds=1e9) == search(release(TINY), **few)


def test_models_that_are_not_sampled_by_multistep_are_not_searched():
    assert search(release(Config(model=ModelConfig(flow_map=True), net=TINY.net, run=TINY.run))) == ()


class Foreseen(Normal):
    """Of data N(1, 0.3²), of which that is known beforehand."""

    process = Gaussian(
        Expected((), torch.ones(2), torch.zeros(0, 2), torch.eye(2), torch.zeros(0, 2), 0.3 * torch.eye(2)[None])
    )

    def __call__(self, x_t, t, cond, s=None):
        return Mean(1 + (1 - t) * 0.09 / variance(t) * (x_t - (1 - t)))


def test_a_grid_begins_late_where_it_is_known_what_data_are_like():
    def begin(process: Gaussian, t: float) -> torch.Tensor:
        return process.prior((64, 2), t, Rng.of(0, range(64)), torch.float64)

    times, late = teacher_times(1.0, 0.1, 100), []
    for process in (Gaussian(), Foreseen.process):
        teacher = teach(Foreseen(), times, [(partial(begin, process), Cond.empty(64))])
        assert teacher is not None
        late.append((float(teacher.begun[:-1].sqrt().max()), grids(teacher, [4])[4][0]))
    (plain, first), (known, after) = late
    assert known < 0.005 < 0.5 < plain, "the walk's own error is all that is left"
    assert after < 0.5 < first, late


def test_what_is_larger_than_an_example_begins_with_noise():
    """Of it less is expected, so the grid of an example is gone to from there."""
    model, config = release(TINY), SampleConfig(steps=3, searched=((0.8, 0.5, 0.1, 0.0),))
    for beyond, times in ((None, (0.8, 0.5, 0.1)), (extension(model.codec, length=8), (1.0, 0.8, 0.5, 0.1))):
        steps = walk(model, config, range(2), 0, Cond.empty(2), beyond=beyond)
        assert [float(step.t.max()) for step in steps] == pytest.approx(times)
