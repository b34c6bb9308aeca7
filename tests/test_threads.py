"""Estimators that several threads use while another one fits them."""

import sys
import threading

import numpy as np
import pytest

from skwsdhq import HypersphereEmbedder, WSDHQuantizer
from skwsdhq.datasets import make_tagged_images
from skwsdhq.utils.estimators import fitted_at_once, snapshot


def data_sets():
    """Two sets of 32 and of 20 columns, whose models have nothing in common."""
    return [make_tagged_images(60, n_features=n, n_classes=3, random_state=n) for n in (32, 20)]


def quantizer():
    embedder = HypersphereEmbedder(hidden_layer_sizes=(8,), max_iter=1, random_state=0)
    return WSDHQuantizer(embedder, n_codebooks=2, n_codewords=4, codebook_iters=1, random_state=0)


def answers(model, X):
    """What a reader asks for, one call each."""
    yield "transform", model.transform(X)
    yield "encode", model.encode(X)
    yield "kneighbors", model.kneighbors(X, 5)[1]
    yield "embedder", model.embedder_.transform(X)
    yield "index", model.index().codes


def read_while_written(n_readers, n_fits):
    """Each answer is that of a whole model, old or new, or its refusal of other columns."""
    sets = data_sets()
    expected = []
    for made in sets:
        model = quantizer().fit(made.data, made.tags)
        expected.append(dict(answers(model, made.data)))
    model = quantizer().fit(sets[0].data, sets[0].tags)
    done, wrong, seen = threading.Event(), [], set()

    def read(number):
        made = sets[number % 2]
        while not done.is_set():
            calls = answers(model, made.data)
            while True:
                try:
                    name, answer = next(calls)
                except StopIteration:
                    break
                except ValueError as error:  # the model of the other set
                    if "features" not in str(error):
                        wrong.append(repr(error))
                    break
                except Exception as error:
                    wrong.append(repr(error))
                    break
                matches = [
                    i
                    for i, whole in enumerate(expected)
                    if whole[name].shape == answer.shape
                    and np.allclose(whole[name], answer, atol=1e-5)
                ]
                seen.update(matches)
                if not matches:
                    wrong.append(name)

    readers = [threading.Thread(target=read, args=(i,)) for i in range(n_readers)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    try:
        for reader in readers:
            reader.start()
        for i in range(n_fits):
            made = sets[(i + 1) % 2]
            model.fit(made.data, made.tags)
    finally:
        done.set()
        for reader in readers:
            reader.join()
        sys.setswitchinterval(interval)
    assert wrong == []
    return seen


def test_readers_see_whole_models():
    read_while_written(4, 12)


@pytest.mark.slow
def test_eight_readers_see_whole_models():
    assert read_while_written(8, 400) == {0, 1}


@pytest.mark.parametrize("n_threads", [8])
def test_threads_give_the_sequential_results(n_threads):
    made = data_sets()[0]
    model = quantizer().fit(made.data, made.tags)
    expected = dict(answers(model, made.data))
    wrong = []

    def read():
        for _ in range(10):
            for name, answer in answers(model, made.data):
                if not np.allclose(answer, expected[name], atol=1e-6):
                    wrong.append(name)

    threads = [threading.Thread(target=read) for _ in range(n_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_fit_that_fails_leaves_the_model_that_was_there(monkeypatch):
    first, second = data_sets()
    for model in (quantizer(), quantizer().embedder):
        model.fit(first.data, first.tags)
        before = dict(vars(model))
        bad = second.data.copy()
        bad[0, 0] = np.nan
        for X, y in [(bad, second.tags), (second.data, [[]] * 60), (second.data, None)]:
            with pytest.raises(ValueError, match=r"NaN|no tag|requires y"):
                model.fit(X, y)
            assert vars(model).keys() == before.keys()
            assert all(vars(model)[name] is value for name, value in before.items())
        assert model.transform(first.data).shape[0] == 60


def test_an_interrupted_first_epoch_leaves_the_model_that_was_there(monkeypatch):
    first, second = data_sets()
    model = quantizer().fit(first.data, first.tags)
    before = dict(vars(model))

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("skwsdhq.training.optimizer.Steps.step", interrupt)
    with pytest.raises(KeyboardInterrupt):
        model.fit(second.data, second.tags)
    assert all(vars(model)[name] is value for name, value in before.items())


def test_fitted_at_once():
    class Model:
        pass

    model = Model()
    model.a_, model.b_ = 1, 2
    with fitted_at_once(model) as twin:
        twin.a_, twin.c_ = 10, 30
        del twin.b_
        model.given_meanwhile = 5
        assert vars(model) == {"a_": 1, "b_": 2, "given_meanwhile": 5}
    assert vars(model) == {"a_": 10, "c_": 30, "given_meanwhile": 5}
    now = snapshot(model)
    model.a_ = 7
    assert now.a_ == 10
