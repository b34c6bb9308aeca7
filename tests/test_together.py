"""Parts of a fit that threads share: their order, their errors, and results that stay the same."""

import itertools
import threading

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse

from skwsdhq import codebooks
from skwsdhq.codebooks import _encode
from skwsdhq.embedding import _kernel, _solving, _sums
from skwsdhq.embedding._fitting import fit_regression
from skwsdhq.losses import _hinge
from skwsdhq.sphere import normalize_rows
from skwsdhq.training import linear, network, optimizer
from skwsdhq.utils import together as _together
from skwsdhq.utils.compiled import kernels
from skwsdhq.utils.threads import one_openmp_thread
from skwsdhq.utils.together import parts_of, sharing, together, whole_product

TIMEOUT_S = 60  # of what would otherwise wait for ever


@pytest.fixture
def with_threads(monkeypatch):
    """Call a function where so many threads are free."""

    def call(n_threads, function):
        monkeypatch.setattr(_together, "n_free_threads", lambda: n_threads)
        with sharing(), one_openmp_thread("torch"):
            return function()

    return call


def same_with_all(with_threads, function):
    """What a function gives, which is the same to the last bit for every number of threads."""
    with one_openmp_thread("torch"):
        expected = function()
    for n_threads in (1, 2, 5):
        for found, array in zip(with_threads(n_threads, function), expected, strict=True):
            assert_array_equal(found, array)
    return expected


# --- calls ----------------------------------------------------------------------------------


def test_calls_are_made_side_by_side_and_answered_in_order(with_threads):
    barrier = threading.Barrier(3)

    def call(number):
        barrier.wait(TIMEOUT_S)  # for two others
        return number, threading.current_thread()

    calls = [lambda number=number: call(number) for number in range(3)]
    answers = with_threads(3, lambda: together(calls))
    assert [number for number, _ in answers] == [0, 1, 2]
    assert len({thread for _, thread in answers}) == 3
    for _, thread in answers:
        if thread is not threading.current_thread():  # they end with the context
            thread.join(TIMEOUT_S)
            assert not thread.is_alive()


@pytest.mark.parametrize("n_threads", [1, 4])
def test_the_first_error_is_raised_when_all_calls_are_done(with_threads, n_threads):
    done = []

    def call(number):
        if number in (2, 5):
            raise ValueError(f"call {number}")
        done.append(number)

    calls = [lambda number=number: call(number) for number in range(8)]
    with pytest.raises(ValueError, match="call 2"):
        with_threads(n_threads, lambda: together(calls))
    if n_threads > 1:
        assert sorted(done) == [0, 1, 3, 4, 6, 7]


def test_without_a_context_calls_are_the_callers_own(monkeypatch):
    monkeypatch.setattr(_together, "n_free_threads", lambda: 4)
    threads = together([threading.current_thread] * 5)
    assert set(threads) == {threading.current_thread()}


@pytest.mark.parametrize("gains", [True, False])
def test_short_jobs_have_help_where_they_gain_by_it(gains):
    crew = _together._Crew(1)
    crew._is_short = True
    crew._rates = {gains: 1e6, not gains: 0.5}  # far more than some jobs can take from it
    for _ in range(5):
        assert crew.made([lambda: 1, lambda: 2, lambda: 3]) == [1, 2, 3]
    assert bool(crew._threads) is gains
    crew.close()


def test_the_other_way_is_tried_now_and_then():
    crew = _together._Crew(1)
    crew._is_short, crew._rates = True, {True: 1.0, False: 0.5}
    wanted = [crew._wants_help() for _ in range(2 * _together._EVERY)]
    assert wanted.count(False) == 2
    crew._is_short = False  # a long job is always shared
    crew._rates = {True: 0.5, False: 1.0}
    assert all(crew._wants_help() for _ in range(2 * _together._EVERY))


def test_calls_within_calls_stay_in_their_thread(with_threads):
    barrier = threading.Barrier(2)

    def outer():
        barrier.wait(TIMEOUT_S)
        inner = together([threading.current_thread] * 3)
        return threading.current_thread(), inner

    answers = with_threads(2, lambda: together([outer, outer]))
    for thread, inner in answers:
        if thread is not threading.current_thread():
            assert set(inner) == {thread}


def test_a_context_within_another_ends_nothing(with_threads):
    def call():
        with sharing():
            pass
        barrier = threading.Barrier(2)
        return together([lambda: barrier.wait(TIMEOUT_S)] * 2)

    assert sorted(with_threads(2, call)) == [0, 1]


def test_each_thread_works_on_one_of_openmp(with_threads):
    barrier = threading.Barrier(3)

    def call():
        barrier.wait(TIMEOUT_S)
        return torch.get_num_threads()

    before = torch.get_num_threads()
    assert with_threads(3, lambda: together([call] * 3)) == [1, 1, 1]
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("n", [0, 1, 7, 64, 65, 1000])
def test_parts_are_all_numbers(n):
    for n_parts, multiple in itertools.product((0, 1, 2, 4, 9), (1, 8, 64)):
        parts = parts_of(n, n_parts, multiple)
        assert [i for part in parts for i in range(part.start, part.stop)] == list(range(n))
        assert len(parts) <= max(1, n_parts)
        assert all(part.start % multiple == 0 for part in parts)


# --- what is divided ------------------------------------------------------------------------


def positive_definite(m, seed=0):
    rows = normalize_rows(np.random.RandomState(seed).standard_normal((m, 5)))
    return _kernel.rbf_kernel(rows, rows, 2.0)


@pytest.mark.parametrize("m", [1, 63, 64, 200, 257])
def test_systems_are_solved_by_blocks(with_threads, monkeypatch, m):
    monkeypatch.setattr(_solving, "_SIDE", 64)
    kernel, diagonal = positive_definite(m), np.linspace(0.5, 1, m)
    right = np.random.RandomState(1).standard_normal((m, 7))

    def solve():
        factor = _solving.cholesky(kernel, diagonal)
        half = _solving.solved_by_factor(factor, torch.from_numpy(right))
        whole = _solving.solved_by_factor(factor, half, transposed=True)
        return factor, _solving.solved(right, factor), whole, _solving.inverse_diagonal(factor)

    factor, solved, whole, diagonal_of_inverse = same_with_all(with_threads, solve)
    matrix = kernel + np.diag(diagonal)
    assert_allclose(factor, np.linalg.cholesky(matrix), atol=1e-5)
    assert_allclose(solved, np.linalg.solve(matrix, right), atol=1e-5)
    assert_allclose(whole, solved, atol=1e-9)
    assert_allclose(diagonal_of_inverse, np.diag(np.linalg.inv(matrix)), atol=1e-5)


def test_a_matrix_without_a_factor_is_told(monkeypatch):
    monkeypatch.setattr(_solving, "_SIDE", 4)
    with pytest.raises(RuntimeError, match="positive-definite"):
        _solving.factored(torch.from_numpy(-np.eye(9)))


def test_regressions_are_the_same_with_all_threads(with_threads, monkeypatch):
    for module, name, size in [
        (_solving, "_SIDE", 16), (_sums, "_BLOCK", 100), (_sums, "_MAPPED_ROWS", 16),
        (_sums, "_GRAM_COLUMNS", 16), (_kernel, "_BLOCK", 32),
    ]:  # fmt: skip
        monkeypatch.setattr(module, name, size)
    random = np.random.RandomState(0)
    units = normalize_rows(random.standard_normal((300, 12)).astype(np.float32))
    vectors = normalize_rows(random.standard_normal((9, 6)).astype(np.float32))
    indicator = sparse.csr_array((random.random_sample((300, 9)) < 0.2).astype(np.float32))

    def fit(max_landmarks):
        found = fit_regression(
            units, indicator, vectors, gamma=2.0, alpha="auto", consistency="auto",
            max_landmarks=max_landmarks, random_state=np.random.RandomState(0),
        )  # fmt: skip
        embeddings = _kernel.kernel_embeddings(units, found.landmarks, found.coefs, 2.0)
        return found.coefs, found.noise, embeddings

    same_with_all(with_threads, lambda: fit(80))
    same_with_all(with_threads, lambda: fit(300))


def test_a_layer_in_parts_is_a_layer(with_threads, monkeypatch):
    random = np.random.RandomState(0)
    x = random.standard_normal((33, 50)).astype(np.float32)
    pull = torch.from_numpy(random.standard_normal((33, 37)).astype(np.float32))

    def run():
        layer = linear.DividedLinear(50, 37)
        with torch.no_grad():
            drawn = np.random.RandomState(1).standard_normal((37, 51)).astype(np.float32)
            layer.weight.copy_(torch.from_numpy(drawn[:, 1:]))
            layer.bias.copy_(torch.from_numpy(drawn[:, 0]))
        inputs = torch.from_numpy(x.copy()).requires_grad_()
        out = layer(inputs)
        (out * pull).sum().backward()
        return out.detach(), layer.weight.grad, layer.bias.grad, inputs.grad

    whole = run()  # too small to be divided
    monkeypatch.setattr(linear, "_PAYS", 0)
    for found, expected in zip(same_with_all(with_threads, run), whole, strict=True):
        assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("is_divided", [False, True])
def test_adam_moves_parts_of_a_matrix_as_it_moves_the_whole(with_threads, monkeypatch, is_divided):
    monkeypatch.setattr(optimizer, "_LARGE", 0 if is_divided else 1 << 30)
    kind = {"learning_rate": 0.1, "factor": lambda step: 0.9**step, "max_norm": 5.0}

    def begin(make):
        random = np.random.RandomState(0)
        shapes = (40, 7), (7,), (3, 40), ()
        given = [torch.from_numpy(np.asarray(random.standard_normal(s), "f")) for s in shapes]
        parameters = [torch.nn.Parameter(one) for one in given]
        return parameters, make(parameters)

    def learn(parameters, steps, n_steps):
        for _ in range(n_steps):
            steps.zero_grad()
            sum((p - 1).square().sum() for p in parameters[:3]).backward()  # the last has none
            steps.step()

    def divided():
        groups = lambda own: [(own[:2], 1.0, 0.1), (own[2:], 2.0, 0.0)]  # noqa: E731
        parameters, steps = begin(lambda own: optimizer.Steps(groups(own), **kind))
        learn(parameters, steps, 3)
        state = steps.state()
        # Another one goes on from there.
        steps = optimizer.Steps(groups(parameters), **kind)
        steps.restore(state, n_scheduled=3)
        learn(parameters, steps, 2)
        state = steps.state()
        assert state["n_steps"] == 5
        return [p.detach().clone() for p in parameters] + state["means"] + state["squares"]

    found = same_with_all(with_threads, divided)
    parameters, adam = begin(
        lambda own: torch.optim.AdamW(
            [
                {"params": own[:2], "lr": 0.1, "weight_decay": 0.1},
                {"params": own[2:], "lr": 0.2, "weight_decay": 0.0},
            ]
        )
    )
    for step in range(5):
        for group, rate in zip(adam.param_groups, (0.1, 0.2), strict=True):
            group["lr"] = rate * 0.9**step
        adam.zero_grad()
        sum((p - 1).square().sum() for p in parameters[:3]).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 5.0)
        adam.step()
    means = [adam.state[p]["exp_avg"] if p in adam.state else torch.zeros(()) for p in parameters]
    for one, other in zip(found, [*parameters, *means], strict=False):
        assert_allclose(one, other.detach(), atol=1e-5)


def test_rows_go_through_a_network_in_blocks(with_threads, monkeypatch):
    monkeypatch.setattr(network, "_ROWS", 16)
    random = np.random.RandomState(0)
    X = random.standard_normal((100, 8)).astype(np.float32)
    arrays = [
        (random.standard_normal((a, b)).astype(np.float32), np.ones(b, np.float32))
        for a, b in ((8, 6), (6, 4))
    ]
    (found,) = same_with_all(with_threads, lambda: [network.forward(X, arrays)])
    hidden = np.maximum(X @ arrays[0][0] + 1, 0)
    assert_allclose(found, np.tanh(hidden @ arrays[1][0] + 1), atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"beam_size": 4}, {"length_weight": 1.0}])
def test_codes_are_the_same_with_all_threads(with_threads, monkeypatch, options):
    rows = np.random.RandomState(0).standard_normal((500, 8)).astype(np.float32)
    books = np.random.RandomState(1).standard_normal((3, 16, 8)).astype(np.float32)
    whole = codebooks.encode(rows, books, random_state=0, **options)
    monkeypatch.setattr(_encode, "CHUNK_SIZE", 1)  # 32 rows
    for table_size in (0, 1 << 26):
        monkeypatch.setattr(_encode, "TABLE_SIZE", table_size)
        (codes,) = same_with_all(
            with_threads, lambda: [codebooks.encode(rows, books, random_state=0, **options)]
        )
        assert (codes == whole).mean() > 0.99


def test_products_are_the_same_with_all_threads(with_threads, monkeypatch):
    monkeypatch.setattr(_together, "_PAYS", 1)
    random = np.random.RandomState(0)
    a, b = random.standard_normal((45, 6)), random.standard_normal((6, 11))
    (found,) = same_with_all(with_threads, lambda: [whole_product(a, b)])
    assert_allclose(found, a @ b, atol=1e-12)
    assert whole_product(a[:0], b).shape == (0, 11)


# --- hinges that numba makes ----------------------------------------------------------------


def hinges(random, n=40, n_concepts=67):
    counts = np.sort(random.randint(1, 5, n))[::-1].copy()
    first = np.cumsum(counts) - counts
    own = np.concatenate([random.permutation(n_concepts)[:count] for count in counts])
    similarities = random.uniform(-1, 1, (n, n_concepts)).astype(np.float32)
    positive = similarities[np.repeat(np.arange(n), counts), own]
    similarities[np.repeat(np.arange(n), counts), own] = -np.inf
    margin = random.uniform(0, 1, (n_concepts, n_concepts)).astype(np.float32)
    return similarities, positive, margin, own, None, counts, first


@pytest.mark.parametrize("n_concepts", [5, 16, 67, 200])
def test_numba_makes_the_hinges_of_numpy(with_threads, monkeypatch, n_concepts):
    compiled = pytest.importorskip("skwsdhq.losses._compiled")
    monkeypatch.setattr(_hinge, "_PAYS", 1000)
    given = hinges(np.random.RandomState(0), n_concepts=n_concepts)

    def count(is_compiled):
        monkeypatch.setattr(_hinge, "_asked", _hinge._MIN_ASKED if is_compiled else -(1 << 62))
        sums = given[0].copy()
        return sums, *_hinge._count_active(sums, *given[1:])

    expected = same_with_all(with_threads, lambda: count(False))
    calls = []
    kept = compiled.count_active
    monkeypatch.setattr(compiled, "count_active", lambda *args: calls.append(1) or kept(*args))
    found = same_with_all(with_threads, lambda: count(True))
    for one, other in zip(found, expected, strict=True):
        assert_array_equal(one, other)
    assert calls
    assert kernels("skwsdhq.losses._compiled") is compiled


@pytest.mark.parametrize("is_compiled", [False, True])
def test_what_is_no_number_is_seen(monkeypatch, is_compiled):
    pytest.importorskip("numba")
    monkeypatch.setattr(_hinge, "_asked", _hinge._MIN_ASKED if is_compiled else -(1 << 62))
    similarities, *rest = hinges(np.random.RandomState(0))
    similarities[3, 1] = np.nan
    _hinge._count_active(similarities, *rest)
    assert np.isnan(similarities[3, 1])
    assert np.isfinite(np.delete(similarities.ravel(), 3 * similarities.shape[1] + 1)).all()
