"""The ask/tell contract, run over every search method."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coppice.errors import CoppiceError
from coppice.search import METHODS, Optimizer, make_optimizer
from coppice.search.optimizer import Float64s, State

pytestmark = pytest.mark.parametrize("method", METHODS)

Fitness = Callable[[Float64s], Float64s]


def arguments(**changes: Any) -> dict[str, Any]:
    """Arguments of a small search, for make_optimizer."""
    usual: dict[str, Any] = {
        "start": np.array([1.0, 2.5, 9.0]),
        "lower": 0.0,
        "upper": 10.0,
        "population": 4,
        "evaluations": 46,
        "sigma": None,
        "seed": (7, 3),
    }
    return usual | changes


def bowl(x: Float64s) -> Float64s:
    return np.asarray(((x - 6.5) ** 2).sum(axis=1))


def hardly_ever_feasible(x: Float64s) -> Float64s:
    """As in pruning: most solutions are infeasible and all look the same."""
    return np.asarray(np.where((x > 5).all(axis=1), x.mean(axis=1) / 10, 1.1))


def cliffs(x: Float64s) -> Float64s:
    """Values over the whole range of floats, of both signs."""
    size = np.floor(np.abs(np.sin(x * 12.9898).sum(axis=1)) * 1e4) % 309
    return np.asarray(np.where(np.cos(x.sum(axis=1) * 78.233) > 0, 1.0, -1.0) * 10.0**size)


def flat(x: Float64s) -> Float64s:
    return np.full(len(x), 1.1)


FITNESSES = (bowl, hardly_ever_feasible, cliffs, flat)


def run(search: Optimizer, fitness: Fitness) -> list[Float64s]:
    """Every generation from here to the end of the budget."""
    generations = []
    while not search.done:
        generations.append(search.ask())
        search.tell(fitness(generations[-1]))
    return generations


def assert_same(ours: list[Float64s], theirs: list[Float64s]) -> None:
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)


def through_a_file(state: State, path: Path) -> State:
    np.savez(path, **state)  # type: ignore[arg-type]
    with np.load(path, allow_pickle=False) as loaded:
        return dict(loaded)


def test_the_first_solution_is_start_and_shapes_are_as_promised(method: str) -> None:
    search = make_optimizer(method, **arguments())
    first = search.ask()
    assert first.shape == (4, 3)
    assert first.dtype == np.float64
    np.testing.assert_array_equal(first[0], [1.0, 2.5, 9.0])
    assert len(np.unique(first, axis=0)) == 4


def test_before_the_first_tell_there_is_no_best(method: str) -> None:
    search = make_optimizer(method, **arguments())
    search.ask()
    assert search.best_fitness == np.inf
    assert search.best_solution.shape == (3,)
    assert search.evaluations == 0
    assert not search.done


@pytest.mark.parametrize("fitness", FITNESSES)
def test_asking_again_before_telling_gives_the_same(method: str, fitness: Fitness) -> None:
    search = make_optimizer(method, **arguments())
    previous = None
    while not search.done:
        asked = search.ask()
        np.testing.assert_array_equal(search.ask(), asked)
        assert previous is None or not np.array_equal(previous, asked)  # and telling moves on
        search.tell(fitness(asked))
        previous = asked


def test_the_budget_is_met_exactly_and_the_last_generation_is_shortened(method: str) -> None:
    search = make_optimizer(method, **arguments())
    sizes = [len(generation) for generation in run(search, bowl)]
    assert sizes == [4] * 11 + [2]
    assert search.evaluations == 46
    assert search.done
    with pytest.raises(CoppiceError, match="used up"):
        search.ask()


def test_a_budget_below_one_generation(method: str) -> None:
    search = make_optimizer(method, **arguments(evaluations=3))
    assert [len(generation) for generation in run(search, bowl)] == [3]
    assert search.evaluations == 3


@pytest.mark.parametrize("fitness", FITNESSES)
def test_same_seed_same_run_and_another_seed_another(method: str, fitness: Fitness) -> None:
    def whole(seed: int | tuple[int, ...]) -> list[Float64s]:
        return run(make_optimizer(method, **arguments(seed=seed)), fitness)

    assert_same(whole((7, 3)), whole((7, 3)))
    assert_same(whole(5), whole((5,)))
    for other in ((3, 7), (7,), 7, (7, 3, 0), 7 + 3 * 2**32):
        assert not np.array_equal(whole((7, 3))[0], whole(other)[0])


def test_generations_do_not_repeat_their_randomness(method: str) -> None:
    """With everything equally good and nothing moving on purpose, draws still differ."""
    generations = run(make_optimizer(method, **arguments(evaluations=400)), flat)
    assert len(np.unique(np.concatenate(generations), axis=0)) == 400


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_search_stays_in_the_box_and_keeps_its_promises(method: str, data: st.DataObject) -> None:
    dimensions = data.draw(st.integers(1, 8), "dimensions")
    lower = data.draw(st.sampled_from([0.0, -5.0, 1e16, -1e100, 1e-100, -3e-300]), "lower")
    width = data.draw(st.sampled_from([10.0, 2.0, 0.1, 1e16, 1e-90, 1e99]), "width")
    upper = max(lower + width, float(np.nextafter(lower, np.inf)))
    where = data.draw(st.lists(st.floats(0, 1), min_size=dimensions, max_size=dimensions), "start")
    start = np.clip(lower + (upper - lower) * np.array(where), lower, upper)
    population = data.draw(st.integers(2, 13), "population")
    evaluations = data.draw(st.integers(1, 120), "evaluations")
    ratio = data.draw(st.sampled_from([None, 1e-9, 0.02, 0.5, 5.0, 1e3]), "sigma / width")
    sigma = None if ratio is None else min(ratio * (upper - lower), 1e100)
    seed = data.draw(st.integers(0, 2**70), "seed")
    fitness = data.draw(st.sampled_from(FITNESSES), "fitness")
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        search = make_optimizer(
            method,
            start=start,
            lower=lower,
            upper=upper,
            population=population,
            evaluations=evaluations,
            sigma=sigma,
            seed=seed,
        )
        told: list[tuple[Float64s, Float64s]] = []
        while not search.done:
            asked = search.ask()
            assert asked.shape == (min(population, evaluations - search.evaluations), dimensions)
            assert (asked >= lower).all()
            assert (asked <= upper).all()
            with np.errstate(all="ignore"):
                values = fitness(np.nan_to_num((asked - lower) / (upper - lower)) * 10)
            search.tell(values)
            told.append((asked, values))
            solutions = np.concatenate([solutions for solutions, _ in told])
            so_far = np.concatenate([values for _, values in told])
            assert search.evaluations == len(so_far) <= evaluations
            assert search.best_fitness == so_far.min()
            np.testing.assert_array_equal(search.best_solution, solutions[np.argmin(so_far)])
    np.testing.assert_array_equal(told[0][0][0], start)
    assert search.evaluations == evaluations


def test_of_equally_good_solutions_the_first_is_the_best(method: str) -> None:
    search = make_optimizer(method, **arguments())
    first = search.ask()
    search.tell(np.array([3.0, 2.0, 2.0, 5.0]))
    search.ask()
    search.tell(np.array([2.0, 2.0, 9.0, 9.0]))
    assert search.best_fitness == 2.0
    np.testing.assert_array_equal(search.best_solution, first[1])


@pytest.mark.parametrize("fitness", FITNESSES)
@pytest.mark.parametrize("asked_before", [False, True])
def test_saved_and_restored_at_every_generation_the_rest_is_identical(
    method: str, fitness: Fitness, asked_before: bool, tmp_path: Path
) -> None:
    search = make_optimizer(method, **arguments(evaluations=90))
    states, generations = [], []
    while not search.done:
        if asked_before:
            search.ask()
        states.append(through_a_file(search.state(), tmp_path / "state.npz"))
        generations.append(search.ask())
        search.tell(fitness(generations[-1]))
    assert len(states) == 23
    for number, state in enumerate(states):
        again = make_optimizer(method, **arguments(evaluations=90))
        again.restore(state)
        assert again.evaluations == 4 * number
        assert_same(run(again, fitness), generations[number:])
        assert again.best_fitness == search.best_fitness
        np.testing.assert_array_equal(again.best_solution, search.best_solution)
        assert {k: v.tobytes() for k, v in again.state().items()} == {
            k: v.tobytes() for k, v in search.state().items()
        }


def test_a_finished_search_is_restored_finished(method: str, tmp_path: Path) -> None:
    search = make_optimizer(method, **arguments())
    run(search, bowl)
    again = make_optimizer(method, **arguments())
    again.restore(through_a_file(search.state(), tmp_path / "state.npz"))
    assert again.done
    assert again.best_fitness == search.best_fitness


def test_restoring_takes_a_search_back(method: str) -> None:
    """Also the same object, and also when it had already gone on, or had asked."""
    search = make_optimizer(method, **arguments())
    search.tell(bowl(search.ask()))
    state = search.state()
    rest = run(search, bowl)
    search.restore(state)
    search.tell(bowl(search.ask()))
    search.ask()
    search.restore(state)
    assert_same(run(search, bowl), rest)


def test_the_callers_arrays_and_ours_are_not_shared(method: str) -> None:
    undisturbed = make_optimizer(method, **arguments())
    expected = run(undisturbed, bowl)
    start = arguments()["start"]
    search = make_optimizer(method, **arguments(start=start))
    start[:] = 0
    generations, fitness = [], np.empty(4)
    while not search.done:
        asked = search.ask()
        generations.append(asked.copy())
        asked[:] = 0
        values = fitness[: len(asked)]
        values[:] = bowl(generations[-1])
        search.tell(values)
        values[:] = 0
        for array in search.state().values():
            array.fill(0)
    assert_same(generations, expected)
    np.testing.assert_array_equal(search.best_solution, undisturbed.best_solution)
    for key, array in undisturbed.state().items():
        np.testing.assert_array_equal(search.state()[key], array)


def test_a_state_is_not_touched_by_the_search_that_was_restored_from_it(method: str) -> None:
    search = make_optimizer(method, **arguments())
    search.tell(bowl(search.ask()))
    state = search.state()
    before = {key: array.tobytes() for key, array in state.items()}
    other = make_optimizer(method, **arguments())
    other.restore(state)
    run(other, bowl)
    assert {key: array.tobytes() for key, array in state.items()} == before


def test_telling_what_was_not_asked(method: str) -> None:
    search = make_optimizer(method, **arguments())
    with pytest.raises(CoppiceError, match="before anything was asked"):
        search.tell(np.zeros(4))
    search.tell(bowl(search.ask()))
    with pytest.raises(CoppiceError, match="before anything was asked"):
        search.tell(np.zeros(4))
    assert search.evaluations == 4


@pytest.mark.parametrize(
    ("fitness", "says"),
    [
        (np.zeros(3), r"shape \(4,\)"),
        (np.zeros(5), r"shape \(4,\)"),
        (np.zeros((4, 1)), r"shape \(4,\)"),
        (np.float64(1.0), r"shape \(4,\)"),
        (np.array([1.0, 2.0, np.nan, 3.0]), "row 2 is nan"),
        (np.array([1.0, np.inf, 0.0, 3.0]), "row 1 is inf"),
        (np.array([-np.inf, 1.0, 0.0, 3.0]), "row 0 is -inf"),
        (np.array(["a", "b", "c", "d"]), "numbers"),
    ],
)
def test_refused_fitness_changes_nothing(method: str, fitness: Float64s, says: str) -> None:
    expected = run(make_optimizer(method, **arguments()), bowl)
    search = make_optimizer(method, **arguments())
    asked = search.ask()
    with pytest.raises(CoppiceError, match=says):
        search.tell(fitness)
    assert search.best_fitness == np.inf
    assert search.evaluations == 0
    search.tell(bowl(asked))  # the same generation still waits
    assert_same([asked, *run(search, bowl)], expected)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"start": np.array([[1.0, 2.0]])}, "start must have shape"),
        ({"start": np.float64(1.0)}, "start must have shape"),
        ({"start": np.array([])}, "start must have shape"),
        ({"start": np.array([1.0, 10.5])}, "inside"),
        ({"start": np.array([1.0, np.nan])}, "inside"),
        ({"start": "crates"}, "start must be an array of numbers"),
        ({"lower": 10.0}, "below upper"),
        ({"lower": 11.0}, "below upper"),
        ({"lower": np.nan}, "lower must be a finite number"),
        ({"upper": np.inf}, "upper must be a finite number"),
        ({"upper": np.array([1.0, 2.0, 3.0])}, "upper must be a finite number"),
        ({"upper": 1e101}, "not supported"),
        ({"population": 0}, "population must be at least"),
        ({"population": 2.5}, "population must be a whole number"),
        ({"evaluations": 0}, "evaluations must be at least 1"),
        ({"sigma": 0.0}, "sigma must be above 0"),
        ({"sigma": -1.0}, "sigma must be above 0"),
        ({"sigma": np.nan}, "sigma must be a finite number"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"seed": (1, 2.5)}, "seed must be a whole number"),
        ({"seed": "seven"}, "seed must be a whole number"),
    ],
)
def test_arguments_that_cannot_be_used(method: str, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(CoppiceError, match=says):
        make_optimizer(method, **arguments(**changes))


def test_an_unknown_method_is_answered_with_the_known_ones(method: str) -> None:
    with pytest.raises(CoppiceError, match=rf"'{method}s'.*ncs, cmaes, random"):
        make_optimizer(method + "s", **arguments())


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"start": np.array([1.0, 2.5, 9.5])}, "start"),
        ({"start": np.array([1.0, 2.5])}, "start"),
        ({"lower": -1.0}, "lower"),
        ({"upper": 11.0}, "upper"),
        ({"population": 5}, "population"),
        ({"evaluations": 47}, "evaluations"),
        ({"sigma": 1.0}, "sigma"),
        ({"seed": (7, 4)}, "seed"),
        ({"seed": 7, "upper": 11.0}, "seed, upper"),
    ],
)
def test_a_state_of_other_arguments_is_refused(method: str, changes: dict[str, Any], names: str) -> None:
    search = make_optimizer(method, **arguments())
    search.tell(bowl(search.ask()))
    other = make_optimizer(method, **arguments(**changes))
    with pytest.raises(CoppiceError, match=f"another {names};"):
        other.restore(search.state())


def test_a_state_of_another_method_is_refused(method: str) -> None:
    for theirs in set(METHODS) - {method}:
        state = make_optimizer(theirs, **arguments()).state()
        with pytest.raises(CoppiceError, match="method"):
            make_optimizer(method, **arguments()).restore(state)


def damaged(state: State) -> dict[str, State]:
    """States that cannot be right, by what was done to them."""
    found: dict[str, State] = {}
    for key, array in state.items():
        if array.shape == (0,):  # nothing told yet: nothing in it to damage
            continue
        found[f"{key} is missing"] = {k: v for k, v in state.items() if k != key}
        found[f"{key} has another dtype"] = state | {key: array.astype(np.float32)}
        found[f"{key} has another shape"] = state | {key: array[None]}
        if array.size > 1:
            found[f"{key} is cut"] = state | {key: array[:-1]}
        if array.dtype == np.float64 and array.size and key not in ("best_solution", "f"):
            found[f"{key} is not a number"] = state | {key: np.full_like(array, np.nan)}
    found["settings are no JSON"] = state | {"settings": np.frombuffer(b"{]", dtype=np.uint8)}
    found["settings are no text"] = state | {"settings": np.array([255, 254], dtype=np.uint8)}
    found["settings are no object"] = state | {"settings": np.frombuffer(b"[1]", dtype=np.uint8)}
    newer = json.dumps(json.loads(state["settings"].tobytes()) | {"format": 2}).encode()
    found["settings are of another format"] = state | {"settings": np.frombuffer(newer, dtype=np.uint8)}
    found["evaluations do not fit"] = state | {"evaluations": state["evaluations"] + 1}
    found["generation is negative"] = state | {
        "generation": np.array(-1),
        "evaluations": np.array(-4),
        "best_fitness": np.array(np.inf),
    }
    found["the best does not fit"] = state | {"best_fitness": np.where(state["generation"] > 0, np.inf, 1.0)}
    return found


@pytest.mark.parametrize("generations", [0, 3])
def test_a_damaged_state_is_refused_and_changes_nothing(method: str, generations: int) -> None:
    search = make_optimizer(method, **arguments())
    for _ in range(generations):
        search.tell(bowl(search.ask()))
    cases = damaged(search.state())
    assert len(cases) > 20
    search.tell(bowl(search.ask()))
    before = {key: array.tobytes() for key, array in search.state().items()}
    for what, state in cases.items():
        print(what)  # shown if this one is accepted
        with pytest.raises(CoppiceError, match="search state"):
            search.restore(state)
        assert {key: array.tobytes() for key, array in search.state().items()} == before, what


def test_a_state_holds_plain_arrays_only(method: str) -> None:
    search = make_optimizer(method, **arguments())
    for _ in range(2):
        for key, array in search.state().items():
            assert array.dtype in (np.float64, np.int64, np.uint8), key
        search.tell(bowl(search.ask()))
