"""The report as a file: what it holds, what it tells, and that strangers' names stay text."""

import base64
import builtins
import hashlib
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import sparse
from sklearn.pipeline import Pipeline

from skwsdhq import (
    Collection,
    HypersphereEmbedder,
    ImageLoader,
    TagEnhancer,
    TagKernelRegressor,
    WSDHQuantizer,
)
from skwsdhq.datasets import make_tagged_images
from skwsdhq.embedding import doubtful_tags
from skwsdhq.embedding.agreement import agreement_of, expected_embeddings
from skwsdhq.images.reading import thumbnail
from skwsdhq.report import _figures, _material, _pictures, _report, retrieval_report
from skwsdhq.search import CodeIndex

HOSTILE = [
    "</script><script>window.hacked=1</script>",
    "<img src=x onerror=window.hacked=1>",
    "<!--<script>",
    "\" onmouseover=window.hacked=1 '",
    "{{ 7 * 7 }}{% raw %}",
    "a\u2028b\u202etxt.exe",
    "]]></style></title><svg/onload=window.hacked=1>",
]


class Page(HTMLParser):
    """Read a page: its tags with attributes, its texts, and the JSON that it holds."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.texts, self.raw, self._inside = [], [], {}, None
        self.source = Path(path).read_text("utf-8")
        self.feed(self.source)
        self.data = json.loads(self.raw["data"])
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._inside = None
        if tag in ("script", "style"):
            self._inside = dict(attributes).get("id", tag)

    def handle_endtag(self, tag):
        self._inside = None

    def handle_data(self, data):
        if self._inside is None:
            self.texts.append(data)
        else:
            self.raw[self._inside] = self.raw.get(self._inside, "") + data

    def array(self, name, dtype):
        return np.frombuffer(base64.b64decode(self.data[name]), dtype=dtype)


@pytest.fixture(scope="module")
def made():
    return make_tagged_images(120, random_state=0)


@pytest.fixture(scope="module")
def fitted(made):
    embedder = HypersphereEmbedder(max_iter=2, hidden_layer_sizes=(8,), random_state=0)
    return WSDHQuantizer(embedder, n_bits=8, n_codewords=16, random_state=0).fit(
        made.data, made.tags
    )


@pytest.fixture(scope="module")
def pictures():
    return make_tagged_images(120, kind="images", random_state=0).data


@pytest.fixture
def page(tmp_path):
    def write(estimator, *args, **options):
        path = tmp_path / "report.html"
        assert retrieval_report(estimator, *args, path=path, **options) == str(path)
        return Page(path)

    return write


class TestWhatItHolds:
    def test_one_file_without_a_network(self, page, fitted, made, pictures):
        read = page(fitted, made.data, made.tags, images=pictures)
        assert not [tag for tag, _ in read.tags if tag in ("link", "iframe", "object", "img")]
        assert not [a for _, a in read.tags for name in a if name.startswith("on")]
        addresses = [a[name] for _, a in read.tags for name in ("src", "href") if name in a]
        assert all(address.startswith("#") for address in addresses)
        assert "http:" not in read.source
        assert "https:" not in read.source
        assert len(read.data["pictures"]) == 120
        assert all(one.startswith("data:image/webp;base64,") for one in read.data["pictures"])

    def test_only_its_own_script_and_style_may_run(self, page, fitted, made):
        read = page(fitted, made.data, made.tags)
        policy = next(a["content"] for _, a in read.tags if a.get("http-equiv"))
        assert policy.startswith("default-src 'none'; img-src data:;")
        for kind in ("script", "style"):
            text = read.raw[kind]
            own = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
            assert f"{kind}-src 'sha256-{own}'" in policy
        assert "unsafe" not in policy

    def test_arrays_are_those_that_the_library_ranks_by(self, page, fitted, made):
        read = page(fitted, made.data, made.tags)
        codes = fitted.encode(made.data)
        assert read.data["shape"] == list(fitted.codebooks_.shape)
        np.testing.assert_array_equal(read.array("codes", "u1").reshape(codes.shape), codes)
        np.testing.assert_array_equal(read.array("codebooks", "<f4"), fitted.codebooks_.ravel())
        embeddings = fitted.transform(made.data)
        np.testing.assert_array_equal(read.array("vectors", "<f4"), embeddings.ravel())
        _, rows = CodeIndex(fitted.codebooks_, codes).search(embeddings, 100, exclude_self=True)
        assert read.data["nFirst"] == 100
        np.testing.assert_array_equal(read.array("first", "<u2"), rows.ravel())

    def test_words_of_the_fit_are_found_as_the_library_finds_them(self, page, fitted, made):
        read = page(fitted, made.data, made.tags)
        assert set(read.data["words"]) == set(fitted.tag_enhancer_.vocabulary_)
        first = read.array("wordFirst", "<u2").reshape(-1, read.data["nWordFirst"])
        for word, place in zip(read.data["words"], read.data["wordOf"], strict=True):
            _, rows = fitted.kneighbors_of_tags([{word: 1.0}], 100)
            np.testing.assert_array_equal(first[place], rows[0])

    def test_codes_of_many_codewords(self, page, made):
        embedder = TagKernelRegressor(random_state=0)
        wide = WSDHQuantizer(embedder, n_codebooks=1, n_codewords=257, codebook_iters=1)
        more = make_tagged_images(300, random_state=0)
        read = page(wide.fit(more.data, more.tags), more.data, more.tags)
        assert read.data["wide"]
        codes = wide.encode(more.data)
        np.testing.assert_array_equal(read.array("codes", "<u2").reshape(codes.shape), codes)

    def test_without_pictures_names_stand_in_their_place(self, page, fitted, made):
        read = page(fitted, made.data, made.tags)
        assert read.data["pictures"] is None
        assert read.data["names"] == [str(i) for i in range(120)]

    def test_some_of_many_are_drawn(self, page, fitted, made):
        read = page(fitted, made.data, made.tags, made.target, max_images=50)
        assert read.data["n"] == 50
        rows = [int(name) for name in read.data["names"]]
        assert rows == sorted(set(rows))
        # A row's last bits depend on the rows that it is computed with.
        np.testing.assert_allclose(
            read.array("vectors", "<f4"), fitted.transform(made.data)[rows].ravel(), atol=1e-6
        )
        assert "Of 120 pictures 50 were drawn at random" in read.text


class TestNamesOfStrangers:
    @pytest.mark.parametrize("where", ["names", "tags", "labels", "title"])
    def test_are_text(self, page, made, where):
        tags = [row + [HOSTILE[i % 7]] for i, row in enumerate(made.tags)]
        tags = tags if where == "tags" else made.tags
        names = [HOSTILE[i % 7] + "\ud800\x00" for i in range(120)] if where == "names" else None
        labels = [HOSTILE[i % 7] for i in range(120)] if where == "labels" else None
        model = WSDHQuantizer(
            TagKernelRegressor(random_state=0), n_bits=8, n_codewords=16, random_state=0
        )
        model.fit(made.data, tags)
        title = " ".join(HOSTILE) if where == "title" else "plain"
        read = page(model, made.data, tags, labels, names=names, title=title)
        assert [tag for tag, _ in read.tags].count("script") == 2
        assert not {tag for tag, _ in read.tags} & {"img", "b", "iframe"}
        assert not [a for _, a in read.tags for name in a if name.startswith("on")]
        # Within JSON neither markup nor a line separator may stand as such.
        assert not re.search("[<>&\u2028\u2029]", read.raw["data"])
        lowered = [" ".join(one.lower().split()) for one in HOSTILE]
        if where == "tags":
            assert set(lowered) <= set(read.data["tagNames"])
        elif where == "names":
            assert read.data["names"][:7] == [one + "?\ufffd" for one in HOSTILE]
        else:
            for one in lowered:
                assert one in read.text.lower()

    def test_pictures_are_written_anew(self, page, fitted, made, tmp_path):
        file = io.BytesIO()
        Image.new("RGB", (8, 8), "red").save(file, "PNG")
        (tmp_path / "a.png").write_bytes(file.getvalue() + b"<script>hidden</script>")
        (tmp_path / "b.png").write_text("<svg onload=alert(1)>")
        paths = [tmp_path / "a.png", tmp_path / "b.png", tmp_path / "none.png", None] * 30
        read = page(fitted, made.data, made.tags, images=paths)
        first, *others = read.data["pictures"][:4]
        assert others == ["", "", ""]
        content = base64.b64decode(first.partition(",")[2])
        assert b"hidden" not in content
        assert Image.open(io.BytesIO(content)).size == (8, 8)


class TestFigures:
    @pytest.mark.parametrize("kind", ["tags", "classes", "lists", "indicator"])
    def test_map_is_that_of_score(self, page, fitted, made, kind):
        target = np.asarray(made.target)
        labels = {
            "tags": None,
            "classes": target,
            "lists": [[f"group {label}"] for label in target],
            "indicator": (target[:, None] == np.unique(target)).astype(int),
        }[kind]
        score = fitted.score(made.data, made.tags, labels=labels)
        read = page(fitted, made.data, made.tags, labels)
        assert f"mAP@5000 {score:.3f} by shared {'tags' if labels is None else 'labels'}" in (
            read.text
        )
        known = [value for value in read.data["precision"] if value is not None]
        assert np.mean(known) == pytest.approx(score, abs=1e-4)

    def test_top_k(self, page, fitted, made):
        twin = WSDHQuantizer(**(fitted.get_params(deep=False) | {"top_k": 3}))
        vars(twin).update({k: v for k, v in vars(fitted).items() if k.endswith("_")})
        score = twin.score(made.data, made.tags)
        assert f"mAP@3 {score:.3f}" in page(fitted, made.data, made.tags, top_k=3).text
        assert f"mAP@3 {score:.3f}" in page(twin, made.data, made.tags).text

    def test_by_label_and_at_the_ends(self, fitted, made):
        read = _material.of_estimator(fitted, made.data, made.tags, made.target, None, None, 5000)
        judged = _figures.judge(read, 5000, 4)
        rows = _figures.scores_of_labels(read, judged, 100)
        for row in rows:
            own = np.asarray(made.target) == int(row["name"])
            assert row["count"] == own.sum()
            assert row["score"] == pytest.approx(judged.precision[own].mean())
        assert [row["score"] for row in rows] == sorted(row["score"] for row in rows)
        ends = _figures.queries_at_the_ends(judged, 3)
        assert ends["best"][0]["precision"] == judged.precision.max()
        assert ends["worst"][0]["precision"] == judged.precision.min()
        one = ends["worst"][0]
        _, found = CodeIndex(fitted.codebooks_, read.codes).search(
            read.embeddings[[one["row"]]], 4, exclude=[one["row"]]
        )
        assert [row for row, _, _ in one["found"]] == found[0].tolist()
        target = np.asarray(made.target)
        hits = [bool(target[row] == target[one["row"]]) for row in found[0]]
        assert [hit for _, _, hit in one["found"]] == hits

    def test_codewords_on_paper(self, fitted, made):
        read = _material.of_estimator(fitted, made.data, made.tags, None, None, None, 5000)
        read.codes = np.array([[0, 3]] * 2 + [[1, 3]] * 2)
        first, second = _figures.codewords(read)
        assert (first["entropy"], first["capacity"], first["unused"]) == (1, 4, 14)
        assert (second["entropy"], second["unused"], second["largest"]) == (0, 15, 1)

    def test_duplicates_are_those_of_features(self, fitted, made):
        X = made.data.copy()
        X[7] = X[3]
        read = _material.of_estimator(fitted, X, made.tags, None, None, None, 5000)
        found = _figures.near_duplicates(read, 0.999, 10)
        assert (found["n"], found["pairs"][0][:2]) == (1, (3, 7))

    def test_merged_concepts(self, page, made):
        vectors = {
            tag: np.random.RandomState(i).randn(8)
            for i, tag in enumerate(sorted({tag for row in made.tags for tag in row}))
        }
        vectors["c0_t1"] = vectors["c0_t0"]
        model = WSDHQuantizer(
            TagKernelRegressor(TagEnhancer(vectors), random_state=0), n_bits=8, n_codewords=16
        ).fit(made.data, made.tags)
        text = page(model, made.data, made.tags).text
        assert re.search(r"c0_t[01] c0_t[01] \d+ 1\.00", text)


class TestDoubts:
    def test_mistakes_are_found(self, made):
        """A tag of another picture's in each tenth row."""
        random = np.random.RandomState(0)
        kinds = np.asarray(made.target)
        tags = [list(row) for row in made.clean_tags]
        wrong = np.arange(0, 120, 10)
        planted = {}
        for row in wrong:
            other = random.choice(np.flatnonzero(kinds != kinds[row]))
            planted[row] = made.clean_tags[other][0]
            tags[row].append(planted[row])
        model = WSDHQuantizer(
            TagKernelRegressor(random_state=0), n_bits=8, n_codewords=16, random_state=0
        ).fit(made.data, tags)
        read = _material.of_estimator(model, made.data, tags, None, None, None, 5000)
        doubts = _figures.doubtful_tags(read, len(wrong))
        found = {(one["row"], tag) for one in doubts["rows"] for tag in one["tags"]}
        assert len(found & set(planted.items())) >= 7  # of 12, among 372 tags
        assert doubts["by_fit"]
        listed = doubtful_tags(model, made.data, tags, 12)
        flat = [(one["row"], tag, one["cosine"]) for one in doubts["rows"] for tag in one["tags"]]
        # The report leaves out what agrees better than other pictures' tags do.
        assert [tuple(one.values()) for one in listed][: len(flat)] == flat[:12]
        assert [one["cosine"] for one in doubts["rows"]] == sorted(
            one["cosine"] for one in doubts["rows"]
        )

    def test_rows_of_the_fit_are_left_out_of_it(self, made):
        model = TagKernelRegressor(consistency=0, random_state=0).fit(made.data, made.tags)
        tagged = np.ones(120, dtype=bool)
        expected = expected_embeddings(model, made.data, tagged)
        plain = model.transform(made.data)
        assert not np.allclose(expected, plain, atol=0.01)
        # In another order, and rows that the fit has not seen beside them.
        order = np.random.RandomState(0).permutation(120)[:50]
        later = make_tagged_images(5, random_state=9).data
        X = np.concatenate([made.data[order], later])
        again = expected_embeddings(model, X, np.ones(55, dtype=bool))
        np.testing.assert_allclose(again[:50], expected[order], atol=1e-4)
        np.testing.assert_allclose(again[50:], model.transform(later), atol=1e-4)

    def test_without_a_regression_embeddings_tell(self, made):
        embedder = HypersphereEmbedder(
            kernel_weight=0, max_iter=2, hidden_layer_sizes=(8,), random_state=0
        )
        model = WSDHQuantizer(embedder, n_bits=8, n_codewords=16, random_state=0)
        model.fit(made.data, made.tags)
        read = _material.of_estimator(model, made.data, made.tags, None, None, None, 5000)
        assert not _figures.doubtful_tags(read, 5)["by_fit"]
        with pytest.raises(ValueError, match="WSDHQuantizer has no kernel regression"):
            doubtful_tags(model, made.data, made.tags)
        codes = WSDHQuantizer("passthrough", n_codebooks=1, n_codewords=8).fit(made.data)
        with pytest.raises(ValueError, match="no kernel regression"):
            doubtful_tags(codes, made.data, made.tags)

    def test_no_tags(self):
        found = agreement_of(np.zeros((2, 3)), sparse.csr_array((2, 4)), np.zeros((4, 3)))
        assert len(found.cosines) == 0
        assert found.wrong_share == 0


class TestSources:
    def test_pipeline(self, page, made):
        embedder = HypersphereEmbedder(max_iter=2, hidden_layer_sizes=(8,), random_state=0)
        codes = WSDHQuantizer("passthrough", n_codebooks=1, n_codewords=8, random_state=0)
        piped = Pipeline([("none", "passthrough"), ("embedder", embedder), ("codes", codes)])
        piped.fit(made.data, made.tags)
        read = page(piped, made.data, made.tags)
        assert f"mAP@5000 {piped.score(made.data, made.tags):.3f}" in read.text
        assert set(read.data["words"]) == set(piped["embedder"].tag_enhancer_.vocabulary_)
        own = _material.of_estimator(piped, made.data, made.tags, None, None, None, 5000)
        assert _figures.doubtful_tags(own, 5)["by_fit"]

    def test_embeddings_alone(self, page, made):
        codes = WSDHQuantizer("passthrough", n_codebooks=1, n_codewords=8, random_state=0)
        codes.fit(made.data)
        read = page(codes, made.data, labels=made.target)
        assert read.data["words"] == []
        assert f"{codes.score(made.data, labels=made.target):.3f} by shared labels" in read.text
        read = page(codes, made.data)
        assert "mAP" not in read.text

    def test_collection(self, page, tmp_path, made):
        for i in range(120):
            Image.new("RGB", (9, 9), (i, 20, 20)).save(tmp_path / f"{i}.png")
        tags = [list(row) for row in made.tags]
        tags[5] = []
        photos = Collection.create(
            tmp_path / "photos", made.data, tags, n_bits=8, random_state=0,
            ids=[f"id {i}" for i in range(120)],
        )  # fmt: skip
        photos.remove(["id 3"])
        photos.update_tags(["id 7"], [["c0_t0"]])
        read = page(photos)
        ids = photos.ids()
        assert read.data["names"] == ids
        first = read.array("first", "<u2").reshape(119, -1)
        for row in (0, 6, 118):
            found = photos.search(like=ids[row], k=100)
            assert [ids[i] for i in first[row][:100]] == found.ids
        words = read.array("wordFirst", "<u2").reshape(-1, read.data["nWordFirst"])
        place = read.data["wordOf"][read.data["words"].index("c2_t0")]
        assert [ids[i] for i in words[place]] == photos.search(tags=["c2_t0"], k=100).ids
        assert "1 without tags" in read.text

        labels = {f"id {i}": f"kind {made.target[i]}" for i in range(0, 120, 2)}
        score = photos.evaluate(labels)
        assert (
            f"mAP@5000 {score:.3f} by shared labels, 60 queries" in page(photos, labels=labels).text
        )
        listed = [f"kind {made.target[int(name[3:])]}" for name in ids]
        assert f"mAP@5000 {photos.evaluate(listed):.3f}" in page(photos, labels=listed).text
        with pytest.raises(ValueError, match="none of the 1 ids"):
            page(photos, labels={"other": "a"})
        # Pictures that are given, and other rows by its model.
        shown = [tmp_path / f"{name[3:]}.png" for name in ids]
        assert all(page(photos, images=shown).data["pictures"])
        assert page(photos, made.data[:30], made.tags[:30]).data["n"] == 30
        photos.close()

    def test_images(self, page, pictures):
        tags = make_tagged_images(120, kind="images", random_state=0).tags

        def mean_colour(batch):
            return batch.mean(axis=(1, 2))

        codes = WSDHQuantizer(
            TagKernelRegressor(random_state=0), n_bits=8, n_codewords=16, random_state=0
        )
        piped = Pipeline([("images", ImageLoader(mean_colour)), ("codes", codes)])
        read = page(piped.fit(pictures, tags), pictures, tags)
        assert all(read.data["pictures"])


class TestErrors:
    def test_what_is_given(self, fitted, made, tmp_path):
        path = tmp_path / "report.html"
        for arguments, options, error, message in (
            ((made.data, made.tags[:5]), {}, ValueError, "5 rows of tags, should be 120"),
            ((made.data, made.tags, [1, 2]), {}, ValueError, "2 rows of labels"),
            ((made.data, made.tags), {"names": ["a"]}, ValueError, "1 names, should be 120"),
            ((made.data, made.tags), {"images": [None]}, ValueError, "1 images, should be 120"),
            ((made.data, made.tags), {"max_images": 1}, ValueError, "max_images=1"),
            ((made.data, made.tags), {"top_k": 0}, ValueError, "top_k=0"),
            ((None, made.tags), {}, ValueError, "X is None"),
        ):
            with pytest.raises(error, match=message):
                retrieval_report(fitted, *arguments, path=path, **options)
        with pytest.raises(TypeError, match="TagKernelRegressor makes no codes"):
            retrieval_report(TagKernelRegressor(), made.data, made.tags, path=path)
        assert not list(tmp_path.iterdir())

    def test_without_jinja2(self, fitted, made, monkeypatch):
        real = builtins.__import__

        def missing(name, *args, **kwargs):
            if name.startswith("jinja2"):
                raise ImportError("no jinja2")
            return real(name, *args, **kwargs)

        monkeypatch.setattr(builtins, "__import__", missing)
        with pytest.raises(ImportError, match=r"pip install skwsdhq\[report\]"):
            retrieval_report(fitted, made.data, made.tags)

    def test_what_is_there_stays_where_it_fails(self, fitted, made, tmp_path, monkeypatch):
        path = tmp_path / "report.html"
        path.write_text("before")

        def fail(context):
            raise RuntimeError("power cut")

        monkeypatch.setattr(_report, "render", fail)
        with pytest.raises(RuntimeError, match="power cut"):
            retrieval_report(fitted, made.data, made.tags, path=path)
        assert path.read_text() == "before"


class TestPictures:
    def test_size_is_chosen_by_what_fits(self, monkeypatch):
        noise = np.random.RandomState(0).randint(0, 256, (20, 140, 140, 3), dtype=np.uint8)
        large = _pictures.data_uris(noise)
        monkeypatch.setattr(_pictures, "_BUDGET", 20 * 2000)
        small = _pictures.data_uris(noise)
        size = Image.open(io.BytesIO(base64.b64decode(large[0].partition(",")[2]))).size
        assert size == (128, 128)
        assert sum(map(len, small)) <= 20 * 2000 * 1.1
        assert _pictures.data_uris([]) == []

    def test_a_given_picture_stays_as_large_as_it_is(self):
        picture = Image.new("RGB", (300, 200))
        assert thumbnail(picture, 30).size == (30, 20)
        assert picture.size == (300, 200)
