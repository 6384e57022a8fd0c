"""Every name goes there and back; whatever is not written exactly as we write it is not ours."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coppice.work import names
from coppice.work.names import Claimed, GenerationId, Scored, SolutionId, Waiting

quick = settings(deadline=None, max_examples=60)

RUNS = st.text("0123456789abcdef", min_size=8, max_size=8)
NUMBERS = st.integers(0, 999_999_999)
ATTEMPTS = st.integers(1, 9999)
WORKERS = st.from_regex(rf"\A{names.WORKER}\Z")
GENERATIONS = st.builds(GenerationId, RUNS, NUMBERS, NUMBERS)
IDS = st.builds(SolutionId, GENERATIONS, NUMBERS)
FINITE = st.floats(allow_nan=False, allow_infinity=False)


def last(path: str) -> str:
    return path.rpartition("/")[2]


@quick
@given(IDS)
def test_solution_and_fit_files_go_there_and_back(id_: SolutionId) -> None:
    for name in (id_.solution_file, id_.fit_file):
        assert names.parse_solution(name) == id_
        assert names.is_own(name)


@quick
@given(GENERATIONS)
def test_a_generation_goes_there_and_back(generation: GenerationId) -> None:
    assert names.parse_generation(last(generation.folder)) == generation
    assert generation.solutions_file == f"{names.GENERATIONS}/{generation}/solutions.npy"


@quick
@given(NUMBERS, ATTEMPTS, WORKERS)
def test_waiting_and_claimed_go_there_and_back(index: int, attempt: int, worker: str) -> None:
    for token in (Waiting(index, attempt), Claimed(index, attempt, worker)):
        assert names.parse_token(token.name) == token


@quick
@given(NUMBERS, ATTEMPTS, FINITE, FINITE, WORKERS)
def test_a_score_goes_there_and_back_to_the_bit(
    index: int, attempt: int, fitness: float, accuracy: float, worker: str
) -> None:
    score = Scored(index, attempt, fitness, accuracy, worker)
    parsed = names.parse_token(score.name)
    assert parsed == score
    assert isinstance(parsed, Scored)
    assert parsed.fitness is not None
    assert math.copysign(1, parsed.fitness) == math.copysign(1, fitness)


@quick
@given(NUMBERS, ATTEMPTS, WORKERS)
def test_a_solution_set_aside_goes_there_and_back(index: int, attempt: int, worker: str) -> None:
    score = Scored(index, attempt, None, None, worker)
    assert names.parse_token(score.name) == score


@quick
@given(FINITE)
def test_a_score_from_numpy_has_the_same_name_as_from_python(value: float) -> None:
    ours = Scored(3, 1, value, value, "host-1-abcd")
    theirs = Scored(3, 1, np.float64(value), np.float64(value), "host-1-abcd")
    assert theirs.name == ours.name
    assert names.parse_token(theirs.name) == ours


@quick
@given(NUMBERS)
def test_weights_rounds_and_histories_go_there_and_back(number: int) -> None:
    assert names.parse_weights(names.weights(number)) == number
    assert names.is_own(names.weights(number))
    assert names.parse_round(last(names.round_record(number))) == number
    assert names.parse_history(last(names.history(number))) == number


@quick
@given(st.lists(IDS, unique=True, max_size=8))
def test_no_two_solutions_share_a_file(ids: list[SolutionId]) -> None:
    files = [name for id_ in ids for name in (id_.solution_file, id_.fit_file)]
    assert len(set(files)) == len(files)


ID = "0123abcd_s0001_g0002_i03"


@pytest.mark.parametrize(
    "name",
    [
        f"solution_{ID}",
        f"solution_{ID}.npy.tmp",
        f"Solution_{ID}.npy",
        f" solution_{ID}.npy",
        f"solution_{ID}.npy\n",
        f"solution_{ID}_t1.npy",
        "solution_0123abcd_s0001_g0002_i003.npy",
        "solution_0123abcd_s00001_g0002_i03.npy",
        "solution_0123abcd_s١٢٣٤_g0002_i03.npy",  # digits to \d and int(), but not what we write
        "solution_0123ABCD_s0001_g0002_i03.npy",
        "solution_0123abc_s0001_g0002_i03.npy",
        "solution_000001.npy",
        f"fit_solution_{ID}_t2.npy",
        "fit_solution_0123abcd_s0001_g0002_i003.npy",
        "weights_s00001.safetensors",
        "weights_s1.safetensors",
        "weights_s0001.safetensors.part",
        "thesis.pdf",
        "",
    ],
)
def test_what_is_not_written_as_we_write_it_is_foreign(name: str) -> None:
    assert names.parse_solution(name) is None
    assert names.parse_weights(name) is None
    assert not names.is_own(name)


@pytest.mark.parametrize(
    "name",
    [
        "i03_waiting",  # a token always carries its try
        "i03_t0_waiting",
        "i03_t01_waiting",
        "i03_t99999_waiting",
        "i3_t1_waiting",
        "i003_t1_waiting",
        "i03_t1_waiting_by_w",
        "i03_t1_claimed",
        "i03_t1_claimed_by_",
        "i03_t01_claimed_by_w",
        "i03_t1_claimed_by_a.b",
        f"i03_t1_claimed_by_{'w' * 81}",
        "i03_t1_claimed_by_wörker",
        "i03_t1_fnan_a0.9_by_w",
        "i03_t1_finf_a0.9_by_w",
        "i03_t1_f0.5_anan_by_w",
        "i03_t1_f1e999_a0.9_by_w",
        "i03_t1_f0.5_a-1e999_by_w",
        "i03_t1_f0.5_a_by_w",
        "i03_t1_a0.5_by_w",
        "i03_t1_f1.2.3_a0.9_by_w",
        "i03_t1_f--1_a0.9_by_w",
        "i03_t1_f0x1p3_a0.9_by_w",
        "i03_t1_f" + "1" * 40 + "_a0.9_by_w",
        "i3_t1_f0.5_a0.9_by_w",
        "i003_t1_f0.5_a0.9_by_w",
        "i٠٣_t1_f0.5_a0.9_by_w",
        "i03_t1_aside",
        "i03_t1_None_by_w",
        "solutions.npy",
    ],
)
def test_what_is_no_token_is_not_taken_for_one(name: str) -> None:
    assert names.parse_token(name) is None


@quick
@given(NUMBERS, ATTEMPTS, FINITE, WORKERS)
def test_a_score_without_accuracy_goes_there_and_back(
    index: int, attempt: int, fitness: float, worker: str
) -> None:
    score = Scored(index, attempt, fitness, None, worker)
    assert names.parse_token(score.name) == score


def test_a_score_may_be_written_in_other_words_than_ours() -> None:
    """An evaluator in another language writes its numbers as it likes."""
    assert names.parse_token("i03_t1_f5e-1_a0.90_by_w") == Scored(3, 1, 0.5, 0.9, "w")


@quick
@given(st.text(max_size=60))
def test_any_text_is_taken_or_left_but_never_an_error(name: str) -> None:
    for parse in (
        names.parse_solution,
        names.parse_token,
        names.parse_generation,
        names.parse_weights,
        names.parse_round,
        names.parse_history,
    ):
        parse(name)
    names.is_own(name)


def test_the_names_that_users_know_stay_as_they_are() -> None:
    """The files of the original four jobs, see the issue and docs/protocol.md."""
    id_ = GenerationId("0123abcd", 1, 2).solution(3)
    assert id_.solution_file == "solution_0123abcd_s0001_g0002_i03.npy"
    assert id_.fit_file == "fit_solution_0123abcd_s0001_g0002_i03.npy"
    for name in (
        "new_itr.txt",
        "report.txt",
        "ncs_start.txt",
        "ncs_over.txt",
        "crates_list.npy",
        "data.npy",
        "accuracy.npy",
        "run.json",
    ):
        assert names.is_own(name)


def test_the_listings_in_the_documentation_are_of_files_that_we_know() -> None:
    """docs/protocol.md shows real listings; a name that changes must change there too."""
    page = (Path(__file__).parents[2] / "docs/protocol.md").read_text()
    listed = re.findall(r"^    \d\d:\d\d:\d\d +\d+  (\S+)$", page, flags=re.MULTILINE)
    listed += re.findall(r" /shared/work/(\S+)$", page, flags=re.MULTILINE)
    assert len(listed) > 40
    for path in listed:
        top, _, rest = path.partition("/")
        assert names.is_own(top), path
        if top == names.GENERATIONS and rest:
            folder, _, name = rest.partition("/")
            assert names.parse_generation(folder) is not None, path
            assert name == names.SOLUTIONS or names.parse_token(name) is not None, path
        if top == names.ROUNDS and rest:
            assert names.parse_round(rest) is not None, path
        if top == names.HISTORY and rest:
            assert names.parse_history(rest) is not None, path
