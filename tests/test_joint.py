"""A quantizer and an embedder that is not ours learn together, through public seams alone."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV

from skwsdhq import HypersphereEmbedder, TagEnhancer, TagKernelRegressor, WSDHQuantizer
from skwsdhq.datasets import make_tagged_images
from skwsdhq.embedding import Companion
from skwsdhq.embedding._training import EmbedderTraining
from skwsdhq.sphere import normalize_rows


@pytest.fixture(scope="module")
def made():
    return make_tagged_images(120, random_state=0)


class Linear(TransformerMixin, BaseEstimator):
    """One linear layer, pulled to the mean of an image's concepts: somebody else's embedder."""

    def __init__(self, max_iter=6, rate=0.5, random_state=None):
        self.max_iter = max_iter
        self.rate = rate
        self.random_state = random_state

    def start_training(self, X, y, *, companion=None, resume=None):
        goes_on = resume is not None and hasattr(self, "weights_")
        enhancer = self.tag_enhancer_ if goes_on else TagEnhancer().fit(y)
        targets = normalize_rows(enhancer.transform(y) @ enhancer.concept_vectors_)
        weights = np.zeros((X.shape[1], targets.shape[1])) if not goes_on else self.weights_
        weights = torch.tensor(weights, dtype=torch.float32, requires_grad=True)
        rows, goal = torch.tensor(np.asarray(X, "f4")), torch.tensor(np.asarray(targets, "f4"))
        if companion is not None:
            companion.start(enhancer.concept_vectors_)
        return Steps(self, enhancer, weights, rows, goal, companion, resume)

    def fit(self, X, y):
        training = self.start_training(X, y)
        list(training)
        vars(self).update(training.attributes())
        return self

    def transform(self, X):
        return normalize_rows(np.asarray(X, "f4") @ self.weights_)


class Steps:
    def __init__(self, embedder, enhancer, weights, rows, goal, companion, resume):
        self.enhancer, self.weights, self.rows, self.goal = enhancer, weights, rows, goal
        self.embedder, self.companion, self.resume = embedder, companion, resume
        self.seen = []

    def __iter__(self):
        for epoch in range(1 if self.resume == "partial" else self.embedder.max_iter):
            outputs = self.rows @ self.weights
            loss = ((outputs - self.goal) ** 2).mean()
            penalty = None
            if self.companion is not None:
                penalty = self.companion.penalty(outputs, np.arange(len(self.rows)))
            (loss if penalty is None else loss + penalty).backward()
            with torch.no_grad():
                self.weights -= self.embedder.rate * self.weights.grad
                self.weights.grad = None
            figures = {"loss": float(loss.detach())}
            if self.companion is not None:
                figures |= self.companion.after_epoch(
                    epoch + 1, lambda: (self.rows @ self.weights.detach()).numpy()
                )
            self.seen.append(figures)
            yield figures

    def attributes(self):
        weights = self.weights.detach().numpy().copy()
        return {"weights_": weights, "tag_enhancer_": self.enhancer, "n_iter_": len(self.seen)}


def quantizer(embedder, **parameters):
    given = {"n_codebooks": 2, "n_codewords": 8, "random_state": 0, **parameters}
    return WSDHQuantizer(embedder, **given)


def test_it_trains_along_with_codes(made):
    model = quantizer(Linear(), quantization_weight=1.0).fit(made.data, made.tags)
    apart = quantizer(FrozenEstimator(Linear().fit(made.data, made.tags))).fit(made.data, made.tags)
    assert model.codes_.shape == (120, 2)
    assert model.embedder_.n_iter_ == 6
    # The codes have changed what is learned.
    assert np.abs(model.embedder_.weights_ - apart.embedder_.estimator.weights_).max() > 1e-4
    assert_array_equal(model.codes_, model.encode(made.data))
    assert model.tag_enhancer_ is model.embedder_.tag_enhancer_
    assert model.score(made.data, made.tags) > 0.8
    assert model.metric_.shape == (20, 20)


def test_a_weight_of_nothing_changes_nothing(made):
    model = quantizer(Linear(), quantization_weight=0.0).fit(made.data, made.tags)
    alone = Linear().fit(made.data, made.tags)
    assert_allclose(model.embedder_.weights_, alone.weights_, atol=1e-6)


def test_it_goes_on_batch_by_batch(made):
    model = quantizer(Linear())
    for _ in range(3):
        model.partial_fit(made.data, made.tags)
    alone = Linear(max_iter=3).fit(made.data, made.tags)
    assert np.abs(model.embedder_.weights_ - alone.weights_).max() < 0.05
    again = quantizer(Linear(), warm_start=True).fit(made.data, made.tags)
    before = again.embedder_.weights_
    again.fit(made.data, made.tags)
    assert np.abs(again.embedder_.weights_ - before).max() > 1e-3


def test_it_is_searched_over(made):
    search = GridSearchCV(quantizer(Linear()), {"embedder__rate": [0.1, 1.0]}, cv=2)
    search.fit(made.data, made.tags)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_a_third_partys_error_leaves_the_model_that_was_there(made):
    class Broken(Linear):
        def start_training(self, *args, **kwargs):
            training = super().start_training(*args, **kwargs)
            training.weights.data[:] = float("nan")
            raise RuntimeError("of theirs")

    model = quantizer(Linear()).fit(made.data, made.tags)
    codes = model.codes_
    model.set_params(embedder=Broken())
    with pytest.raises(RuntimeError, match="of theirs"):
        model.fit(made.data, made.tags)
    assert model.codes_ is codes


# --- ours, gone through from outside ------------------------------------------------------------


def embedder(**parameters):
    given = {"hidden_layer_sizes": (8,), "max_iter": 4, "random_state": 0, **parameters}
    return HypersphereEmbedder(**given)


def test_what_is_gone_through_by_hand_is_a_fit(made):
    model, fitted = embedder(), embedder().fit(made.data, made.tags)
    training = model.start_training(made.data, made.tags)
    assert isinstance(training, EmbedderTraining)
    figures = list(training)
    assert [row["loss"] for row in figures] == fitted.history_["loss"]
    attributes = training.attributes()
    assert_array_equal(attributes["coefs_"][0], fitted.coefs_[0])
    assert attributes["history_"] == fitted.history_
    assert_allclose(normalize_rows(training.outputs()), fitted.transform(made.data), atol=1e-6)
    assert not hasattr(model, "coefs_")  # nobody has set them


def test_who_goes_no_further_has_the_epochs_so_far(made):
    training = embedder().start_training(made.data, made.tags)
    for n, _ in enumerate(training):
        if n == 1:
            break
    assert training.attributes()["n_iter_"] == 2
    whole = embedder(max_iter=4).start_training(made.data, made.tags)
    for _, _ in zip(range(2), whole, strict=False):
        pass
    assert_array_equal(whole.attributes()["coefs_"][0], training.attributes()["coefs_"][0])


def test_a_companion_of_ones_own(made):
    class Watcher:
        """Pulls outputs together, and counts what it is asked."""

        def __init__(self):
            self.n_batches, self.shapes = 0, []

        def start(self, concept_vectors, lengths=None):
            self.shape = concept_vectors.shape
            assert len(lengths) == len(concept_vectors)

        def parameters(self):
            return {}

        def penalty(self, outputs, rows):
            self.n_batches += 1
            return 0.1 * outputs.square().sum() if self.n_batches > 1 else None

        def after_epoch(self, n_done, outputs):
            self.shapes.append(outputs().shape)
            return {"size": float(n_done)}

        def state(self):
            return self.n_batches

        def restore(self, state):
            self.n_batches = state

    companion = Watcher()
    assert isinstance(companion, Companion)
    training = embedder(batch_size=60).start_training(made.data, made.tags, companion=companion)
    assert [row["size"] for row in training] == [1.0, 2.0, 3.0, 4.0]
    assert companion.n_batches == 8
    assert companion.shapes == [(120, 20)] * 4
    attributes = training.attributes()
    assert attributes["history_"]["size"] == [1.0, 2.0, 3.0, 4.0]
    plain = embedder(batch_size=60).fit(made.data, made.tags)
    assert np.abs(attributes["coefs_"][0] - plain.coefs_[0]).max() > 1e-5


def test_an_interrupt_between_epochs_belongs_to_the_training(made):
    from skwsdhq.training.session import go_through

    class Tasks:
        def __init__(self):
            self.n_done = 0

        def begin(self):
            pass

        def end(self, attributes):
            self.n_done += 1
            if self.n_done == 2:
                raise KeyboardInterrupt
            return False

    training = embedder().start_training(made.data, made.tags)
    with pytest.warns(ConvergenceWarning, match="interrupted after 2 of 4 epochs"):
        go_through(training, Tasks(), training.attributes)
    assert training.attributes()["n_iter_"] == 2


# --- the regression by name ---------------------------------------------------------------------


def test_the_regression_alone_is_the_embedder_without_a_network(made):
    alone = TagKernelRegressor(random_state=0).fit(made.data, made.tags)
    whole = embedder(kernel_weight=1).fit(made.data, made.tags)
    assert (whole.coefs_, whole.intercepts_, whole.n_iter_) == ([], [], 0)
    assert_allclose(alone.transform(made.data), whole.transform(made.data), atol=1e-6)
    tags = made.tags[:5]
    later = alone.transform(made.data[:5], tags=tags)
    assert_allclose(later, whole.transform(made.data[:5], tags=tags), atol=1e-6)
    assert np.abs(later - alone.transform(made.data[:5])).max() > 1e-4
    model = quantizer(TagKernelRegressor()).fit(made.data, made.tags)
    assert model.encode(made.data, tags=made.tags).shape == (120, 2)
    assert_array_equal(model.codes_, model.encode(made.data))


def test_images_need_a_loader_before_the_regression():
    pictures = np.zeros((4, 8, 8, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match="put an ImageLoader before it"):
        TagKernelRegressor().fit(pictures, [["a"], ["b"], ["a"], ["b"]])


@pytest.mark.parametrize(
    ("name", "value"),
    [("scaler", 3), ("random_state", 3), ("tag_enhancer", TagEnhancer())],
)
def test_a_part_has_no_parameters_of_its_whole(made, name, value):
    if name == "scaler":
        from skwsdhq.embedding import FeatureScaler

        value = FeatureScaler()
    model = embedder(kernel=TagKernelRegressor(**{name: value}))
    with pytest.raises(ValueError, match=f"kernel__{name}=None"):
        model.fit(made.data, made.tags)


def test_old_names_say_the_new_one():
    with pytest.raises(TypeError, match=r"kernel=TagKernelRegressor\(gamma="):
        HypersphereEmbedder(kernel_gamma=2)
    with pytest.raises(ValueError, match=r"optimizer=AdamSchedule\(n_drops="):
        HypersphereEmbedder().set_params(n_drops=2)
    with pytest.raises(ValueError, match=r"finetune=FineTuning\(head_iter="):
        quantizer(HypersphereEmbedder()).set_params(embedder__head_iter=2)
    with pytest.raises(TypeError, match="unexpected keyword argument 'depth'"):
        HypersphereEmbedder(depth=2)


def test_parts_are_cloned_and_reached_by_name():
    from skwsdhq.embedding import AdamSchedule, EarlyStopping, FeatureScaler, FineTuning
    from skwsdhq.losses import AdaptiveMargin

    model = HypersphereEmbedder(
        loss=AdaptiveMargin(),
        kernel=TagKernelRegressor(),
        scaler=FeatureScaler(),
        optimizer=AdamSchedule(),
        finetune=FineTuning(),
        early_stopping=EarlyStopping(),
    )
    twin = clone(model).set_params(
        loss__gamma=3, kernel__alpha=0.1, scaler__power=1, optimizer__decay=0.1,
        finetune__layers="all", early_stopping__tol=1,
    )  # fmt: skip
    assert (model.loss.gamma, twin.loss.gamma) == (1.0, 3)
    assert (twin.kernel.alpha, twin.scaler.power, twin.optimizer.decay) == (0.1, 1, 0.1)
    assert (twin.finetune.layers, twin.early_stopping.tol) == ("all", 1)
    assert model.optimizer.decay == 0.5
