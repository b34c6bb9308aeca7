"""scikit-learn's searches and validations over our estimators, with X and tags in every form."""

import os

import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from reference.images import MeanColours
from scipy.stats import uniform
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    KFold,
    RandomizedSearchCV,
    cross_val_score,
    cross_validate,
    learning_curve,
)
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_html_repr

from skwsdhq import HypersphereEmbedder, ImageLoader, TagEnhancer, WSDHQuantizer
from skwsdhq.datasets import make_tagged_images
from skwsdhq.losses import AdaptiveMargin
from skwsdhq.metrics import make_retrieval_scorer
from skwsdhq.tags import check_tags, tags_to_lists


@pytest.fixture(scope="module")
def made():
    return make_tagged_images(96, wrong=0.1, missing=0.1, random_state=0)


def embedder(**parameters):
    defaults = {"hidden_layer_sizes": (16,), "max_iter": 3, "batch_size": 32, "random_state": 0}
    return HypersphereEmbedder(**{"loss": AdaptiveMargin(), **defaults, **parameters})


def small(first=None, **parameters):
    defaults = {"n_codebooks": 1, "n_codewords": 8, "codebook_iters": 2, "random_state": 0}
    return WSDHQuantizer(embedder() if first is None else first, **{**defaults, **parameters})


def pipeline(*, loader=None, enhancer=None, **parameters):
    return Pipeline(
        [
            ("images", loader or ImageLoader()),
            ("embedder", embedder(tag_enhancer=enhancer)),
            ("quantizer", small("passthrough")),
        ],
        **parameters,
    )


GRID = {"quantizer__n_codewords": [4, 8], "embedder__loss__gamma": [0.5, 1.0]}


# --- tags in every form ---------------------------------------------------------------------


def forms_of_tags(tags):
    indicator, names = check_tags(tags)
    array = np.empty(len(tags), dtype=object)
    array[:] = tags
    return {
        "lists": tags,
        "sets": [set(row) for row in tags],
        "tuples": [tuple(row) for row in tags],
        "Series": pd.Series(tags, index=range(1000, 1000 + len(tags))),
        "object array": array,
        "one tag each": [row[0] if row else "" for row in tags],
        "dense": indicator.toarray(),
        "data frame": pd.DataFrame(indicator.toarray(), columns=list(names)),
        "sparse": indicator,
    }


FORMS = (
    "lists", "sets", "tuples", "Series", "object array", "one tag each", "dense", "data frame",
    "sparse",
)  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_grid_search(made, form):
    tags = forms_of_tags(made.tags)[form]
    search = GridSearchCV(pipeline(), GRID, cv=2, error_score="raise").fit(made.data, tags)
    assert (search.cv_results_["mean_test_score"] > 0).all()
    codes = search.best_estimator_[-1].codes_
    assert codes.shape == (96, 1)
    # All forms that name the same tags give the same scores.
    if form in ("sets", "tuples", "Series", "object array", "data frame"):
        expected = GridSearchCV(pipeline(), GRID, cv=2).fit(made.data, made.tags)
        assert_allclose(
            search.cv_results_["mean_test_score"], expected.cv_results_["mean_test_score"]
        )


@pytest.mark.parametrize("form", FORMS)
def test_cross_validate_and_learning_curve(made, form):
    tags = forms_of_tags(made.tags)[form]
    if form == "sparse":  # scikit-learn refuses it there; this is the way round
        tags = tags_to_lists(tags)
    found = cross_validate(
        pipeline(), made.data, tags, cv=2, return_train_score=True, error_score="raise"
    )
    assert (found["test_score"] > 0).all()
    sizes, train, test = learning_curve(
        pipeline(), made.data, tags, cv=2, train_sizes=[0.5, 1.0], error_score="raise"
    )
    assert list(sizes) == [24, 48]
    assert train.shape == test.shape == (2, 2)
    assert (test > 0).all()


def test_folds_of_equal_length_and_unseen_tags():
    """Lists of equal length in a fold, and tags there that training never saw."""
    made = make_tagged_images(60, random_state=0)
    tags = [["one", "two", f"kind {kind}"] for kind in made.target]
    tags[:30] = [["unheard", "of", "these"]] * 30
    scores = cross_val_score(pipeline(), made.data, tags, cv=KFold(2), error_score="raise")
    assert (scores > 0).all()


# --- X in every form ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    kinds = np.arange(36) % 3
    colours = np.array([[220, 30, 30], [30, 220, 30], [30, 30, 220]])
    noise = rng.integers(-30, 31, size=(36, 12, 12, 3))
    images = (colours[kinds][:, None, None] + noise).astype(np.uint8)
    return images, [[("red", "green", "blue")[k], "small"][: 1 + k % 2] for k in kinds]


@pytest.mark.parametrize("form", ["array", "unequal", "paths", "path objects", "object array"])
@pytest.mark.parametrize("whole", [True, False], ids=["pipeline", "quantizer"])
def test_images(pictures, tmp_path, form, whole):
    images, tags = pictures
    X = images
    if form == "unequal":
        X = [image[: 12 - i % 3] for i, image in enumerate(images)]
    elif form != "array":
        X = [tmp_path / f"{i}.png" for i in range(36)]
        for path, image in zip(X, images, strict=True):
            Image.fromarray(image).save(path)
        if form != "path objects":
            X = [str(path) for path in X]
        if form == "object array":
            X = np.array(X, dtype=object)
    network = MeanColours(tmp_path / "trace")
    if whole:
        model = pipeline(loader=ImageLoader(network, size=8))
        grid = {"quantizer__n_codewords": [2, 4]}
    else:
        model = small(embedder(backbone=network))
        grid = {"n_codewords": [2, 4]}
    search = GridSearchCV(model, grid, cv=2, error_score="raise").fit(X, tags)
    assert search.best_score_ > 0.5
    assert search.transform(X[:3]).shape[0] == 3


def test_pipeline_memory_keeps_the_image_step(pictures, tmp_path):
    images, tags = pictures
    counts = {}
    for memory in (None, str(tmp_path / "cache")):
        network = MeanColours(tmp_path / f"trace {memory is None}")
        model = pipeline(loader=ImageLoader(network, size=8), memory=memory)
        GridSearchCV(model, GRID, cv=2, refit=False, error_score="raise").fit(images, tags)
        counts[memory is None] = network.n_images
    # 4 candidates by 2 folds train on 18 rows each (19 with the one that fit looks at); kept, 2.
    assert counts[True] - counts[False] == (8 - 2) * 19


# --- searches -------------------------------------------------------------------------------


def test_processes_give_the_same(made):
    one, two = (
        GridSearchCV(pipeline(), GRID, cv=2, n_jobs=n, error_score="raise").fit(
            made.data, made.tags
        )
        for n in (1, 2)
    )
    assert_allclose(one.cv_results_["mean_test_score"], two.cv_results_["mean_test_score"])
    assert one.best_params_ == two.best_params_
    assert_array_equal(one.best_estimator_[-1].codes_, two.best_estimator_[-1].codes_)


def test_two_processes_do_not_use_more_than_the_machine(made):
    def n_threads(estimator, X, y):  # local, so that it is sent by value to the processes
        import torch

        return torch.get_num_threads()

    scores = cross_val_score(small(), made.data, made.tags, cv=2, n_jobs=2, scoring=n_threads)
    assert (scores <= max(1, os.cpu_count() // 2)).all()


def test_randomized_search(made):
    search = RandomizedSearchCV(
        pipeline(),
        {"embedder__loss__gamma": uniform(0.5, 1), "quantizer__n_codewords": [4, 8]},
        n_iter=3,
        cv=2,
        random_state=0,
        error_score="raise",
    ).fit(made.data, made.tags)
    assert len(search.cv_results_["params"]) == 3
    assert 0.5 <= search.best_params_["embedder__loss__gamma"] <= 1.5


@pytest.mark.parametrize("resource", ["n_samples", "embedder__max_iter"])
def test_halving_search(made, resource):
    limits = {"n_samples": (32, 96), "embedder__max_iter": (1, 3)}[resource]
    search = HalvingGridSearchCV(
        pipeline(),
        {"embedder__loss__gamma": [0.5, 1.0, 1.5]},
        resource=resource,
        min_resources=limits[0],
        max_resources=limits[1],
        cv=2,
        random_state=0,
        error_score="raise",
    ).fit(made.data, made.tags)
    assert search.n_resources_ == [limits[0], limits[1]]
    assert np.isfinite(search.best_score_)


def test_several_metrics_and_refit(made):
    scoring = {"all": make_retrieval_scorer(), "top": make_retrieval_scorer(top_k=3)}
    search = GridSearchCV(pipeline(), GRID, cv=2, scoring=scoring, refit="top")
    search.fit(made.data, made.tags)
    assert {"mean_test_all", "mean_test_top"} <= set(search.cv_results_)
    assert search.score(made.data, made.tags) == scoring["top"](
        search.best_estimator_, made.data, made.tags
    )
    assert search.best_score_ == search.cv_results_["mean_test_top"].max()


def test_nested_parameters(made):
    grid = {
        "quantizer__embedder": ["passthrough"],
        "embedder__tag_enhancer__tau": [0.5, 0.9],
        "embedder__tag_enhancer": [TagEnhancer(made.word_vectors)],
    }
    search = GridSearchCV(pipeline(), grid, cv=2, error_score="raise").fit(made.data, made.tags)
    best = search.best_estimator_["embedder"]
    assert (
        best.tag_enhancer.tau
        == best.tag_enhancer_.tau
        == search.best_params_["embedder__tag_enhancer__tau"]
    )
    whole = small(embedder(tag_enhancer=TagEnhancer()))
    whole.set_params(embedder__tag_enhancer__tau=0.7, embedder__loss__gamma=2.0)
    assert whole.embedder.tag_enhancer.tau == 0.7
    assert {"embedder__loss__gamma", "embedder__tag_enhancer__eps"} <= set(whole.get_params())


def test_heavy_parameters_are_not_copied(made):
    network = torch.nn.Flatten()
    model = pipeline(loader=ImageLoader(network), enhancer=TagEnhancer(made.word_vectors))
    search = clone(GridSearchCV(model, GRID))
    assert search.estimator["images"].backbone is network
    assert search.estimator["embedder"].tag_enhancer.word_vectors is made.word_vectors


def test_frozen_parts_stay_as_they_are(made):
    enhancer = TagEnhancer().fit(made.tags)
    first = embedder(tag_enhancer=FrozenEstimator(enhancer)).fit(made.data, made.tags)
    weights = first.coefs_[0].copy()
    search = GridSearchCV(
        small(FrozenEstimator(first)), {"n_codewords": [4, 8]}, cv=2, error_score="raise"
    ).fit(made.data, made.tags)
    best = search.best_estimator_
    assert best.embedder_.estimator is first
    assert best.tag_enhancer_.estimator is enhancer
    assert_array_equal(first.coefs_[0], weights)


# --- composition ----------------------------------------------------------------------------


def test_feature_union_and_columns(made):
    union = FeatureUnion([("near", embedder()), ("plain", StandardScaler())])
    model = make_pipeline(union, small("passthrough"))
    rows = model.fit(made.data, made.tags)[0].transform(made.data)
    n_dims = model[0]["near"].tag_enhancer_.concept_vectors_.shape[1]
    assert rows.shape == (96, n_dims + made.data.shape[1])
    names = model[:1].get_feature_names_out()
    assert names[0] == "near__hypersphereembedder0"
    assert len(names) == rows.shape[1]
    assert (cross_val_score(model, made.data, made.tags, cv=2, error_score="raise") > 0).all()
    columns = ColumnTransformer([("left", embedder(), slice(0, 8)), ("right", "drop", [9])])
    assert columns.fit_transform(made.data, made.tags).shape == (96, n_dims)


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_frames(made, library):
    pytest.importorskip(library)
    plain = pipeline().fit(made.data, made.tags)
    framed = pipeline().set_output(transform=library).fit(made.data, made.tags)
    rows = framed.transform(made.data)
    assert type(rows).__module__.startswith(library)
    assert list(rows.columns) == list(framed.get_feature_names_out())
    # Frames lie in memory column by column, and products sum in another order.
    assert_allclose(np.asarray(rows), plain.transform(made.data), atol=1e-5)
    expected = pytest.approx(plain.score(made.data, made.tags), abs=1e-3)
    assert framed.score(made.data, made.tags) == expected
    embedded = framed[:-1].transform(made.data)
    before = plain[:-1].transform(made.data)
    assert (framed[-1].encode(embedded) == plain[-1].encode(before)).mean() > 0.95
    assert_allclose(
        framed[-1].kneighbors(embedded[:3], 4)[0],
        plain[-1].kneighbors(before[:3], 4)[0],
        atol=1e-4,
    )
    assert make_retrieval_scorer()(framed, made.data, made.tags) == expected
    whole = small().set_output(transform=library).fit(made.data, made.tags)
    assert_array_equal(whole.encode(made.data), small().fit(made.data, made.tags).codes_)
    frame = pd.DataFrame(made.data, columns=[f"x{k}" for k in range(made.data.shape[1])])
    assert list(small().fit(frame, made.tags).feature_names_in_) == list(frame.columns)


# --- looks ----------------------------------------------------------------------------------


def test_html_shows_the_parts_and_changes_nothing(made, capsys):
    model = pipeline(enhancer=TagEnhancer(made.word_vectors)).fit(made.data, made.tags)
    before = {name: sorted(vars(step)) for name, step in model.steps}
    for estimator in (model, small(), ImageLoader(), TagEnhancer()):
        html = estimator_html_repr(estimator)
        assert estimator_html_repr(estimator)
        assert type(estimator).__name__ in html
    html = estimator_html_repr(model)
    for name in ("ImageLoader", "HypersphereEmbedder", "TagEnhancer", "WSDHQuantizer"):
        assert name in html
    assert before == {name: sorted(vars(step)) for name, step in model.steps}
    assert capsys.readouterr().out == ""


def test_reprs_of_defaults_are_short():
    for estimator in (ImageLoader(), TagEnhancer(), HypersphereEmbedder(), WSDHQuantizer()):
        assert repr(estimator) == f"{type(estimator).__name__}()"
    assert sklearn.get_config()["print_changed_only"]


def test_tags_tell_the_truth():
    needs = {
        ImageLoader(): False,
        TagEnhancer(): False,
        HypersphereEmbedder(): True,
        WSDHQuantizer(): True,
        WSDHQuantizer("passthrough"): False,
        WSDHQuantizer("passthrough", tag_enhancer=TagEnhancer()): True,
    }
    for estimator, required in needs.items():
        assert estimator.__sklearn_tags__().target_tags.required == required
    assert TagEnhancer().__sklearn_tags__().input_tags.sparse
    assert not HypersphereEmbedder().__sklearn_tags__().input_tags.sparse
