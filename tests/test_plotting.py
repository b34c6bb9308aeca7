import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
from sklearn.pipeline import Pipeline

from skwsdhq import Collection, HypersphereEmbedder, WSDHQuantizer, metrics
from skwsdhq.datasets import load_emoji, make_tagged_images
from skwsdhq.plotting import (
    CodeLengthDisplay,
    NeighborsDisplay,
    PrecisionAtKDisplay,
    PrecisionRecallDisplay,
    plot_neighbors,
)
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


def colour(shade):
    return np.full((6, 6, 3), shade, dtype=np.uint8)


def drawn(display):
    """Title, label and frame of each picture, line by line."""
    display.figure_.canvas.draw()
    return [
        [
            axis and (
                axis.get_title(),
                axis.get_xlabel().replace("\n", " "),
                matplotlib.colors.to_hex(axis.spines["top"].get_edgecolor()).upper(),
            )
            for axis in line
        ]
        for line in display.axes_
    ]  # fmt: skip


class TestNeighbors:
    def test_what_is_drawn(self):
        images = [colour(i) for i in range(4)]
        display = NeighborsDisplay.from_predictions(
            [colour(9)], images, [[0.9, 0.456, -0.1]], [[2, 0, 3]],
            query_labels=[1], database_labels=[0, 0, 1, 1],
            query_names=["what"], names=[["a"], ["b"], ["c", "d"], []],
        )  # fmt: skip
        hit, miss = "#0072B2", "#D55E00"
        assert drawn(display) == [[
            ("query", "what", "#000000"), ("0.90", "c, d", hit), ("0.46", "a", miss),
            ("-0.10", "", hit),
        ]]  # fmt: skip
        shown = [int(axis.images[0].get_array()[0, 0, 0]) for axis in display.axes_[0]]
        assert shown == [9, 2, 0, 3]
        assert [text.get_text() for text in display.legend_.get_texts()] == ["hit", "miss"]
        # Misses are told without colours too.
        styles = [axis.spines["top"].get_linestyle() for axis in display.axes_[0, 1:]]
        assert styles[0] == styles[2] == "solid"
        assert styles[1] != "solid"

    def test_kinds_of_hits_and_unknown_ones(self):
        images = [colour(i) for i in range(3)]
        display = NeighborsDisplay.from_predictions(
            [None], images, [[3.0, 2.0, 1.0]], [[0, 1, 2]],
            query_labels={"near": [[1]], "far": [[5]]},
            database_labels={"near": [[1], [2], [2]], "far": [[5], [5], [6]]},
        )  # fmt: skip
        assert display.kinds == [["near", "far", "other"]]
        frames = {frame for *_, frame in drawn(display)[0][1:]}
        assert len(frames) == 3
        texts = [text.get_text() for text in display.legend_.get_texts()]
        assert texts == ["near", "far", "other"]
        display = NeighborsDisplay([None], [images], [[3, 2, 1]], kinds=[[np.True_, None, False]])
        texts = [text.get_text() for text in display.plot().legend_.get_texts()]
        assert texts == ["hit", "miss", "unknown"]
        assert NeighborsDisplay([None], [images], [[3, 2, 1]]).plot().legend_ is None

    def test_many_results_go_on_in_lines(self):
        display = NeighborsDisplay([None, None], [[colour(1)] * 23, []], [np.ones(23), []]).plot()
        assert display.axes_.shape == (4, 11)
        assert [sum(axis is not None for axis in line) for line in display.axes_] == [11, 10, 3, 1]
        assert display.axes_[3, 0].get_title() == "query: nothing found"

    def test_labels_are_whole_and_inside(self):
        """Long ones, with what would be a formula, on as many lines as they need."""
        tags = ["$x$", "Łódź", "a" * 40, "_b_", "more", "still more"]
        display = NeighborsDisplay(
            [None], [[colour(1)] * 3] , [[1, 1, 1]],
            query_names=[["words", "-of", "a very long query"]], names=[[tags, "one text", []]],
        ).plot()  # fmt: skip
        label = display.axes_[0, 1].get_xlabel()
        assert label.replace("\n", "").replace(" ", "") == f"$x$,Łódź,{'a' * 40},_b_,and2more"
        assert max(map(len, label.split("\n"))) <= 16
        display.figure_.canvas.draw()
        renderer, (width, height) = display.figure_.canvas.get_renderer(), display.figure_.bbox.size
        boxes = [axis.xaxis.label.get_window_extent(renderer) for axis in display.axes_[0]]
        boxes += [axis.title.get_window_extent(renderer) for axis in display.axes_[0]]
        for box in boxes:
            assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height  # noqa: PT018
        assert boxes[1].x1 <= boxes[2].x0
        texts = [text.get_text() for text in display.axes_[0, 0].texts]
        assert " ".join(texts).replace("\n", " ") == "words, -of, a very long query"

    def test_of_a_quantizer_and_of_a_pipeline(self, fitted, made):
        images = load_emoji().images[:90]
        display = plot_neighbors(
            fitted, made.data[90:92], images, query_images=images[:2], n_neighbors=4,
            query_labels=made.target[90:92], database_labels=made.target[:90],
        )  # fmt: skip
        similarities, rows = fitted.kneighbors(made.data[90:92], 4)
        np.testing.assert_allclose(display.similarities, similarities)
        expected = np.asarray(made.target)[rows] == np.asarray(made.target)[90:92, None]
        assert [[kind == "hit" for kind in row] for row in display.kinds] == expected.tolist()
        by_words = plot_neighbors(fitted, None, images, words=["c1_t0"], n_neighbors=4)
        assert by_words.axes_[0, 0].texts[0].get_text() == "c1_t0"
        np.testing.assert_allclose(
            by_words.similarities, fitted.kneighbors_of_tags(["c1_t0"], 4)[0]
        )
        embedder = HypersphereEmbedder(max_iter=1, hidden_layer_sizes=(4,), random_state=0)
        codes = WSDHQuantizer("passthrough", n_codebooks=1, n_codewords=8)
        steps = Pipeline([("embedder", embedder), ("codes", codes)]).fit(made.data, made.tags)
        assert plot_neighbors(steps, made.data[:1], [None] * 120, n_neighbors=2).axes_.shape == (
            1,
            3,
        )
        with pytest.raises(TypeError, match="no kneighbors"):
            plot_neighbors(embedder, made.data[:1], images)

    def test_of_a_collection(self, tmp_path, made):
        quantizer = WSDHQuantizer(n_bits=8, n_codewords=16, random_state=0)
        with Collection.create(tmp_path / "c", made.data, made.tags, quantizer=quantizer) as photos:
            tag, other = made.tags[0][0].upper(), made.tags[1][0]
            display = plot_neighbors(photos, words=[tag, f"-{other}"], n_neighbors=5)
            found = photos.search(tags=[tag, f"-{other}"], k=5)
            assert display.axes_[0, 0].texts[0].get_text().replace("\n", " ") == f"{tag}, -{other}"
            assert display.kinds == [
                ["hit" if tag.lower() in t and other not in t else "miss" for t in found.tags]
            ]
            assert [axis.get_title() for axis in display.axes_[0, 1:]] == [
                f"{value:.2f}" for value in found.similarities
            ]
            alike = plot_neighbors(photos, like=0, n_neighbors=3, where=None)
            shared = [bool(set(made.tags[0]) & set(t)) for t in photos.search(like=0, k=3).tags]
            assert [kind == "hit" for kind in alike.kinds[0]] == shared
            labels = {"0": "x", photos.search(like=0, k=1).ids[0]: "x"}
            judged = plot_neighbors(photos, like=0, n_neighbors=2, labels=labels)
            assert judged.kinds == [["hit", None]]
            # Nobody knows what a picture without tags should find.
            by_picture = NeighborsDisplay.from_collection(photos, made.data[0], n_neighbors=2)
            assert by_picture.kinds == [[None, None]]
            results = photos.search(tags=tag, k=1)
            again = NeighborsDisplay.from_collection(photos, words=tag, results=results)
            assert len(again.images[0]) == 1

    def test_pictures_that_are_gone_and_figures_that_are_given(self, tmp_path):
        figure = matplotlib.figure.Figure(figsize=(3, 2), layout="constrained")
        display = NeighborsDisplay([colour(3)], [[tmp_path / "gone.png", None]], [[1, 0]])
        assert display.plot(figure).figure_ is figure
        assert tuple(figure.get_size_inches()) == (3, 2)
        assert display.axes_[0, 2].texts[0].get_text() == "no picture"

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"query_images": []}, "no queries"),
            ({"similarities": [[1, 2]]}, "similarities should be as many"),
            ({"names": [[]]}, "names should be as many"),
            ({"kinds": [["good"]]}, "'good' should be one of hit, miss"),
            ({"levels": "hit"}, "levels="),
            ({"query_names": ["a", "b"]}, "2 query_names"),
        ],
    )
    def test_errors(self, given, message):
        good = {"query_images": [None], "images": [[None]], "similarities": [[1]]}
        with pytest.raises(ValueError, match=message):
            NeighborsDisplay(**{**good, **given})
        with pytest.raises(ValueError, match="labels of both"):
            NeighborsDisplay.from_predictions([None], [None], [[1]], [[0]], query_labels=[1])
        with pytest.raises(ValueError, match="labels of as many queries"):
            NeighborsDisplay.from_predictions(
                [None], [None], [[1]], [[0]], query_labels=[1, 2], database_labels=[1]
            )
