"""HypersphereEmbedder and the training loop under it."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator

from skwsdhq import HypersphereEmbedder, TagEnhancer
from skwsdhq.datasets import make_tagged_images
from skwsdhq.embedding import FeatureScaler
from skwsdhq.embedding._upgrade import parts_from_flat
from skwsdhq.losses import AdaptiveMargin
from skwsdhq.losses import objects as _objects
from skwsdhq.metrics import mean_average_precision
from skwsdhq.tags import check_tags
from skwsdhq.training import network as _training_network
from skwsdhq.training.fixed import FixedInputs
from skwsdhq.training.loop import Lesson, run_epoch
from skwsdhq.training.network import build_network, forward, network_arrays
from skwsdhq.training.optimizer import Steps, parameter_groups
from skwsdhq.training.scaling import prepare_inputs, raised

LOSSES = ["adaptive_margin", "fixed_margin", "wdht", "contrastive"]


@pytest.fixture(scope="module")
def made():
    made = make_tagged_images(160, wrong=0.1, missing=0.1, random_state=0)
    # What the tags speak of is drowned in features that they don't.
    noise = 1.5 * np.random.default_rng(1).standard_normal((160, 64), dtype=np.float32)
    made.data = np.hstack([made.data, noise])
    return made


def small(**parameters):
    defaults = {"hidden_layer_sizes": (32,), "max_iter": 15, "learning_rate": 3e-3}
    given = {**defaults, "random_state": 0, **parameters}
    return HypersphereEmbedder(**parts_from_flat(given))


def weights(embedder):
    return np.concatenate([w.ravel() for w in embedder.coefs_ + embedder.intercepts_])


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_learns_to_retrieve(made, loss):
    train, test = slice(0, 120), slice(120, None)
    embedder = small(
        loss=loss, tag_enhancer=TagEnhancer(made.word_vectors), batch_size=24, max_iter=30
    )
    embedder.fit(made.data[train], made.tags[train])
    assert embedder.history_["loss"][-1] < embedder.history_["loss"][0]
    rows = embedder.transform(made.data)
    reached = mean_average_precision(rows[test], rows[train], made.target[test], made.target[train])
    plain = made.data - made.data[train].mean(axis=0)
    before = mean_average_precision(
        plain[test], plain[train], made.target[test], made.target[train]
    )
    assert reached > before


def test_rows_have_unit_length_and_the_dtype_of_the_features(made):
    embedder = small().fit(made.data, made.tags)
    for dtype in (np.float32, np.float64):
        rows = embedder.transform(made.data.astype(dtype))
        assert rows.dtype == dtype
        assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)
    assert embedder.n_iter_ == 15
    assert len(embedder.get_feature_names_out()) == rows.shape[1]


def test_numpy_forward_equals_the_torch_module():
    generator = torch.Generator().manual_seed(0)
    network = build_network((5, 7, 6, 3), 0.5, generator).eval()
    x = np.random.default_rng(0).standard_normal((11, 5)).astype(np.float32)
    with torch.inference_mode():
        expected = network(torch.from_numpy(x)).numpy()
    arrays = network_arrays(network)
    assert_allclose(forward(x, arrays), expected, atol=1e-6)
    again = build_network((5, 7, 6, 3), 0.5, generator, arrays)
    assert all(
        torch.equal(a, b)
        for a, b in zip(network.state_dict().values(), again.state_dict().values(), strict=True)
    )


def test_dropout_draws_from_its_generator_and_keeps_the_mean():
    generator = torch.Generator().manual_seed(0)
    layer = _training_network.Dropout(0.25, generator)
    x = torch.ones(400, 400)
    dropped = layer(x)
    assert dropped.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert dropped.mean() == pytest.approx(1, abs=0.01)
    assert torch.equal(layer.eval()(x), x)


def test_powers_of_features():
    x = np.array([[-4.0, 0.0, 9.0]])
    assert_allclose(raised(x, 0.5), [[-2, 0, 3]], atol=0.02)
    assert raised(x, 1.0) is x
    assert_allclose(raised(x, 2.0), [[-16, 0, 81]], rtol=1e-3)
    tensor = torch.tensor(x, requires_grad=True)
    rooted = raised(tensor, 0.5)
    assert_allclose(rooted.detach().numpy(), raised(x, 0.5))
    rooted.sum().backward()
    assert torch.isfinite(tensor.grad).all()
    # On paper: 0 and 4 are 0 and 2 under the root, 1 from their mean, whose rows have length √2.
    inputs = prepare_inputs(np.array([[0.0, 4.0]]), np.array([1.0, 1.0]), 0.5)
    assert_allclose(inputs, [[-1, 1]], atol=0.02)


def test_the_power_of_features_is_kept_with_the_fit(made):
    plain = small(feature_power=1.0).fit(made.data, made.tags)
    rooted = small().fit(made.data, made.tags)
    assert (plain.feature_power_, rooted.feature_power_) == (1.0, 0.5)
    assert not np.allclose(plain.transform(made.data), rooted.transform(made.data))
    before = rooted.transform(made.data)
    rooted.set_params(scaler=FeatureScaler(1.0))  # of the next fit
    assert_array_equal(rooted.transform(made.data), before)
    with pytest.raises(ValueError, match="'power' parameter of FeatureScaler"):
        small(feature_power=0).fit(made.data, made.tags)


def test_pairs_of_a_batch():
    indicator, _ = check_tags([["a", "c"], [], ["b"], ["a", "b", "c"]])
    pairs = _objects.pairs(indicator, np.array([3, 1, 0]))
    assert pairs.tolist() == [[0, 0, 0, 2, 2], [0, 1, 2, 0, 2]]
    assert _objects.pairs(indicator, np.array([1])).shape == (2, 0)


@pytest.mark.parametrize("n_layers", [1, 2])
def test_learning_rates_of_the_layers(n_layers):
    sizes = (4, 3, 2)[-n_layers - 1 :]
    network = build_network(sizes, 0.0, torch.Generator().manual_seed(0))
    groups = parameter_groups(network, last_layer_factor=10.0, weight_decay=0.1)
    factors = [factor for _, factor, _ in groups]
    assert factors == ([1, 10, 20] if n_layers == 2 else [1, 1, 1])
    assert [decay for _, _, decay in groups] == [0.1, 0.1, 0.0]
    assert sum(len(group) for group, _, _ in groups) == 2 * n_layers


def learned_by(steps_of):
    """Weights (p,) after 20 steps that end at half the rate."""
    network = build_network((5, 4, 3), 0.0, torch.Generator().manual_seed(0))
    steps = steps_of(network)
    x = torch.linspace(-1, 1, 40).reshape(8, 5)
    for _ in range(20):
        steps.zero_grad()
        (network(x) ** 2).sum().backward()
        steps.step()
    return torch.cat([p.detach().ravel() for p in network.parameters()])


class SlowAdam:
    """Adam by its formulas, with decoupled weight decay; rates fall to half after ten steps."""

    def __init__(self, groups):
        self.groups, self.n_steps = groups, 0
        self.moments = {id(p): [0.0, 0.0] for p, *_ in self.groups}

    def zero_grad(self):
        for parameter, *_ in self.groups:
            parameter.grad = None

    @torch.no_grad()
    def step(self):
        factor = 0.5 if self.n_steps >= 10 else 1.0
        self.n_steps += 1
        for parameter, rate, decay in self.groups:
            gradient, moments = parameter.grad, self.moments[id(parameter)]
            parameter -= rate * factor * decay * parameter
            moments[0] = 0.9 * moments[0] + 0.1 * gradient
            moments[1] = 0.999 * moments[1] + 0.001 * gradient**2
            mean = moments[0] / (1 - 0.9**self.n_steps)
            square = moments[1] / (1 - 0.999**self.n_steps)
            parameter -= rate * factor * mean / (square.sqrt() + 1e-8)


def test_steps_are_those_of_the_formulas():
    def ours(network):
        groups = parameter_groups(network, last_layer_factor=10.0, weight_decay=0.1)
        return Steps(groups, 0.01, factor=lambda step: 0.5 if step >= 10 else 1.0)

    def slow(network):
        *below, weight, bias = network.parameters()
        groups = [(p, 0.01, 0.1) for p in below]
        return SlowAdam([*groups, (weight, 0.1, 0.1), (bias, 0.2, 0.0)])

    assert_allclose(learned_by(ours), learned_by(slow), atol=1e-6)


def test_steps_go_on_from_their_state():
    def in_two(network):
        class Both:
            def __init__(self):
                self.n_done, self.steps = 0, self.made()

            def made(self):
                factor = lambda step: 0.5 if step >= 10 else 1.0  # noqa: E731
                return Steps(parameter_groups(network), 0.01, factor=factor)

            def zero_grad(self):
                self.steps.zero_grad()

            def step(self):
                self.steps.step()
                self.n_done += 1
                if self.n_done in (7, 13):
                    state, self.steps = self.steps.state(), self.made()
                    self.steps.restore(state, n_scheduled=self.n_done)
                    assert state["n_steps"] == self.n_done

        return Both()

    def whole(network):
        factor = lambda step: 0.5 if step >= 10 else 1.0  # noqa: E731
        return Steps(parameter_groups(network), 0.01, factor=factor)

    assert_array_equal(learned_by(in_two), learned_by(whole))


def test_rate_falls_in_steps(made):
    history = small(max_iter=8, n_drops=3, learning_rate=0.08).fit(made.data, made.tags).history_
    assert history["learning_rate"] == pytest.approx(
        [0.08, 0.08, 0.04, 0.04, 0.02, 0.02, 0.01, 0.01]
    )


def test_same_seed_same_result_and_global_state_untouched(made):
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    n_threads = torch.get_num_threads()
    first = small().fit(made.data, made.tags)
    torch.rand(3)  # moves the global state between the two fits
    second = small().fit(made.data, made.tags)
    assert_array_equal(weights(first), weights(second))
    assert not np.array_equal(
        weights(first), weights(small(random_state=1).fit(made.data, made.tags))
    )
    torch.set_rng_state(torch_state)
    small().fit(made.data, made.tags)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert_array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    assert torch.get_num_threads() == n_threads


def test_images_without_tags_take_no_part_and_are_embedded(made):
    tags = [list(row) for row in made.tags]
    for n in range(0, 160, 2):
        tags[n] = []
    without = small(feature_power=1.0).fit(made.data, tags)
    assert without.transform(made.data).shape[0] == 160
    kept = [n for n in range(160) if tags[n]]
    # the mean of the features is over all images: only the loss leaves rows out
    assert without.feature_mean_ == pytest.approx(made.data.mean(axis=0), abs=1e-5)
    assert len(kept) < 160
    with pytest.raises(ValueError, match="no tag remains"):
        small().fit(made.data, [[]] * 160)


def test_only_rows_with_concepts_fill_the_batches():
    generator = torch.Generator().manual_seed(0)
    network = build_network((3, 2), 0.0, generator)
    seen = []

    def loss(outputs, rows):
        seen.extend(rows.tolist())
        return outputs.sum()

    model = FixedInputs(network, np.ones((10, 3), dtype=np.float32), generator.device)
    steps = Steps(parameter_groups(network), 1e-3)
    lesson = Lesson(model, steps, loss, np.arange(0, 10, 3), n_epochs=2, batch_size=3)
    for epoch in range(2):
        assert sorted(run_epoch(lesson, epoch, generator)) == ["learning_rate", "loss"]
    assert sorted(seen) == [0, 0, 3, 3, 6, 6, 9, 9]


def test_tags_that_training_never_saw(made):
    enhancer = TagEnhancer(made.word_vectors).fit(made.tags)
    frozen = FrozenEstimator(enhancer)
    with pytest.raises(ValueError, match="none of the 160 images has a tag that is known"):
        small(tag_enhancer=frozen).fit(made.data, [["unheard"]] * 160)
    embedder = small(tag_enhancer=frozen).fit(made.data, made.tags)
    assert embedder.tag_enhancer_.estimator is enhancer


@pytest.mark.parametrize(
    "form", ["lists", "sets", "series", "object", "indicator", "sparse", "strings", "numbers"]
)
def test_every_form_of_tags(made, form):
    indicator, _ = check_tags(made.tags)
    objects = np.empty(160, dtype=object)
    objects[:] = made.tags
    tags = {
        "lists": made.tags,
        "sets": [set(row) for row in made.tags],
        "series": pd.Series(made.tags),
        "object": objects,
        "indicator": indicator.toarray(),
        "sparse": sparse.csr_matrix(indicator),
        "strings": [f"class {c}" for c in made.target],
        "numbers": made.target,
    }[form]
    embedder = small(max_iter=2).fit(made.data, tags)
    assert embedder.transform(made.data).shape == (
        160,
        embedder.tag_enhancer_.concept_vectors_.shape[1],
    )
    if form in ("sets", "series", "object"):
        assert_array_equal(weights(embedder), weights(small(max_iter=2).fit(made.data, made.tags)))


def test_partial_fit_goes_on_and_equals_itself(made):
    def stepped():
        embedder = small(tag_enhancer=FrozenEstimator(TagEnhancer().fit(made.tags)))
        for start in range(0, 160, 80):
            embedder.partial_fit(made.data[start : start + 80], made.tags[start : start + 80])
        return embedder

    first, second = stepped(), stepped()
    assert first.n_iter_ == 2
    assert_array_equal(weights(first), weights(second))
    before = first._optimizer_state["n_steps"]
    first.partial_fit(made.data, made.tags)
    assert first.n_iter_ == 3
    assert first._optimizer_state["n_steps"] > before > 1


def test_partial_fits_over_the_same_images_are_the_epochs_of_a_fit(made):
    whole = small(max_iter=4, learning_rate_decay=1.0, batch_size=50).fit(made.data, made.tags)
    stepped = small(batch_size=50)
    for _ in range(4):
        stepped.partial_fit(made.data, made.tags)
    assert_array_equal(weights(stepped), weights(whole))
    assert stepped.history_ == whole.history_


def test_two_warm_fits_are_one_of_as_many_epochs(made):
    whole = small(max_iter=5, learning_rate_decay=1.0, batch_size=50).fit(made.data, made.tags)
    warm = small(max_iter=3, learning_rate_decay=1.0, batch_size=50, warm_start=True)
    warm.fit(made.data, made.tags)
    warm.set_params(max_iter=2).fit(made.data, made.tags)
    assert_array_equal(weights(warm), weights(whole))
    assert warm.history_ == whole.history_


def test_warm_start_goes_on(made):
    embedder = small(warm_start=True, max_iter=5).fit(made.data, made.tags)
    before = weights(embedder)
    embedder.set_params(max_iter=3).fit(made.data, made.tags)
    assert embedder.n_iter_ == 8
    assert not np.array_equal(before, weights(embedder))
    cold = small(max_iter=5).fit(made.data, made.tags).fit(made.data, made.tags)
    assert_array_equal(weights(cold), before)


def test_pickle_and_clone(made):
    embedder = small().fit(made.data, made.tags)
    again = pickle.loads(pickle.dumps(embedder))
    assert_array_equal(again.transform(made.data), embedder.transform(made.data))
    assert not hasattr(clone(embedder), "coefs_")
    values = vars(embedder)
    assert not any(isinstance(value, torch.Tensor | torch.nn.Module) for value in values.values())


# --- bad input ------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_not_finite(made, value):
    X = made.data.copy()
    X[3, 4] = value
    with pytest.raises(ValueError, match="Input X contains"):
        small().fit(X, made.tags)


def test_all_zero_features_stay_finite(made):
    X = made.data.copy()
    X[:5] = 0
    embedder = small().fit(X, made.tags)
    assert np.isfinite(embedder.transform(X)).all()
    nothing = small(max_iter=2).fit(np.zeros_like(X), made.tags)
    assert np.isfinite(nothing.transform(X)).all()


def test_wrong_shapes_and_lengths(made):
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        small().fit(made.data, made.tags[:-1])
    with pytest.raises(ValueError, match="requires y to be passed, but the target y is None"):
        small().fit(made.data)
    with pytest.raises(ValueError, match="2D array"):
        small().fit(made.data[0], made.tags[:96])
    embedder = small(max_iter=1).fit(made.data, made.tags)
    with pytest.raises(ValueError, match="features"):
        embedder.transform(made.data[:, :5])
    with pytest.raises(TypeError, match=r"\[\['dog'\]\]"):
        small().fit(made.data, "dog")


def test_one_sample(made):
    embedder = small(max_iter=2).fit(made.data[:1], made.tags[:1])
    assert embedder.transform(made.data[:1]).shape[0] == 1


def test_a_loss_that_is_not_finite_stops_with_the_epoch(made):
    class Spoiled:
        def start(self, concept_vectors, indicator, device):
            return lambda outputs, rows: outputs.sum() * float("nan")

    embedder = small(loss=Spoiled())
    with pytest.raises(
        FloatingPointError, match="nan in epoch 1 of 15, batch 1 of 1; lower learning_rate"
    ):
        embedder.fit(made.data, made.tags)
    assert not hasattr(embedder, "coefs_")


def test_quiet_unless_verbose(made, capfd):
    small(max_iter=2).fit(made.data, made.tags)
    out, err = capfd.readouterr()
    assert out == err == ""
    small(max_iter=2, verbose=1).fit(made.data, made.tags)
    out, err = capfd.readouterr()
    assert "training" in err
    assert out == ""


# --- images ---------------------------------------------------------------------------------


def mean_colour(batch):
    """(b, 224, 224, 3) uint8 to (b, 3) features: a backbone whose answer is known."""
    return batch.reshape(len(batch), -1, 3).mean(axis=1)


def test_images_in_every_form(tmp_path):
    from PIL import Image

    made = make_tagged_images(24, kind="images", random_state=0)
    paths = []
    for n, pixels in enumerate(made.data):
        paths.append(tmp_path / f"{n}.png")
        Image.fromarray(pixels).save(paths[-1])
    forms = {
        "array": made.data,
        "arrays": list(made.data),
        "paths": paths,
        "strings": [str(path) for path in paths],
        "series": pd.Series([str(path) for path in paths]),
    }
    rows = {}
    for name, X in forms.items():
        embedder = small(backbone=mean_colour, max_iter=2).fit(X, made.tags)
        assert not hasattr(embedder, "n_features_in_")
        rows[name] = embedder.transform(X)
    for name in forms:
        assert_allclose(rows[name], rows["array"], atol=1e-6)
    with pytest.raises(ValueError, match="there is no backbone given"):
        small(backbone=None).fit(made.data, made.tags)
    assert clone(embedder).backbone is mean_colour


def test_features_fitted_and_images_asked(made):
    embedder = small(max_iter=1).fit(made.data, made.tags)
    with pytest.raises(ValueError, match="fit saw feature matrices"):
        embedder.transform(np.zeros((2, 8, 8, 3), dtype=np.uint8))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_trained_on_a_gpu_used_on_the_cpu(made):
    embedder = small(device="cuda").fit(made.data, made.tags)
    assert np.isfinite(embedder.transform(made.data)).all()
    assert isinstance(embedder.coefs_[0], np.ndarray)


def test_a_batch_is_held_against_some_of_very_many_concepts(monkeypatch):
    rng = np.random.default_rng(0)
    concepts = rng.standard_normal((40, 4)).astype(np.float32)
    concepts /= np.linalg.norm(concepts, axis=1, keepdims=True)
    indicator = sparse.csr_array((rng.random((12, 40)) < 0.1).astype(np.float32))
    outputs = torch.from_numpy(rng.standard_normal((5, 4)).astype(np.float32))
    rows = np.array([3, 8, 1, 0, 9])
    cpu = torch.device("cpu")

    def loss(vectors, carried):
        function = AdaptiveMargin().start(vectors, carried, cpu)
        return float(function(outputs, rows))

    whole = loss(concepts, indicator)
    columns = np.union1d(indicator[rows].indices, np.arange(3, 40, 4))  # row 3 comes first
    fewer = loss(concepts[columns], sparse.csr_array(indicator[:, columns]))
    assert fewer != pytest.approx(whole, rel=1e-3)
    monkeypatch.setattr(_objects, "_MANY_CONCEPTS", 39)
    monkeypatch.setattr(_objects, "_SOME_CONCEPTS", 10)
    assert loss(concepts, indicator) == pytest.approx(fewer, rel=1e-5)
    monkeypatch.setattr(_objects, "_SOME_CONCEPTS", 40)
    assert loss(concepts, indicator) == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize("n_hard_negatives", [None, 7])
def test_a_batch_of_many_concepts_is_held_against_them_part_by_part(monkeypatch, n_hard_negatives):
    rng = np.random.default_rng(1)
    concepts = rng.standard_normal((40, 4)).astype(np.float32)
    concepts /= np.linalg.norm(concepts, axis=1, keepdims=True)
    # Rows of 1 to 6 concepts, so that parts differ in their number of terms; row 4 has none.
    carried = np.arange(40) < rng.integers(1, 7, size=(12, 1))
    carried = rng.permuted(carried, axis=1) & (np.arange(12) != 4)[:, None]
    indicator = sparse.csr_array(carried.astype(np.float32))
    start = rng.standard_normal((7, 4)).astype(np.float32)
    rows = np.array([3, 8, 1, 0, 9, 4, 11])

    def loss_and_gradient():
        outputs = torch.from_numpy(start).requires_grad_()
        loss = AdaptiveMargin(2.0, n_hard_negatives=n_hard_negatives)
        function = loss.start(concepts, indicator, torch.device("cpu"))
        value = function(outputs, rows)
        value.backward()
        return value.detach().numpy(), outputs.grad.numpy()

    whole, gradient = loss_and_gradient()
    monkeypatch.setattr(_objects, "_MANY_CONCEPTS", 39)
    monkeypatch.setattr(_objects, "_SOME_CONCEPTS", 40)  # all: parts have the sum of the whole
    for own in (1, 6, 10):
        monkeypatch.setattr(_objects, "_OWN_CONCEPTS", own)
        value, slope = loss_and_gradient()
        np.testing.assert_allclose(value, whole, rtol=1e-5)
        np.testing.assert_allclose(slope, gradient, rtol=1e-4, atol=1e-6)
    # A part never meets the other parts' concepts but those of the sample.
    met = []
    margin_loss = _objects.cosine_margin_loss

    def looked_at(outputs, vectors, *args, **kwargs):
        met.append({tuple(vector) for vector in vectors.tolist()})
        return margin_loss(outputs, vectors, *args, **kwargs)

    monkeypatch.setattr(_objects, "cosine_margin_loss", looked_at)
    monkeypatch.setattr(_objects, "_OWN_CONCEPTS", 1)
    monkeypatch.setattr(_objects, "_SOME_CONCEPTS", 10)
    loss_and_gradient()
    assert met == [
        {
            tuple(concepts[c].tolist())
            for c in np.union1d(np.flatnonzero(carried[row]), np.arange(row % 4, 40, 4))
        }
        for row in rows
    ]
