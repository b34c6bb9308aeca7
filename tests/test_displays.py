import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.pipeline import Pipeline

from skwsdhq import HypersphereEmbedder, TagEnhancer, WSDHQuantizer, metrics
from skwsdhq.datasets import load_emoji, make_tagged_images
from skwsdhq.plotting import (
    CodebookUsageDisplay,
    ConceptGraphDisplay,
    RetrievalDisplay,
    SphereDisplay,
    TagReliabilityDisplay,
    TrainingHistoryDisplay,
)
from skwsdhq.search import CodeIndex


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def made():
    return make_tagged_images(120, random_state=0)


@pytest.fixture(scope="module")
def fitted(made):
    embedder = HypersphereEmbedder(max_iter=3, hidden_layer_sizes=(16,), random_state=0)
    quantizer = WSDHQuantizer(embedder, n_codebooks=2, n_codewords=16, random_state=0)
    return quantizer.fit(made.data[:90], made.tags[:90])


@pytest.fixture(scope="module")
def piped(made):
    embedder = HypersphereEmbedder(max_iter=2, hidden_layer_sizes=(8,), random_state=0)
    codes = WSDHQuantizer("passthrough", n_codebooks=1, n_codewords=8, random_state=0)
    return Pipeline([("embedder", embedder), ("codes", codes)]).fit(made.data, made.tags)


def is_inside(texts, figure):
    """Whether texts are drawn within the picture, whole."""
    figure.canvas.draw()
    renderer, (width, height) = figure.canvas.get_renderer(), figure.bbox.size
    boxes = [text.get_window_extent(renderer) for text in texts]
    return all(b.x0 >= 0 and b.y0 >= 0 and b.x1 <= width and b.y1 <= height for b in boxes)


class TestRetrieval:
    def test_average_precision_is_of_the_whole_ranking(self):
        database = np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
        display = RetrievalDisplay.from_predictions(
            database[:1], database, [["red"]], [["red"], ["blue"], ["red"]], None, None,
            n_neighbors=2,
        )  # fmt: skip
        assert display.average_precision[0] == pytest.approx(5 / 6)  # hits at 1 and 3
        assert display.kinds == [["hit", "miss"]]
        assert display.axes_[0, 0].get_title() == "AP 0.83"
        again = RetrievalDisplay.from_predictions(
            database[:1], database, [["red"]], [["red"], ["blue"], ["green"]], None, None,
            exclude_self=True, top_k=None,
        )  # fmt: skip
        assert again.kinds == [["miss", "miss"]]
        assert again.axes_[0, 0].get_title() == "nothing relevant"

    @pytest.mark.parametrize("kind", ["tags", "list", "array", "indicator", "sparse", "series"])
    def test_of_an_estimator_what_its_score_says(self, fitted, made, kind):
        pandas, sparse = pytest.importorskip("pandas"), pytest.importorskip("scipy.sparse")
        target = np.asarray(made.target[:90])
        onehot = (target[:, None] == np.unique(target)).astype(int)
        labels = {
            "tags": None, "list": target.tolist(), "array": target, "indicator": onehot,
            "sparse": sparse.csr_array(onehot), "series": pandas.Series(target, index=range(5, 95)),
        }[kind]  # fmt: skip
        X, tags = made.data[:90], made.tags[:90]
        display = RetrievalDisplay.from_estimator(
            fitted, X, tags, queries=range(90), labels=labels, n_neighbors=1
        )
        judged = tags if labels is None else labels
        assert np.nanmean(display.average_precision) == pytest.approx(
            fitted.score(X, tags, labels=judged)
        )
        assert not any(np.isnan(display.average_precision)) or kind == "tags"

    def test_what_is_shown_is_what_the_index_finds(self, fitted, made):
        pictures = load_emoji().images[:90]
        X = made.data[:90]
        display = RetrievalDisplay.from_estimator(
            fitted, X, made.tags[:90], pictures, queries=[7, 3], n_neighbors=4
        )
        index = CodeIndex(fitted.codebooks_, fitted.encode(X))
        values, rows = index.search(fitted.transform(X)[[7, 3]], 4, exclude=[7, 3])
        np.testing.assert_allclose(display.similarities, values, atol=1e-6)
        assert display.names == [[sorted(made.tags[i]) for i in row] for row in rows]
        np.testing.assert_array_equal(display.images[1][0], pictures[rows[1, 0]])
        heads = [axis.get_title() for axis in display.axes_[:, 0]]
        assert heads == [f"AP {value:.2f}" for value in display.average_precision]

    def test_of_a_pipeline_and_on_a_figure(self, piped, made):
        figure = matplotlib.figure.Figure()
        display = RetrievalDisplay.from_estimator(
            piped, made.data, made.tags, queries=[0], figure=figure
        )
        assert display.figure_ is figure
        assert display.axes_[0, 1].texts[0].get_text() == "no picture"

    def test_errors(self, fitted, made):
        X, tags = made.data[:90], made.tags[:90]
        for queries in ([90], [-1], [], ["a"], [0.5]):
            with pytest.raises(ValueError, match="queries should be"):
                RetrievalDisplay.from_estimator(fitted, X, tags, queries=queries)
        with pytest.raises(ValueError, match="2 rows of tags, should be 90"):
            RetrievalDisplay.from_estimator(fitted, X, tags[:2])
        with pytest.raises(TypeError, match="PCA makes no codes"):
            RetrievalDisplay.from_estimator(PCA(), X, tags)
        with pytest.raises(ValueError, match="one for each"):
            RetrievalDisplay([None], [[None]], [[1]], average_precision=[1, 2])


class TestCodebookUsage:
    def test_on_paper(self):
        display = CodebookUsageDisplay.from_predictions([[0, 1], [1, 1], [2, 1], [3, 1]], 4)
        np.testing.assert_array_equal(display.counts, [[1, 1, 1, 1], [0, 4, 0, 0]])
        assert display.entropy.tolist() == [2, 0]
        assert display.capacity == 2
        assert display.n_unused.tolist() == [0, 3]
        assert display.lines_[1].get_ydata().tolist() == [1, 0, 0, 0]
        texts = [text.get_text() for text in display.ax_.get_legend().get_texts()]
        assert texts == [
            "codebook 1: 2.00 of 2 bits", "codebook 2: 0.00 of 2 bits, 3 unused", "all used alike"
        ]  # fmt: skip
        # Told apart without colours.
        assert display.lines_[0].get_linestyle() != display.lines_[1].get_linestyle()

    def test_of_estimators_and_on_axes(self, fitted, piped, made):
        display = CodebookUsageDisplay.from_estimator(fitted)
        assert display.counts.shape == (2, 16)
        assert display.counts.sum(axis=1).tolist() == [90, 90]
        _, ax = plt.subplots()
        other = CodebookUsageDisplay.from_estimator(piped, made.data[:30], ax=ax, name="$x")
        assert other.ax_ is ax
        assert other.counts.sum() == 30
        assert ax.get_title() == "$x"
        other.figure_.canvas.draw()

    def test_errors(self):
        with pytest.raises(ValueError, match=r"from 0 to n_codewords - 1 = 1; they go from 0 to 2"):
            CodebookUsageDisplay.from_predictions([[0], [2]], 2)
        for codes in ([0, 1], [[0.5]], np.zeros((0, 2), int)):
            with pytest.raises(ValueError, match="codes should be whole numbers"):
                CodebookUsageDisplay.from_predictions(codes, 2)
        for counts in ([[1.5]], [1], [[-1, 2]], [[0, 0]]):
            with pytest.raises(ValueError, match="counts should be"):
                CodebookUsageDisplay(counts)
        with pytest.raises(TypeError, match="PCA holds no codes"):
            CodebookUsageDisplay.from_estimator(PCA())


class TestConceptGraph:
    def test_what_was_merged(self):
        vectors = {"dog": [1, 0], "puppy": [0.99, 0.14], "car": [0, 1], "auto": [0.05, 1]}
        enhancer = TagEnhancer(vectors).fit([["dog", "puppy"], ["car", "auto"], ["dog"]])
        display = ConceptGraphDisplay.from_estimator(enhancer)
        members = {tuple(row) for row in display.members}
        assert ("dog", "puppy") in members
        assert len(display.edges_) == sum(map(len, display.edges))
        assert {text.get_text() for text in display.texts_} == {
            tag for row in display.members for tag in row
        }
        assert " concepts" in display.ax_.get_title()
        assert is_inside(display.texts_ + display.ax_.get_yticklabels(), display.figure_)

    def test_nothing_merged(self):
        enhancer = TagEnhancer({"a": [1, 0], "b": [0, 1]}).fit([["a"], ["b"]])
        display = ConceptGraphDisplay.from_estimator(enhancer)
        assert display.members == []
        assert [text.get_text() for text in display.ax_.texts] == ["no tags were merged"]

    def test_long_and_hostile_tags_are_inside(self, fitted):
        members = [["$\\frac{$", "w" * 80, "a b " * 20], ["<b>x</b>"]]
        display = ConceptGraphDisplay.from_predictions(members, n_samples=[3, 1])
        assert is_inside(display.texts_ + display.ax_.get_yticklabels(), display.figure_)
        assert max(len(line) for t in display.texts_ for line in t.get_text().split("\n")) <= 16
        _, ax = plt.subplots()
        assert ConceptGraphDisplay.from_estimator(fitted, ax=ax, max_concepts=2).ax_ is ax

    def test_errors(self, fitted):
        with pytest.raises(ValueError, match="from 0 to 1"):
            ConceptGraphDisplay([["a", "b"]], edges=[[(0, 2)]])
        with pytest.raises(ValueError, match="edges has 0 entries for 1"):
            ConceptGraphDisplay([["a"]], edges=[])
        with pytest.raises(ValueError, match="a tag at least"):
            ConceptGraphDisplay([[]])
        with pytest.raises(TypeError, match="lists of tags"):
            ConceptGraphDisplay(["ab"])
        with pytest.raises(ValueError, match="max_tags=0"):
            ConceptGraphDisplay.from_estimator(fitted, max_tags=0)
        with pytest.raises(TypeError, match="PCA has no concepts"):
            ConceptGraphDisplay.from_estimator(PCA())


class TestTrainingHistory:
    def test_a_panel_for_each_kind(self, fitted):
        display = TrainingHistoryDisplay.from_estimator(fitted)
        assert list(display.lines_) == list(fitted.history_)
        x, y = display.lines_["loss"].get_data()
        assert x.tolist() == [1, 2, 3]
        assert y.tolist() == fitted.history_["loss"]
        assert display.axes_[-1].get_xlabel() == "Epoch"
        labels = [ax.yaxis.label for ax in display.axes_]
        assert is_inside(labels, display.figure_)

    def test_what_begins_later_ends_with_the_others(self):
        display = TrainingHistoryDisplay.from_predictions({"loss": [3, 2, 1], "error": [np.nan, 4]})
        assert display.lines_["error"].get_xdata().tolist() == [2, 3]

    def test_a_figure_of_one_epoch_alone_is_told(self):
        history = {"loss": [3, 2, 1], "error": [np.nan, np.nan, 0.0166]}
        display = TrainingHistoryDisplay.from_predictions(history)
        assert [text.get_text() for text in display.axes_[1].texts] == ["0.0166"]
        assert display.axes_[1].get_ylim()[0] == 0
        assert not display.axes_[0].texts
        assert is_inside(display.axes_[1].texts, display.figure_)

    def test_on_axes(self):
        _, ax = plt.subplots()
        display = TrainingHistoryDisplay({"loss": [1, 2], "rate": [1, 1]}).plot(ax, name="a")
        assert display.ax_ is ax
        assert list(display.lines_) == ["loss"]
        with pytest.raises(ValueError, match="ax has 3 axes, should be 1 or 2: loss, rate"):
            display.plot(plt.subplots(3)[1])

    def test_errors(self):
        with pytest.raises(TypeError, match="mapping"):
            TrainingHistoryDisplay([1, 2])
        for empty in ({}, {"loss": []}, {"loss": [np.nan]}):
            with pytest.raises(ValueError, match="no epoch"):
                TrainingHistoryDisplay(empty)
        with pytest.raises(ValueError, match="loss has shape"):
            TrainingHistoryDisplay({"loss": [[1]]})
        with pytest.raises(TypeError, match="PCA has no history_"):
            TrainingHistoryDisplay.from_estimator(PCA())


class TestSphere:
    def test_projected_together(self):
        rows = np.eye(4)
        display = SphereDisplay.from_predictions(rows, rows[:2] * 0.9, ["a", "b"])
        expected = PCA(2).fit_transform(np.concatenate([rows, rows[:2] * 0.9]))
        both = np.concatenate([display.points, display.concepts])
        np.testing.assert_allclose(np.abs(both), np.abs(expected), atol=1e-9)
        assert display.ax_.get_xlabel().startswith("PCA, ")
        assert [text.get_text() for text in display.texts_] == ["a", "b"]

    @pytest.mark.parametrize("method", ["pca", "tsne", "mds", PCA(2)])
    def test_methods_and_names_are_inside(self, fitted, made, method):
        import warnings

        with warnings.catch_warnings():
            # Defaults of MDS are about to change, as releases of scikit-learn tell.
            warnings.simplefilter("ignore", FutureWarning)
            display = SphereDisplay.from_estimator(
                fitted, made.data[:40], method=method, random_state=0
            )
        assert display.points.shape == (40, 2)
        assert is_inside(display.texts_, display.figure_)

    def test_names_hide_no_other(self):
        display = SphereDisplay(np.eye(2), np.full((5, 2), 0.5), ["some name"] * 5).plot()
        boxes = [text.get_window_extent() for text in display.texts_]
        pairs = [(a, b) for i, a in enumerate(boxes) for b in boxes[:i]]
        assert not any(a.overlaps(b) for a, b in pairs)

    def test_kinds(self, fitted, made):
        kinds = [f"k{min(i, 8)}" for i in range(30)]
        display = SphereDisplay(np.random.RandomState(0).randn(30, 2), np.zeros((0, 2)), [],
                                kinds=kinds).plot()  # fmt: skip
        texts = [text.get_text() for text in display.ax_.get_legend().get_texts()]
        assert len(texts) == 6
        assert texts[:2] == ["other", "k8"]
        assert sum(len(points.get_offsets()) for points in display.points_) == 30
        assert is_inside(display.ax_.get_legend().get_texts(), display.figure_)

    def test_concepts_by_name_and_axes(self, fitted, made):
        _, ax = plt.subplots()
        tag = made.tags[0][0]
        display = SphereDisplay.from_estimator(fitted, made.data[:9], concepts=[tag], ax=ax)
        assert display.ax_ is ax
        assert display.names == [tag]

    def test_errors(self, fitted, made):
        with pytest.raises(ValueError, match="one D"):
            SphereDisplay.from_predictions(np.eye(3), np.eye(2), ["a", "b"])
        with pytest.raises(ValueError, match="too few"):
            SphereDisplay.from_predictions(np.eye(2)[:1], np.eye(2)[:1], ["a"])
        with pytest.raises(ValueError, match="method"):
            SphereDisplay.from_predictions(np.eye(3), np.eye(3), "abc", method="umap")
        with pytest.raises(ValueError, match="1 names of 2 concepts"):
            SphereDisplay(np.eye(2), np.eye(2), ["a"])
        with pytest.raises(ValueError, match="1 kinds of 2 points"):
            SphereDisplay(np.eye(2), np.eye(2), ["a", "b"], kinds=["c"])
        with pytest.raises(TypeError, match="one text or number"):
            SphereDisplay(np.eye(2), np.eye(2), ["a", "b"], kinds=np.eye(2))
        with pytest.raises(ValueError, match="points should be finite"):
            SphereDisplay([[0, np.nan]], np.eye(2), ["a", "b"])
        with pytest.raises(TypeError, match="PCA has no concepts"):
            SphereDisplay.from_estimator(PCA(), made.data)


class TestTagReliability:
    def test_on_paper(self):
        scores, right = [0.1, 0.3, 0.7, 0.9], [False, True, True, True]
        display = TagReliabilityDisplay.from_predictions(scores, right, n_groups=2, name="a")
        assert display.scores == pytest.approx([0.2, 0.8])
        assert display.shares.tolist() == [0.5, 1.0]
        assert display.n_suggestions.tolist() == [2, 2]
        x, y = display.line_.get_data()
        assert (list(x), list(y)) == (display.scores.tolist(), display.shares.tolist())
        assert display.ax_.get_legend() is not None

    def test_of_an_estimator(self, fitted, made):
        X, tags = made.data[90:], [list(row) for row in made.tags[90:]]
        tags[0] = []
        display = TagReliabilityDisplay.from_estimator(fitted, X, tags, n_tags=3, n_groups=1)
        names, scores = fitted.suggest_tags(X[1:], 3)
        # A concept is told by its name; an image carries it by any of its tags.
        enhancer = fitted.tag_enhancer_
        own = enhancer.inverse_transform(enhancer.transform(tags[1:]))
        right = [name in row for row, found in zip(own, names, strict=True) for name in found]
        assert display.shares == pytest.approx([np.mean(right)])
        assert display.scores == pytest.approx([scores.mean()], rel=1e-4)
        assert display.n_suggestions.tolist() == [len(right)]

    def test_on_axes_without_bars(self):
        _, ax = plt.subplots()
        display = TagReliabilityDisplay([0.5], [0.5]).plot(ax)
        assert display.ax_ is ax
        assert ax.get_legend() is None

    def test_errors(self, made):
        with pytest.raises(ValueError, match="numbers from 0 to 1"):
            TagReliabilityDisplay([1.2], [1])
        with pytest.raises(ValueError, match="2 scores and 1 shares"):
            TagReliabilityDisplay([0.1, 0.2], [1])
        with pytest.raises(ValueError, match="n_suggestions"):
            TagReliabilityDisplay([0.1], [1], n_suggestions=[0])
        for scores, right in (([0.1], []), ([], [])):
            with pytest.raises(ValueError, match="one at least"):
                TagReliabilityDisplay.from_predictions(scores, right)
        with pytest.raises(ValueError, match="n_groups=0"):
            TagReliabilityDisplay.from_predictions([0.1], [True], n_groups=0)
        with pytest.raises(TypeError, match="PCA suggests no tags"):
            TagReliabilityDisplay.from_estimator(PCA(), made.data, made.tags)


def test_average_precision_of_the_display_is_that_of_the_metric():
    relevance = [[True, False, True]]
    assert metrics.average_precision(relevance)[0] == pytest.approx(5 / 6)
