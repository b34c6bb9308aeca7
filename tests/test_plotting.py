import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
from sklearn.pipeline import Pipeline

from skwsdhq import HypersphereEmbedder, WSDHQuantizer, metrics
from skwsdhq.datasets import make_tagged_images
from skwsdhq.plotting import CodeLengthDisplay, PrecisionAtKDisplay, PrecisionRecallDisplay
from skwsdhq.search import CodeIndex

DATABASE = np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
QUERY = np.array([[1.0, 0.0]])
LABELS = ([0], [0, 1, 0])  # relevant, not, relevant


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def made():
    return make_tagged_images(120, random_state=0)


def quantizer(n_codebooks=1):
    embedder = HypersphereEmbedder(max_iter=3, hidden_layer_sizes=(16,), random_state=0)
    return WSDHQuantizer(embedder, n_codebooks=n_codebooks, n_codewords=16, random_state=0)


@pytest.fixture(scope="module")
def fitted(made):
    return quantizer().fit(made.data[:90], made.tags[:90])


class TestPrecisionRecall:
    def test_what_is_drawn_is_what_paper_says(self):
        # Precision 1, 1/2, 2/3 at recall 1/2, 1/2, 1.
        display = PrecisionRecallDisplay.from_predictions(
            QUERY, DATABASE, *LABELS, recall_levels=None, name="codes"
        )
        x, y = display.line_.get_data()
        assert list(x) == pytest.approx([1 / 2, 1 / 2, 1])
        assert list(y) == pytest.approx([1, 1 / 2, 2 / 3])
        assert display.ax_.get_xlabel() == "Recall"
        assert [t.get_text() for t in display.ax_.get_legend().get_texts()] == ["codes"]

    def test_levels_are_interpolated(self):
        display = PrecisionRecallDisplay.from_predictions(
            QUERY, DATABASE, *LABELS, recall_levels=[0, 0.5, 0.75]
        )
        assert list(display.precision) == pytest.approx([1, 1, 2 / 3])
        assert display.ax_.get_legend() is None

    def test_from_estimator_compares_queries_with_codes(self, fitted, made):
        display = PrecisionRecallDisplay.from_estimator(
            fitted, made.data[90:], made.target[90:], made.target[:90], recall_levels=5
        )
        precision, recall = metrics.precision_recall_curve(
            fitted.transform(made.data[90:]),
            CodeIndex(fitted.codebooks_, fitted.codes_),
            made.target[90:],
            made.target[:90],
            recall_levels=5,
        )
        np.testing.assert_array_equal(display.precision, precision)
        np.testing.assert_array_equal(display.recall, recall)
        assert display.line_.get_label() == "WSDHQuantizer"


class TestPrecisionAtK:
    def test_what_is_drawn_is_what_paper_says(self):
        display = PrecisionAtKDisplay.from_predictions(QUERY, DATABASE, *LABELS, k=[1, 2, 3, 9])
        x, y = display.line_.get_data()
        assert list(x) == [1, 2, 3]  # there are no nine rows
        assert list(y) == pytest.approx([1, 1 / 2, 2 / 3])
        assert display.ax_.get_xscale() == "log"

    def test_a_pipeline_as_a_quantizer(self, made):
        embedder = HypersphereEmbedder(max_iter=3, hidden_layer_sizes=(16,), random_state=0)
        coder = WSDHQuantizer("passthrough", n_codebooks=1, n_codewords=16, random_state=0)
        pipeline = Pipeline([("embedder", embedder), ("quantizer", coder)])
        pipeline.fit(made.data[:90], made.tags[:90])
        display = PrecisionAtKDisplay.from_estimator(
            pipeline, made.data[90:], made.target[90:], made.target[:90], k=[5], name="both"
        )
        assert display.precision[0] == metrics.precision_at_k(
            pipeline.transform(made.data[90:]),
            CodeIndex(coder.codebooks_, coder.codes_),
            made.target[90:],
            made.target[:90],
            k=5,
        )
        assert display.line_.get_label() == "both"

    def test_without_codes(self, made):
        embedder = HypersphereEmbedder(max_iter=1, hidden_layer_sizes=())
        embedder.fit(made.data, made.tags)
        with pytest.raises(TypeError, match="HypersphereEmbedder holds no codes of fitted rows"):
            PrecisionAtKDisplay.from_estimator(embedder, made.data, made.target, made.target)


class TestCodeLength:
    def test_databases_in_order_of_their_bits(self):
        display = CodeLengthDisplay.from_predictions(
            QUERY,
            {16: DATABASE, 8: DATABASE[[0, 2, 1]]},
            *LABELS,
            uncompressed=DATABASE,
        )
        x, y = display.line_.get_data()
        assert list(x) == [8, 16]
        # Row order decides nothing here: similarities 1, .8, 0 against 1, 0, .8.
        assert list(y) == pytest.approx([metrics.average_precision([1, 1, 0]), 5 / 6])
        assert display.uncompressed == pytest.approx(5 / 6)
        assert display.ax_.get_ylabel() == "mAP@5000"

    def test_estimators(self, fitted, made):
        longer = quantizer(2).fit(made.data[:90], made.tags[:90])
        display = CodeLengthDisplay.from_estimator(
            [longer, fitted], made.data[90:], made.target[90:], made.target[:90], top_k=None
        )
        assert list(display.n_bits) == [4, 8]
        assert display.scores[0] == metrics.mean_average_precision(
            fitted.transform(made.data[90:]),
            CodeIndex(fitted.codebooks_, fitted.codes_),
            made.target[90:],
            made.target[:90],
            top_k=None,
        )
        assert display.ax_.get_ylabel() == "mAP"

    def test_band_and_line_of_what_codes_lose(self):
        display = CodeLengthDisplay([8, 16], [0.5, 0.6], spread=[0.01, 0.02], uncompressed=0.7)
        display.plot()
        (band,) = display.ax_.collections
        assert band.get_paths()[0].vertices[:, 1].min() == pytest.approx(0.49)
        assert band.get_paths()[0].vertices[:, 1].max() == pytest.approx(0.62)
        assert display.ax_.lines[1].get_ydata()[0] == 0.7


DISPLAYS = [
    PrecisionRecallDisplay([1.0, 0.5], [0.0, 1.0]),
    PrecisionAtKDisplay([1, 10], [1.0, 0.5]),
    CodeLengthDisplay([8, 16], [0.5, 0.6]),
]


@pytest.mark.parametrize("display", DISPLAYS, ids=lambda display: type(display).__name__)
class TestAll:
    def test_drawn_on_axes_that_are_given_and_again(self, display):
        figure, axes = plt.subplots()
        assert display.plot(ax=axes, name="first", color="red") is display
        assert display.ax_ is axes
        assert display.figure_ is figure
        assert display.line_.get_color() == "red"
        display.plot(ax=axes, name="second")
        names = [text.get_text() for text in axes.get_legend().get_texts()]
        assert names == ["first", "second"]

    def test_no_axes_make_a_figure(self, display):
        n_before = len(plt.get_fignums())
        display.plot()
        assert len(plt.get_fignums()) == n_before + 1


def test_bad_figures():
    with pytest.raises(ValueError, match="precision has 1 points and recall 2"):
        PrecisionRecallDisplay([1.0], [0.0, 1.0])
    with pytest.raises(ValueError, match="scores should be finite; got nan"):
        CodeLengthDisplay([8], [np.nan])
    with pytest.raises(ValueError, match=r"k has shape \(1, 1\)"):
        PrecisionAtKDisplay([[1]], [0.5])
    with pytest.raises(ValueError, match="scores has 1 points and spread 2"):
        CodeLengthDisplay([8], [0.5], spread=[0.1, 0.2])
