"""Indexes that threads share, that are interrupted, and what surrounds a search."""

import copy
import itertools
import os
import pickle
import sys
import threading
import time

import numpy as np
import pytest
import torch

from skwsdhq.codebooks import decode, encode, learn_codebooks
from skwsdhq.search import CodeIndex, InvertedCodeIndex
from skwsdhq.search import _rows as _search_rows

N_WORDS = 16
BATCH = 40  # rows that the writer adds or removes at once
WIDTH = 12  # batches that are there at a time


@pytest.fixture
def frequent_switches():
    """Let threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def codebooks_and_queries():
    """Small integers, whose sums are exact whatever their order."""
    rng = np.random.default_rng(0)
    codebooks = rng.integers(-4, 5, (3, N_WORDS, 6)).astype("f4")
    return codebooks, rng.integers(-4, 5, (7, 6)).astype("f4")


def codes_of(ids):
    """The code that a row of this id has, in every generation."""
    ids = np.asarray(ids)
    return np.stack([ids * 7 % N_WORDS, ids // N_WORDS * 5 % N_WORDS, ids * 11 % 13], axis=1)


def batch(number):
    return np.arange(number * BATCH, (number + 1) * BATCH)


class Shared:
    """One index, a writer of whole batches, and readers that judge what they find by its id.

    At any moment the index holds the batches ``first`` to ``last``, WIDTH or WIDTH + 1 of them.
    """

    def __init__(self, engine):
        self.codebooks, self.queries = codebooks_and_queries()
        ids = np.concatenate([batch(b) for b in range(WIDTH)])
        self.index = CodeIndex(self.codebooks, codes_of(ids), ids=ids, engine=engine)
        self.done = threading.Event()
        self.failures = []

    def write(self, more):
        """Add a batch behind and remove the first one, while more() says so."""
        try:
            for first in itertools.count():
                if not more(first):
                    return
                new = batch(first + WIDTH)
                self.index.add(codes_of(new), ids=new)
                self.index.remove(batch(first))
        except BaseException as error:
            self.failures.append(error)
        finally:
            self.done.set()

    def read(self, number):
        """Search in turns of several ways until the writer is done."""
        try:
            seen = 0
            for turn in itertools.count(number):
                is_last = self.done.is_set()
                seen = self.check(turn, seen)
                if is_last:
                    return
        except BaseException as error:
            self.failures.append(error)
            self.done.set()

    def check(self, turn, seen):
        """Raise unless the index is whole, and no older than what was seen; return its first id."""
        index, queries = self.index, self.queries[turn % 5 : turn % 5 + 1 + turn % 2 * 5]
        way = turn % 6
        if way == 5:
            arrays = index.to_numpy()
            assert (arrays["codes"] == codes_of(arrays["ids"])).all()
            return self.check_ids(arrays["ids"], seen)
        if way == 4:
            copied = pickle.loads(pickle.dumps(index))
            assert (copied.codes == codes_of(copied.ids)).all()
            return self.check_ids(copied.ids, seen)
        if way == 0:
            starts, similarities, ids = index.range_search(queries, -np.inf)
            found = [slice(*ends) for ends in itertools.pairwise(starts)]
            found = [(similarities[part], ids[part]) for part in found]
        elif way == 1:
            found = zip(
                *index.search(queries, 10_000, n_codebooks=1, shortlist=10_000), strict=True
            )
        else:
            found = zip(*index.search(queries, 10_000), strict=True)
        for query, (similarities, ids) in zip(queries, found, strict=True):
            codes = codes_of(ids)
            decoded = sum(self.codebooks[m][codes[:, m]] for m in range(3))
            np.testing.assert_array_equal(similarities, decoded @ query)
            seen = self.check_ids(ids, seen)
        return seen

    def check_ids(self, ids, seen):
        first, last = ids.min() // BATCH, ids.max() // BATCH
        assert (np.sort(ids) == np.arange(first * BATCH, (last + 1) * BATCH)).all()
        assert last - first + 1 in (WIDTH, WIDTH + 1)
        assert ids.min() >= seen
        return ids.min()

    def run(self, more, n_readers=8):
        readers = [
            threading.Thread(target=self.read, args=(number,)) for number in range(n_readers)
        ]
        threads = [*readers, threading.Thread(target=self.write, args=(more,))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self.failures:
            raise self.failures[0]


@pytest.mark.parametrize("engine", ["auto", "buckets", "scan", "pairs", "numpy", "faiss"])
def test_searches_see_whole_operations(engine, frequent_switches):
    Shared(engine).run(lambda n_done: n_done < 25)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["auto", "pairs"])
def test_searches_see_whole_operations_for_long(engine, frequent_switches):
    end = time.monotonic() + 10
    Shared(engine).run(lambda _: time.monotonic() < end)


def test_writers_wait_for_each_other(frequent_switches):
    codebooks, _ = codebooks_and_queries()
    index = CodeIndex(codebooks, codes_of([]).reshape(0, 3))
    failures = []

    def write(number):
        try:
            for part in np.split(np.arange(number * 200, (number + 1) * 200), 20):
                index.add(codes_of(part), ids=part)
                index.remove(part[::2])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert sorted(index.ids) == list(range(1, 1600, 2))
    assert (index.codes == codes_of(index.ids)).all()


def test_an_engine_of_old_codes_is_not_kept_for_new_ones(monkeypatch):
    codebooks, queries = codebooks_and_queries()
    index = CodeIndex(codebooks, codes_of(range(50)), engine="buckets")
    build = _search_rows.build_engine

    def add_meanwhile(*arguments):
        monkeypatch.undo()
        index.add(codes_of(range(50, 90)))  # as another thread would
        return build(*arguments)

    monkeypatch.setattr(_search_rows, "build_engine", add_meanwhile)
    assert index.search(queries, 1000)[1].shape == (7, 50)
    similarities, ids = index.search(queries, 1000)
    fresh = CodeIndex(codebooks, codes_of(range(90))).search(queries, 1000)
    np.testing.assert_array_equal(ids, fresh[1])
    np.testing.assert_array_equal(similarities, fresh[0])


def test_an_inverted_file_is_shared(frequent_switches):
    shared = Shared("auto")
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(WIDTH * BATCH, 6)).astype("f4")
    inverted = InvertedCodeIndex(shared.index, 20, vectors=vectors, random_state=0)
    queries = rng.normal(size=(70, 6)).astype("f4")
    expected = inverted.search(queries, 9, n_probe=3)
    failures, built = [], []

    def read():
        try:
            for _ in range(6):
                found = inverted.search(queries, 9, n_probe=3)
                for ours, theirs in zip(found, expected, strict=True):
                    np.testing.assert_array_equal(ours, theirs)
        except BaseException as error:
            failures.append(error)

    def build():
        try:
            for seed in range(6):
                built.append(InvertedCodeIndex(shared.index, 5, n_iter=2, random_state=seed))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=read) for _ in range(8)]
    threads += [threading.Thread(target=build)]
    threads += [threading.Thread(target=shared.write, args=(lambda n_done: n_done < 40,))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures + shared.failures
    for other in built:  # of an index that grew and shrank meanwhile: of one moment all the same
        similarities, ids = other.search(shared.queries, 10_000)
        for query, own, values in zip(shared.queries, ids, similarities, strict=True):
            shared.check_ids(own, 0)
            codes = codes_of(own)
            decoded = sum(shared.codebooks[m][codes[:, m]] for m in range(3))
            np.testing.assert_array_equal(values, decoded @ query)


# -- interruptions -------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("change", ["add", "add with ids", "remove"])
def test_what_is_interrupted_has_changed_nothing_or_all(change, error):
    codebooks, queries = codebooks_and_queries()
    changes = {
        "add": lambda index: index.add(codes_of(range(30, 34))),
        "add with ids": lambda index: index.add(codes_of([90, 95]), ids=[90, 95]),
        "remove": lambda index: index.remove([3, 29, 4]),
    }
    before = CodeIndex(codebooks, codes_of(range(30)))
    after = changes[change](copy.deepcopy(before))
    n_interrupted = 0
    for place in itertools.count():
        index = copy.deepcopy(before)
        index.search(queries, 3)
        left = place

        def interrupt(frame, event, _):
            nonlocal left
            if "skwsdhq" not in frame.f_code.co_filename:
                return None
            if event == "line":
                if left == 0:
                    raise error
                left -= 1
            return interrupt

        previous = sys.gettrace()
        sys.settrace(interrupt)
        try:
            changes[change](index)
        except error:
            n_interrupted += 1
        else:
            break
        finally:
            sys.settrace(previous)
        assert index.ids.tolist() in (before.ids.tolist(), after.ids.tolist())
        assert (index.codes == codes_of(index.ids)).all()
        whole = index.search(queries, 1000)
        for ours, theirs in zip(
            whole,
            CodeIndex(codebooks, index.codes, ids=index.ids).search(queries, 1000),
            strict=True,
        ):
            np.testing.assert_array_equal(ours, theirs)
        # It goes on living, and a number that was given is not given again.
        assert index.add(codes_of([5])).ids[-1] in (30, 34, 96)
    assert n_interrupted > 10


# -- processes and copies ------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of forks while threads run
def test_a_fork_while_another_thread_writes_can_write():
    codebooks, _ = codebooks_and_queries()
    index = CodeIndex(codebooks, codes_of(range(9)))
    index._writing.acquire()  # as a thread that is just adding
    child = []

    def fork():
        process = os.fork()
        if process == 0:
            is_free = index._writing.acquire(blocking=False)
            os._exit(0 if is_free else 1)
        child.append(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))

    thread = threading.Thread(target=fork)
    thread.start()
    thread.join()
    index._writing.release()
    assert child == [0]


def test_copies_live_on_their_own():
    codebooks, queries = codebooks_and_queries()
    index = CodeIndex(codebooks, codes_of(range(9)))
    for other in (copy.copy(index), copy.deepcopy(index), pickle.loads(pickle.dumps(index))):
        other.add(codes_of([9]))
        assert len(other) == 10
        assert len(index) == 9
        index.search(queries, 3)
    short = index.prefix(2)
    short.add(codes_of([9])[:, :2])
    assert len(index.prefix(2)) == 9
    for array in (index.codes, index.ids, index.codebooks):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def test_worker_processes_search_the_same():
    from joblib import Parallel, delayed

    codebooks, queries = codebooks_and_queries()
    index = CodeIndex(codebooks, codes_of(range(500)), ids=np.arange(500) * 2)
    parallel = Parallel(n_jobs=2, max_nbytes=100)  # which maps the arrays into the workers
    # A function of this module would not be found there: tests are no package that is installed.
    for found in parallel(delayed(index.search)(queries, 4) for _ in range(2)):
        for ours, theirs in zip(found, index.search(queries, 4), strict=True):
            np.testing.assert_array_equal(ours, theirs)


# -- what surrounds a search ---------------------------------------------------------------------


def everything():
    """What searches and encoding give, of integers whose sums are exact in float32 alone."""
    rng = np.random.default_rng(0)
    codebooks = rng.integers(-99, 100, (4, 16, 8)).astype("f4")
    codes = rng.integers(0, 16, (9000, 4))
    queries = rng.integers(-99, 100, (12, 8)).astype("f4")
    results = []
    for engine in ("auto", "buckets", "scan", "pairs", "faiss", "numpy"):
        index = CodeIndex(codebooks, codes, engine=engine)
        for asked in (queries, queries[:2]):
            results += [*index.search(asked, 10), *index.range_search(asked, 40_000.0)]
    vectors = decode(codes[:400], codebooks) + rng.integers(-20, 20, (400, 8)).astype("f4")
    for beam_size in (None, 3):
        results.append(encode(vectors, codebooks, beam_size=beam_size, random_state=0))
    inverted = InvertedCodeIndex(index, 10, random_state=0)
    results += inverted.search(queries, 5, n_probe=10)
    # What is learned of sums that round is as good as ever.
    learned, learned_codes = learn_codebooks(vectors, 2, 16, n_iter=4, random_state=0)
    error = ((vectors - decode(learned_codes, learned)) ** 2).mean() / vectors.var()
    residual = InvertedCodeIndex(CodeIndex(codebooks, codes[:400]), 10, vectors=vectors)
    return results, error, (index, residual, queries)


def check_everything(found, expected):
    for ours, theirs in zip(found[0], expected[0], strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
    assert found[1].dtype == np.float32
    np.testing.assert_allclose(found[1], expected[1], rtol=0.02)
    # What was made in one place works in another.
    index, residual, queries = found[2]
    index.add(index.codes[:3])
    np.testing.assert_array_equal(index.search(queries, 5)[0][:, 0], expected[0][0][:, 0])
    similarities, ids = residual.search(queries, 5, n_probe=10)
    assert similarities.dtype == residual.codebooks.dtype == np.float32
    assert (ids >= 0).all()


@pytest.mark.parametrize(
    "surround",
    [
        lambda: torch.autocast("cpu", dtype=torch.bfloat16),
        torch.inference_mode,
        lambda: torch.set_grad_enabled(False),
        lambda: torch.device("meta"),
    ],
    ids=["autocast", "inference", "no gradient", "device"],
)
def test_contexts_of_torch_change_nothing(surround):
    expected = everything()
    with surround():
        found = everything()
        check_everything(found, expected)
    check_everything(everything(), expected)
    np.testing.assert_array_equal(found[2][0].search(found[2][2], 10)[0].max(), found[0][0].max())


def test_settings_of_torch_change_nothing():
    expected = everything()
    dtype, n_threads = torch.get_default_dtype(), torch.get_num_threads()
    for setting in (torch.float64, 1, 2, 3):
        try:
            if isinstance(setting, int):
                torch.set_num_threads(setting)
            else:
                torch.set_default_dtype(setting)
            found = everything()
        finally:
            torch.set_default_dtype(dtype)
            torch.set_num_threads(n_threads)
        check_everything(found, expected)
