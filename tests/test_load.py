"""Models under load: many threads, processes and fits."""

import gc
import multiprocessing
import threading
import time
import tracemalloc

import numpy as np
import pytest
from joblib import Parallel, delayed

from skwsdhq import HypersphereEmbedder, TagEnhancer, TagKernelRegressor, WSDHQuantizer
from skwsdhq.datasets import make_tagged_images

MADE = make_tagged_images(200, random_state=0)
X = MADE.data.astype(np.float32)


@pytest.fixture(scope="module")
def model():
    embedder = HypersphereEmbedder(hidden_layer_sizes=(32,), max_iter=3, random_state=0)
    return WSDHQuantizer(embedder, n_codebooks=2, n_codewords=16, random_state=0).fit(X, MADE.tags)


def answers(model, rows):
    """What a model says of some rows, by each of its methods."""
    names, scores = model.suggest_tags(X[rows], 3)
    similarities, neighbours = model.kneighbors(X[rows], 5)
    by_words, _ = model.kneighbors_of_tags(["c2_t0"], 5)
    return [
        model.transform(X[rows]),
        similarities,
        by_words,
        scores,
        model.encode(X[rows]),
        neighbours,
        names,
    ]


def same(found, expected):
    """Numbers are equal to within rounding, codes and names without."""
    for ours, theirs in zip(found, expected, strict=True):
        if ours.dtype.kind == "f":
            np.testing.assert_allclose(ours, theirs, atol=1e-5)
        else:
            np.testing.assert_array_equal(ours, theirs)


PARTS = [slice(start, start + 25) for start in range(0, 200, 25)]


def under_load(model, rounds):
    """Ask from eight threads at once, and compare each answer with that of one thread."""
    expected = [answers(model, part) for part in PARTS]
    errors = []
    begin = threading.Barrier(len(PARTS))

    def ask(i):
        try:
            begin.wait(60)
            for _ in rounds():
                same(answers(model, PARTS[i]), expected[i])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(PARTS))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def test_threads_get_what_one_thread_gets(model):
    under_load(model, lambda: range(3))


@pytest.mark.slow
def test_threads_for_a_minute(model):
    under_load(model, lambda: range(3))
    before = resident()

    def rounds():
        end = time.monotonic() + 60
        while time.monotonic() < end:
            yield

    under_load(model, rounds)
    assert resident() < 1.02 * before


def resident():
    """Bytes of this process that are in memory."""
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


def _in_a_child(model, i, found):
    found.put((i, answers(model, PARTS[i])))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("turn", range(3))
def test_forks_get_what_the_parent_gets(model, turn):
    under_load(model, lambda: range(1))  # threads have come and gone
    context = multiprocessing.get_context("fork")
    found = context.Queue()
    children = [context.Process(target=_in_a_child, args=(model, i, found)) for i in range(2)]
    try:
        for child in children:
            child.start()
        told = [found.get(timeout=60) for _ in children]
    finally:
        for child in children:
            child.kill()
            child.join()
    for i, told_of in told:
        same(told_of, answers(model, PARTS[i]))


def test_workers_get_what_the_parent_gets(model):
    # Methods of the package's: a worker need not find this file, and may not.
    asked = [
        (getattr(model, name), (X[part], *more))
        for part in PARTS[:2]
        for name, more in [
            ("transform", ()),
            ("encode", ()),
            ("kneighbors", (5,)),
            ("suggest_tags", (3,)),
        ]
    ]
    told = Parallel(n_jobs=2)(delayed(method)(*given) for method, given in asked)
    for (method, given), found in zip(asked, told, strict=True):
        expected = method(*given)
        together = isinstance(found, tuple)
        same(found if together else [found], expected if together else [expected])


def leak(n_fits, n_first):
    """Bytes that fits leave behind, each on average."""
    tiny = make_tagged_images(24, random_state=1)

    def fit(seed):
        embedder = TagKernelRegressor(TagEnhancer(), random_state=seed)
        WSDHQuantizer(embedder, n_codebooks=1, n_codewords=4, random_state=seed).fit(
            tiny.data, tiny.tags
        )

    for seed in range(n_first):  # caches fill
        fit(seed)
    gc.collect()
    tracemalloc.start()
    try:
        fit(0)
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        for seed in range(n_fits):
            fit(seed)
        gc.collect()
        return (tracemalloc.get_traced_memory()[0] - before) / n_fits
    finally:
        tracemalloc.stop()


def test_fits_leave_nothing_behind():
    # Less than one array of such a model; what Python's own caches hold differs.
    assert leak(8, 6) < 9000
    n_objects = len(gc.get_objects())
    assert leak(8, 0) < 9000
    assert len(gc.get_objects()) < n_objects + 100


@pytest.mark.slow
@pytest.mark.timeout(1800)  # a busy machine takes a multiple of the minutes of an idle one
def test_two_thousand_fits_leave_nothing_behind():
    before = resident()
    assert leak(2000, 100) < 100
    assert resident() < before + (64 << 20)
