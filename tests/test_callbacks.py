"""Early stopping, and scikit-learn's callbacks on the embedder."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline

from skwsdhq import HypersphereEmbedder, ImageLoader, TagEnhancer, WSDHQuantizer, load
from skwsdhq.datasets import make_tagged_images
from skwsdhq.embedding._upgrade import parts_from_flat
from skwsdhq.losses import AdaptiveMargin
from skwsdhq.metrics import make_retrieval_scorer
from skwsdhq.training.stopping import ValidationStop, hold_out


@pytest.fixture(scope="module")
def made():
    return make_tagged_images(120, wrong=0.2, random_state=0)


def embedder(**parameters):
    defaults = {"hidden_layer_sizes": (16,), "max_iter": 12, "learning_rate": 0.01}
    given = {**defaults, "random_state": 0, **parameters}
    return HypersphereEmbedder(**parts_from_flat(given))


def test_stop_on_paper():
    stop = ValidationStop(n_iter_no_change=2, tol=0.1)
    losses = [1.0, 0.85, 0.80, 0.78]  # 0.80 and 0.78 fall by less than 0.1 below 0.85
    assert [stop.update(loss, lambda value=loss: value) for loss in losses] == [
        False, False, False, True,
    ]  # fmt: skip
    assert stop.best == 0.78
    stop = ValidationStop(n_iter_no_change=1, tol=0.0)
    assert [stop.update(loss, lambda value=loss: value) for loss in (1.0, 2.0)] == [False, True]
    assert stop.best == 1.0


def test_hold_out():
    tagged = np.arange(40) % 2 == 0
    held = hold_out(tagged, 0.25, np.random.RandomState(0))
    assert held.sum() == 5
    assert not held[~tagged].any()
    assert hold_out(tagged, 0.001, np.random.RandomState(0)).sum() == 1
    with pytest.raises(ValueError, match="leaves none of 2 tagged images"):
        hold_out(np.ones(2, dtype=bool), 0.9, np.random.RandomState(0))


def test_early_stopping_stops_and_takes_the_best_weights(made):
    model = embedder(early_stopping=True, n_iter_no_change=2, max_iter=200, tol=0.01)
    model.fit(made.data, made.tags)
    losses = model.history_["validation_loss"]
    assert model.n_iter_ == len(losses) == len(model.history_["loss"]) < 200
    best = int(np.argmin(losses)) + 1
    # A fit of so many epochs, of a rate that does not fall, ends with those weights.
    same = {"early_stopping": True, "n_iter_no_change": 1000, "learning_rate_decay": 1.0}
    longer = embedder(max_iter=best + 1, **same).fit(made.data, made.tags)
    shorter = embedder(max_iter=best, **same).fit(made.data, made.tags)
    if longer.history_["validation_loss"][-1] > min(longer.history_["validation_loss"][:-1]):
        assert_array_equal(longer.coefs_[0], shorter.coefs_[0])
    assert "validation_loss" not in embedder().fit(made.data, made.tags).history_


def test_held_out_rows_teach_nothing(made):
    seed = np.random.RandomState(0).randint(np.iinfo(np.int32).max)
    tagged = np.array([len(row) > 0 for row in made.tags])
    held = hold_out(tagged, 0.1, np.random.RandomState(seed))
    changed = made.data.copy()
    # Features of held rows swapped among themselves: the mean, which all rows have, is the same.
    changed[held] = made.data[held][::-1]
    options = {"early_stopping": True, "n_iter_no_change": 100, "max_iter": 3}
    first = embedder(**options).fit(made.data, made.tags)
    second = embedder(**options).fit(changed, made.tags)
    np.testing.assert_allclose(first.history_["loss"], second.history_["loss"], rtol=1e-5)
    assert first.history_["validation_loss"] != second.history_["validation_loss"]


def test_early_stopping_within_the_quantizer(made, tmp_path):
    model = WSDHQuantizer(
        embedder(early_stopping=True, n_iter_no_change=1, max_iter=60, tol=0.05),
        n_codewords=16,
        random_state=0,
    ).fit(made.data, made.tags)
    assert model.n_iter_ < 60
    model.save(tmp_path / "model")
    assert_array_equal(load(tmp_path / "model").encode(made.data), model.encode(made.data))


# --- scikit-learn's callbacks ---------------------------------------------------------------


class Recorder:
    """A callback that remembers, and stops after some epochs."""

    def __init__(self, stop_after=None):
        self.stop_after = stop_after
        self.events = []
        self.scores = []

    def setup(self, estimator, context):
        self.events.append("setup")

    def teardown(self, estimator, context):
        self.events.append("teardown")

    def on_fit_task_begin(self, estimator, context, *, X=None, y=None):
        self.events.append(("begin", context.task_name))

    def on_fit_task_end(self, estimator, context, *, X=None, y=None, fitted_estimator=None):
        self.events.append(("end", context.task_name))
        if context.task_name == "epoch" and fitted_estimator is not None:
            self.scores.append(fitted_estimator.transform(X[:2]))
        n_epochs = self.events.count(("end", "epoch"))
        return self.stop_after is not None and n_epochs >= self.stop_after


def test_callbacks_see_each_epoch_and_may_stop(made):
    pytest.importorskip("sklearn.callback")
    recorder = Recorder()
    model = embedder(max_iter=3).set_callbacks(recorder).fit(made.data, made.tags)
    epoch = [("begin", "epoch"), ("end", "epoch")]
    assert recorder.events == ["setup", ("begin", "fit"), *3 * epoch, ("end", "fit"), "teardown"]
    assert_array_equal(recorder.scores[-1], model.transform(made.data[:2]))
    assert not np.array_equal(recorder.scores[0], recorder.scores[1])
    plain = embedder(max_iter=3).fit(made.data, made.tags)
    assert_array_equal(plain.coefs_[0], model.coefs_[0])
    stopped = embedder(max_iter=9).set_callbacks(Recorder(stop_after=2)).fit(made.data, made.tags)
    assert stopped.n_iter_ == 2


def test_callbacks_are_told_of_the_end_of_a_fit_that_fails(made):
    pytest.importorskip("sklearn.callback")
    recorder = Recorder()
    with pytest.raises(ValueError, match="no tag remains"):
        embedder().set_callbacks(recorder).fit(made.data, [[]] * 120)
    assert recorder.events[-1] == "teardown"


def test_progress_bar_in_a_pipeline_and_a_search(made):
    callback = pytest.importorskip("sklearn.callback")
    pytest.importorskip("rich")
    last = WSDHQuantizer("passthrough", n_codewords=8, random_state=0)
    steps = [("images", ImageLoader()), ("embedder", embedder(max_iter=2)), ("quantizer", last)]
    model = Pipeline(steps)
    model.set_callbacks(callback.ProgressBar()).fit(made.data, made.tags)
    assert model[-1].codes_.shape == (120, 4)
    model = clone(model).set_callbacks()  # scikit-learn wants them on the outermost
    search = GridSearchCV(
        model, {"embedder__loss": [AdaptiveMargin(1.0), AdaptiveMargin(2.0)]}, cv=2
    )
    search.set_callbacks(callback.ProgressBar())
    search.fit(made.data, made.tags)


def test_every_step_of_a_pipeline_takes_them(made):
    pytest.importorskip("sklearn.callback")
    last = WSDHQuantizer("passthrough", n_codewords=8, random_state=0)
    for step, y in ((ImageLoader(), None), (last, None), (embedder(max_iter=1), made.tags)):
        recorder = Recorder()
        step.set_callbacks(recorder).fit(made.data, y)
        assert recorder.events[0] == "setup"
        assert recorder.events[-2:] == [("end", "fit"), "teardown"]


def joint(**parameters):
    return WSDHQuantizer(
        embedder(max_iter=4, random_state=None, **parameters),
        n_codebooks=2,
        n_codewords=8,
        random_state=0,
    )


def test_callbacks_see_the_epochs_of_joint_training_with_codes(made):
    pytest.importorskip("sklearn.callback")

    class Scores(Recorder):
        def on_fit_task_end(self, estimator, context, *, X=None, y=None, fitted_estimator=None):
            super().on_fit_task_end(estimator, context, X=X, y=y)
            if context.task_name == "epoch":
                assert fitted_estimator.codes_.shape == (120, 2)
                assert_array_equal(fitted_estimator.encode(X), fitted_estimator.codes_)
                self.scores.append(fitted_estimator.score(X, y))

    recorder = Scores()
    model = joint().set_callbacks(recorder).fit(made.data, made.tags)
    epoch = [("begin", "epoch"), ("end", "epoch")]
    assert recorder.events == ["setup", ("begin", "fit"), *4 * epoch, ("end", "fit"), "teardown"]
    assert recorder.scores[-1] == model.score(made.data, made.tags)
    assert len(set(recorder.scores)) > 1
    # Looking changes nothing.
    assert_array_equal(joint().fit(made.data, made.tags).codes_, model.codes_)
    stopped = joint().set_callbacks(Recorder(stop_after=2)).fit(made.data, made.tags)
    assert stopped.n_iter_ == 2
    assert_array_equal(stopped.encode(made.data), stopped.codes_)


def test_joint_training_keeps_the_loss_of_held_out_rows(made):
    model = joint(early_stopping=True).fit(made.data, made.tags)
    assert len(model.history_["validation_loss"]) == len(model.history_["loss"])


def test_callbacks_in_partial_fit(made):
    pytest.importorskip("sklearn.callback")
    frozen = FrozenEstimator(TagEnhancer().fit(made.tags))
    for model in (embedder(tag_enhancer=frozen), joint(tag_enhancer=frozen)):
        recorder = Recorder()
        model.set_callbacks(recorder).partial_fit(made.data, made.tags)
        model.partial_fit(made.data, made.tags)
        once = [
            "setup",
            ("begin", "fit"),
            ("begin", "epoch"),
            ("end", "epoch"),
            ("end", "fit"),
            "teardown",
        ]
        assert recorder.events == 2 * once


def _passthrough(estimator, X, y):
    return estimator.score(X, y)


def test_scoring_monitor_follows_the_score(made):
    callback = pytest.importorskip("sklearn.callback")
    # What check_scoring makes of one scorer it takes only by a name, as of 1.9.
    for scoring in ({"score": make_retrieval_scorer(top_k=10)}, {"score": _passthrough}):
        monitor = callback.ScoringMonitor(scoring=scoring)
        model = joint().set_callbacks(monitor).fit(made.data, made.tags)
        log = monitor.get_logs().data
        scores = [row["score"] for row in log if row["task_name"] == "epoch"]
        assert len(scores) == 4
        assert all(0 <= score <= 1 for score in scores)
        whole = [row["score"] for row in log if row["task_name"] == "fit"]
        assert whole == [scoring["score"](model, made.data, made.tags)]
    search = GridSearchCV(joint(), {"n_codebooks": [1, 2]}, cv=2)
    monitor = callback.ScoringMonitor(scoring={"score": _passthrough})
    search.estimator.set_callbacks(monitor)
    search.fit(made.data, made.tags)
    assert len(monitor.get_logs(select="all")) >= 1


def test_callbacks_stay_out_of_files(made, tmp_path):
    pytest.importorskip("sklearn.callback")
    model = embedder(max_iter=2).set_callbacks(Recorder()).fit(made.data, made.tags)
    model.save(tmp_path / "model")
    assert not hasattr(load(tmp_path / "model"), "_skl_callbacks")
