"""make_retrieval_scorer: the score that a loop over folds gives, by tags or by clean labels."""

import copy
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from scipy import sparse
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score, cross_validate
from sklearn.pipeline import Pipeline

from skwsdhq import HypersphereEmbedder, WSDHQuantizer, codebooks
from skwsdhq.datasets import make_tagged_images
from skwsdhq.metrics import attach_labels, make_retrieval_scorer, mean_average_precision
from skwsdhq.search import CodeIndex


@pytest.fixture(scope="module")
def made():
    return make_tagged_images(120, wrong=0.3, missing=0.1, random_state=0)


def embedder():
    return HypersphereEmbedder(
        kernel_weight=0.0, hidden_layer_sizes=(16,), max_iter=4, learning_rate=3e-3, random_state=0
    )


@pytest.fixture(scope="module")
def quantizer(made):
    model = WSDHQuantizer(embedder(), n_codebooks=2, n_codewords=8, random_state=0)
    return model.fit(made.data, made.tags)


@pytest.fixture(scope="module")
def pipeline(made):
    last = WSDHQuantizer("passthrough", n_codebooks=2, n_codewords=8, random_state=0)
    return Pipeline([("embedder", embedder()), ("last", last)]).fit(made.data, made.tags)


def test_it_is_the_estimators_own_score(made, quantizer, pipeline):
    for model in (quantizer, pipeline, FrozenEstimator(quantizer)):
        own = model.score(made.data, made.tags)
        assert make_retrieval_scorer()(model, made.data, made.tags) == own
    weights = np.arange(120.0)
    assert make_retrieval_scorer()(quantizer, made.data, made.tags, weights) == quantizer.score(
        made.data, made.tags, sample_weight=weights
    )
    by_labels = make_retrieval_scorer(labels="attached")
    assert by_labels(
        quantizer, made.data, attach_labels(made.tags, made.target)
    ) == quantizer.score(made.data, None, labels=made.target)
    search = GridSearchCV(pipeline, {"last__n_codebooks": [2]}, cv=2).fit(made.data, made.tags)
    assert make_retrieval_scorer()(search, made.data, made.tags) == search.best_estimator_.score(
        made.data, made.tags
    )


def test_options_reach_the_metric(made, quantizer):
    rows = quantizer.transform(made.data)
    index = CodeIndex(quantizer.codebooks_, quantizer.encode(made.data))
    options = {"normalizer": "relevant", "zero_relevance": "zero", "ties": "expected"}
    expected = mean_average_precision(
        rows, index, made.target, made.target, top_k=7, exclude_self=True, **options
    )
    scorer = make_retrieval_scorer(top_k=7, **options)
    assert scorer(quantizer, made.data, made.target) == expected


def test_symmetric_and_exact(made, quantizer):
    decoded = quantizer.decode(quantizer.codes_)
    expected = mean_average_precision(
        decoded,
        CodeIndex(quantizer.codebooks_, quantizer.codes_),
        made.target,
        made.target,
        exclude_self=True,
    )
    symmetric = make_retrieval_scorer(asymmetric=False)
    assert symmetric(quantizer, made.data, made.target) == expected
    assert expected != make_retrieval_scorer()(quantizer, made.data, made.target)
    rows = quantizer.transform(made.data)
    expected = mean_average_precision(rows, rows, made.target, made.target, exclude_self=True)
    assert make_retrieval_scorer()(quantizer.embedder_, made.data, made.target) == expected


def test_a_database_of_its_own(made, quantizer, pipeline):
    X, rest = made.data[:30], made.data[30:]
    index = CodeIndex(quantizer.codebooks_, quantizer.encode(rest))
    expected = mean_average_precision(
        quantizer.transform(X), index, made.target[:30], made.target[30:]
    )
    scorer = make_retrieval_scorer(database=(rest, made.target[30:]))
    assert scorer(quantizer, X, made.target[:30]) == expected
    attached = make_retrieval_scorer(database=(rest, made.target[30:]), labels="attached")
    assert attached(quantizer, X, attach_labels(made.tags[:30], made.target[:30])) == expected
    by_tags = make_retrieval_scorer(database=(rest, made.tags[30:]))
    assert 0 < by_tags(pipeline, X, made.tags[:30]) < 1


@pytest.mark.parametrize(
    ("form", "n_jobs"),
    [
        ("lists", 1),
        ("sets", 1),
        ("series", 1),
        ("object array", 1),
        ("dense", 1),
        ("sparse", 1),
        ("lists", 2),
    ],
)
def test_clean_labels_through_cross_validation(made, form, n_jobs):
    """Every fold fits on its noisy tags, and is judged by its own rows' clean labels."""
    from skwsdhq.tags import check_tags

    indicator, names = check_tags(made.tags)
    array = np.empty(120, dtype=object)
    array[:] = made.tags
    tags = {
        "lists": made.tags,
        "sets": [set(row) for row in made.tags],
        "series": pd.Series(made.tags),
        "object array": array,
        "dense": pd.DataFrame(indicator.toarray(), columns=list(names)),
        "sparse": indicator,
    }[form]
    cv = KFold(3, shuffle=True, random_state=0)
    model = WSDHQuantizer(embedder(), n_codebooks=1, n_codewords=8, random_state=0)
    scores = cross_val_score(
        model,
        made.data,
        attach_labels(tags, made.target),
        cv=cv,
        scoring=make_retrieval_scorer(labels="attached"),
        n_jobs=n_jobs,
    )
    plain = made.tags
    if form == "sparse":  # whose columns are named by number
        plain = attach_labels(indicator, made.target)
    for score, (train, test) in zip(scores, cv.split(made.data), strict=True):
        fold = clone(model).fit(made.data[train], [plain[i] for i in train])
        assert score == pytest.approx(
            fold.score(made.data[test], None, labels=made.target[test]), abs=1e-12
        )


def test_several_metrics_by_name(made):
    scoring = {
        "tags": make_retrieval_scorer(),
        "labels": make_retrieval_scorer(labels="attached"),
        "first": make_retrieval_scorer(labels="attached", top_k=5),
    }
    y = attach_labels(made.tags, made.target)
    model = WSDHQuantizer(embedder(), n_codebooks=1, n_codewords=8, random_state=0)
    found = cross_validate(model, made.data, y, cv=2, scoring=scoring, error_score="raise")
    assert {"test_tags", "test_labels", "test_first"} <= set(found)
    assert len({float(found[f"test_{name}"].mean()) for name in scoring}) == 3
    search = GridSearchCV(model, {"n_codewords": [2, 8]}, cv=2, scoring=scoring, refit="labels")
    assert search.fit(made.data, y).best_params_ == {"n_codewords": 8}


class Halve:
    """A function of (X, y) that processes can share."""

    def __call__(self, X, y):
        return (np.asarray(X)[:, 0] > 0).astype(int)


def test_labels_by_path_and_by_function(made, quantizer):
    by_function = make_retrieval_scorer(labels=Halve())
    expected = quantizer.score(made.data, None, labels=(made.data[:, 0] > 0).astype(int))
    assert by_function(quantizer, made.data, made.tags) == expected

    class Paths:  # an embedder of paths
        def transform(self, X):
            return np.array([[1.0, 0.0] if "a" in str(path) else [0.0, 1.0] for path in X])

    labels = {"a1": 0, "a2": 0, "b1": 1, "b2": 1}
    scorer = make_retrieval_scorer(labels=labels)
    assert scorer(Paths(), list(labels)) == 1
    assert scorer(Paths(), [Path("a1"), Path("a2"), Path("b1")]) == 1
    assert scorer(Paths(), pd.Series(["b2", "b1"])) == 1
    with pytest.raises(ValueError, match="labels have none for 'c'"):
        scorer(Paths(), ["c"])
    with pytest.raises(ValueError, match="needs X to be paths"):
        scorer(quantizer, made.data, made.tags)


@pytest.mark.parametrize("form", ["classes", "strings", "lists", "dense", "sparse", "series"])
def test_attached_labels_in_every_form(made, quantizer, form):
    target = np.asarray(made.target)
    dense = np.eye(target.max() + 1, dtype=int)[target]
    labels = {
        "classes": target,
        "strings": [f"c{t}" for t in target],
        "lists": [[f"c{t}"] for t in target],
        "dense": dense,
        "sparse": sparse.csr_array(dense),
        "series": pd.Series(target),
    }[form]
    y = attach_labels(made.tags, labels)
    assert [sorted(row) for row in y] == [sorted(set(row)) for row in made.tags]
    score = make_retrieval_scorer(labels="attached")(quantizer, made.data, y)
    assert score == quantizer.score(made.data, None, labels=target)
    for twin in (pickle.loads(pickle.dumps(y)), copy.deepcopy(y)):
        assert np.array_equal(twin[3].labels, y[3].labels)


def test_pickles_and_reprs():
    scorer = pickle.loads(pickle.dumps(make_retrieval_scorer(top_k=3, labels=Halve())))
    assert scorer.top_k == 3
    assert repr(scorer) == "make_retrieval_scorer(top_k=3, labels='Halve')"
    longer = make_retrieval_scorer(labels="attached", asymmetric=False, database=([], []))
    assert repr(longer) == (
        "make_retrieval_scorer(top_k=5000, labels='attached', database=..., asymmetric=False)"
    )


def test_bad_input(made, quantizer):
    with pytest.raises(ValueError, match=r"got ndarray\. An array can't be split with a fold"):
        make_retrieval_scorer(labels=np.arange(3))
    with pytest.raises(ValueError, match="got 'target'"):
        make_retrieval_scorer(labels="target")
    with pytest.raises(ValueError, match="database should be"):
        make_retrieval_scorer(database=made.data)
    with pytest.raises(ValueError, match="ties"):
        make_retrieval_scorer(ties="random")
    with pytest.raises(ValueError, match="top_k"):
        make_retrieval_scorer(top_k=0)
    with pytest.raises(ValueError, match=r"y has none; make y = metrics\.attach_labels"):
        make_retrieval_scorer(labels="attached")(quantizer, made.data, made.tags)
    with pytest.raises(ValueError, match="judges by y, which is None"):
        make_retrieval_scorer()(quantizer, made.data)
    with pytest.raises(ValueError, match="2 rows of tags but 1 of labels"):
        attach_labels([["a"], ["b"]], [1])
    with pytest.raises(TypeError, match="an entry a row; got str"):
        attach_labels([["a"], ["b"]], "ab")
    assert attach_labels([], []) == []


def test_no_rows_are_copied_by_decoding(made, quantizer):
    # The symmetric score is that of decoded codes on both sides.
    rows = codebooks.decode(quantizer.codes_, quantizer.codebooks_)
    exact = mean_average_precision(rows, rows, made.target, made.target, exclude_self=True)
    symmetric = make_retrieval_scorer(asymmetric=False)(quantizer, made.data, made.target)
    assert_allclose(symmetric, exact, atol=0.02)  # rounding may order equal rows otherwise
