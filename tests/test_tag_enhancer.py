"""TagEnhancer: concepts that a person understands, from every kind of word vectors."""

import gzip
import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn.base import clone

from skwsdhq import TagEnhancer
from skwsdhq.tags import check_tags, tag_cooccurrence, vectors_from_cooccurrence
from skwsdhq.tags._word_vectors import load_word_vectors

from .reference import tags as reference

VECTORS = {
    "dog": [1.0, 0.0, 0.0],
    "puppy": [0.99, 0.14, 0.0],
    "car": [0.0, 1.0, 0.0],
    "auto": [0.0, 0.995, 0.1],
    "sky": [0.0, 0.0, 1.0],
}
ROWS = [["dog", "puppy"], ["dog"], ["car", "sky"], ["auto"], ["sky"], []]


def fitted(**parameters):
    return TagEnhancer(VECTORS, **parameters).fit(ROWS)


def test_shapes_and_what_they_mean():
    enhancer = fitted(tau=0.9, eps=0.02)
    assert enhancer.vocabulary_ == {"auto": 0, "car": 1, "dog": 2, "puppy": 3, "sky": 4}
    assert enhancer.tag_vectors_.shape == (5, 3)
    assert_allclose(enhancer.tag_vectors_[2], VECTORS["dog"])
    assert (enhancer.graph_.toarray() > 0).sum() == 9  # five selves and two pairs, both ways
    assert enhancer.labels_.tolist() == [0, 0, 1, 1, 2]
    assert list(enhancer.concept_names_) == ["auto", "dog", "sky"]
    assert_allclose(np.linalg.norm(enhancer.concept_vectors_, axis=1), 1, rtol=1e-6)
    assert enhancer.tag_counts_.tolist() == [1, 1, 2, 1, 2]


def test_transform_and_back():
    enhancer = fitted()
    concepts = enhancer.transform([["puppy", "dog"], ["car", "unseen"], [], ["unseen"]])
    assert isinstance(concepts, sparse.csr_array)
    assert_array_equal(concepts.toarray(), [[0, 1, 0], [1, 0, 0], [0, 0, 0], [0, 0, 0]])
    names = enhancer.inverse_transform(concepts)
    assert names == [["dog"], ["auto"], [], []]
    assert_array_equal(enhancer.transform(names).toarray(), concepts.toarray())
    assert enhancer.inverse_transform(concepts.toarray()) == names
    with pytest.raises(ValueError, match="expected 3"):
        enhancer.inverse_transform(np.zeros((1, 2)))


def test_nothing_is_merged_at_eps_0():
    enhancer = fitted(eps=0)
    assert enhancer.labels_.tolist() == [0, 1, 2, 3, 4]
    assert list(enhancer.get_feature_names_out()) == ["auto", "car", "dog", "puppy", "sky"]


def test_summary_tells_what_was_merged():
    table = fitted().concept_summary()
    assert [row["tags"] for row in table] == [["auto", "car"], ["dog", "puppy"], ["sky"]]
    assert [row["n_samples"] for row in table] == [2, 3, 2]
    assert 0.99 < table[1]["similarity"] < 1
    assert table[2]["similarity"] == pytest.approx(1)
    assert list(pd.DataFrame(table).columns) == ["concept", "tags", "n_samples", "similarity"]


def test_choice_of_tags():
    assert list(fitted(min_count=2).vocabulary_) == ["dog", "sky"]
    assert list(fitted(max_tags=3).vocabulary_) == ["auto", "dog", "sky"]
    assert list(fitted(stop_tags=["Sky", "absent"]).vocabulary_) == ["auto", "car", "dog", "puppy"]
    assert list(fitted(vocabulary=["sky", "dog"]).vocabulary_) == ["sky", "dog"]
    with pytest.raises(ValueError, match="no tag remains of 5"):
        fitted(min_count=3)
    with pytest.raises(ValueError, match="no tag remains"):
        TagEnhancer().fit([[], []])


def test_indicator_with_names_of_columns():
    table = np.array([[1, 0, 1], [0, 1, 0], [1, 1, 0]])
    for form in (table, sparse.csr_array(table), sparse.csr_matrix(table)):
        enhancer = TagEnhancer(VECTORS, vocabulary=["dog", "car", "puppy"]).fit(form)
        assert list(enhancer.vocabulary_) == ["dog", "car", "puppy"]
        assert_array_equal(enhancer.transform(form).toarray(), [[1, 0], [0, 1], [1, 1]])
        # lists and indicator mean the same
        assert_array_equal(enhancer.transform([["puppy"]]).toarray(), [[1, 0]])
    frame = pd.DataFrame(table, columns=["dog", "car", "puppy"])
    assert list(TagEnhancer(VECTORS).fit(frame).vocabulary_) == ["dog", "car", "puppy"]
    with pytest.raises(ValueError, match="features"):
        enhancer.transform(np.ones((2, 4)))


def test_columns_that_were_left_out_stay_out():
    table = np.array([[1, 0, 1], [0, 0, 1], [1, 0, 0]])
    enhancer = TagEnhancer(VECTORS, vocabulary=["dog", "sky", "car"]).fit(table)
    assert list(enhancer.vocabulary_) == ["dog", "car"]
    assert_array_equal(enhancer.transform(np.array([[0, 1, 1]])).toarray(), [[0, 1]])


def test_policies_for_tags_without_a_vector():
    rows = [["dog", "xx"], ["car"], ["yy"]]
    with pytest.warns(UserWarning, match="2 of 4 tags .* 1 got .* 1 were dropped") as caught:
        enhancer = TagEnhancer(VECTORS).fit(rows)
    assert len(caught) == 1
    assert list(enhancer.missing_tags_) == ["xx", "yy"]
    assert list(enhancer.vocabulary_) == ["car", "dog", "xx"]
    assert enhancer.labels_.tolist() == [0, 1, 1]  # xx is where dog is
    with pytest.warns(UserWarning, match="0 got .* 2 were dropped"):
        dropped = TagEnhancer(VECTORS, missing="drop").fit(rows)
    assert list(dropped.vocabulary_) == ["car", "dog"]
    with pytest.raises(ValueError, match="2 of 4 tags have no word vector"):
        TagEnhancer(VECTORS, missing="error").fit(rows)
    with pytest.raises(ValueError, match="none of the 1 tags has a word vector"):
        TagEnhancer(VECTORS).fit([["xx"]])


def test_vectors_are_learned_where_none_are_given():
    rows = [["a", "b"], ["a", "b", "c"], ["d", "e"], ["d", "e", "f"]] * 5
    enhancer = TagEnhancer(tau=0.9, eps=0.05).fit(rows)
    of = {tag: enhancer.labels_[t] for tag, t in enhancer.vocabulary_.items()}
    assert of["a"] == of["b"]
    assert of["a"] != of["d"]
    assert TagEnhancer(vector_size=2).fit(rows).tag_vectors_.shape == (6, 2)


def test_common_components_are_removed_where_they_can_be_told():
    rng = np.random.default_rng(0)
    vectors = {f"t{t}": rng.standard_normal(5) + 10 for t in range(120)}
    rows = [[tag] for tag in vectors]
    auto = TagEnhancer(vectors, cooccurrence_weight=0).fit(rows)
    assert abs(auto.tag_vectors_.mean()) < 0.5
    assert np.linalg.matrix_rank(auto.tag_vectors_, tol=1e-3) == 4
    assert (
        TagEnhancer(vectors, remove_components=None, cooccurrence_weight=0)
        .fit(rows)
        .tag_vectors_.mean()
        > 9
    )
    assert TagEnhancer(vectors).fit(rows[:50]).tag_vectors_.mean() > 9
    mean_only = TagEnhancer(vectors, remove_components=0, cooccurrence_weight=0).fit(rows)
    assert np.linalg.matrix_rank(mean_only.tag_vectors_, tol=1e-3) == 5


def test_given_and_learned_vectors_are_joined():
    rows = [["dog", "car"], ["dog", "car"], ["puppy"], ["sky"], ["auto", "sky"]]
    alone = TagEnhancer(VECTORS, cooccurrence_weight=0).fit(rows).tag_vectors_
    learned = TagEnhancer().fit(rows).tag_vectors_
    joined = TagEnhancer(VECTORS, cooccurrence_weight=0.5).fit(rows).tag_vectors_
    assert joined.shape[1] == alone.shape[1] + learned.shape[1]
    expected = (cosines(alone) + 0.25 * cosines(learned)) / 1.25
    assert_allclose(joined @ joined.T, expected, atol=1e-5)
    assert TagEnhancer(VECTORS).fit(rows).tag_vectors_.shape[1] == 3  # few tags: not joined


def cosines(rows):
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit @ unit.T


def test_clones_share_word_vectors_and_pickles_are_equal(emoji):
    enhancer = TagEnhancer(emoji.word_vectors, min_count=20)
    assert clone(enhancer).word_vectors is emoji.word_vectors
    assert clone(enhancer).min_count == 20
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        enhancer.fit(emoji.tags)
    again = pickle.loads(pickle.dumps(enhancer))
    assert_array_equal(
        again.transform(emoji.tags).toarray(), enhancer.transform(emoji.tags).toarray()
    )


# --- files and names of word vectors --------------------------------------------------------


@pytest.fixture
def keyed():
    from gensim.models import KeyedVectors

    keyed = KeyedVectors(3)
    keyed.add_vectors(list(VECTORS), np.array(list(VECTORS.values()), dtype=np.float32))
    return keyed


def write_glove(path):
    lines = [f"{word} {' '.join(map(str, vector))}\n" for word, vector in VECTORS.items()]
    path.write_text("".join(lines))


@pytest.mark.parametrize("binary", [True, False])
def test_word2vec_files(tmp_path, keyed, binary):
    path = tmp_path / "vectors.w2v"
    keyed.save_word2vec_format(str(path), binary=binary)
    for given in (path, str(path)):
        enhancer = TagEnhancer(given).fit(ROWS)
        assert_allclose(enhancer.tag_vectors_, fitted().tag_vectors_, rtol=1e-6)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # gensim's file
def test_glove_and_gzipped_files(tmp_path, keyed):
    write_glove(tmp_path / "glove.txt")
    assert_allclose(load_word_vectors(tmp_path / "glove.txt")["puppy"], VECTORS["puppy"])
    plain = tmp_path / "plain.bin"
    keyed.save_word2vec_format(str(plain), binary=True)
    (tmp_path / "packed.bin.gz").write_bytes(gzip.compress(plain.read_bytes()))
    assert_allclose(load_word_vectors(tmp_path / "packed.bin.gz")["car"], VECTORS["car"])


def test_pickled_format_only_on_request(tmp_path, keyed):
    path = tmp_path / "vectors.kv"
    keyed.save(str(path))
    with pytest.raises(ValueError, match="allow_pickle=True"):
        TagEnhancer(path).fit(ROWS)
    enhancer = TagEnhancer(path, allow_pickle=True).fit(ROWS)
    assert_allclose(enhancer.tag_vectors_, fitted().tag_vectors_, rtol=1e-6)


@pytest.mark.parametrize(
    "content", [b"", b"no vectors here\n", b"5 3\n", b"99999999 300\n\x00\x01", b"\x80\x04pickle"]
)
def test_unreadable_files_are_refused_by_name(tmp_path, content):
    path = tmp_path / "broken.bin"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"broken\.bin"):
        TagEnhancer(path).fit(ROWS)


def test_missing_files_and_wrong_types(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.txt"):
        TagEnhancer(str(tmp_path / "nowhere.txt")).fit(ROWS)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        TagEnhancer(tmp_path / "nowhere").fit(ROWS)
    with pytest.raises(TypeError, match="int"):
        TagEnhancer(3).fit(ROWS)
    with pytest.raises(TypeError, match="list"):
        TagEnhancer([[1.0]]).fit(ROWS)


def test_downloader_names(tmp_path, monkeypatch, keyed):
    """A model in the layout of gensim.downloader's cache is found by its name, offline."""
    import gensim.downloader

    folder = tmp_path / "tiny-vectors"
    folder.mkdir()
    keyed.save_word2vec_format(str(folder / "tiny-vectors.gz"), binary=False)
    (folder / "__init__.py").write_text(
        "import os\nfrom gensim.models import KeyedVectors\n"
        "from gensim.downloader import BASE_DIR\n"
        "def load_data():\n"
        "    path = os.path.join(BASE_DIR, 'tiny-vectors', 'tiny-vectors.gz')\n"
        "    return KeyedVectors.load_word2vec_format(path)\n"
    )
    monkeypatch.setattr(gensim.downloader, "BASE_DIR", str(tmp_path))
    # The name of the file is all that the list of models, on the server, is asked for.
    monkeypatch.setattr(gensim.downloader, "_get_filename", lambda name: f"{name}.gz")
    enhancer = TagEnhancer("tiny-vectors").fit(ROWS)
    assert_allclose(enhancer.tag_vectors_, fitted().tag_vectors_, rtol=1e-6)


def test_downloader_out_of_reach_says_so(monkeypatch):
    import gensim.downloader

    def refuse(name):
        raise OSError("no route to host")

    monkeypatch.setattr(gensim.downloader, "load", refuse)
    with pytest.raises(OSError, match=r"'glove-none'.*could not be reached"):
        TagEnhancer("glove-none").fit(ROWS)


# --- what people really bring ---------------------------------------------------------------


def test_lists_of_equal_length_mean_what_others_mean():
    vectors = {str(t): np.eye(4)[i] for i, t in enumerate((0, 5, 7, 9))}
    enhancer = TagEnhancer(vectors).fit([[0, 5], [7], [0, 9, 7]])
    concepts = enhancer.transform([[0, 5, 7, 9], [5, 0, 0, 0]])
    assert_array_equal(concepts.toarray(), [[1, 1, 1, 1], [1, 1, 0, 0]])


def test_frames_of_nullable_numbers_are_indicators():
    frame = pd.DataFrame({"dog": [1, 0, 1], "car": [0, 1, 1]})
    for form in (frame.convert_dtypes(), frame.astype(bool).convert_dtypes(), frame.astype(object)):
        enhancer = TagEnhancer(VECTORS).fit(form)
        assert list(enhancer.vocabulary_) == ["dog", "car"]
        assert_array_equal(enhancer.transform(form).toarray(), frame)
    by_lists = TagEnhancer(VECTORS).fit([["car"], ["dog"], ["sky"]])
    assert_array_equal(by_lists.transform(frame).toarray(), [[0, 1, 0], [1, 0, 0], [1, 1, 0]])


def test_weights_as_a_matrix_count_with_a_warning():
    with pytest.warns(UserWarning, match=r"should hold 0 and 1; got 0\.5"):
        enhancer = TagEnhancer(VECTORS, vocabulary=["dog", "car"]).fit(
            np.array([[0.5, 0], [0, 2], [-1, 1]])
        )
    assert enhancer.tag_counts_.tolist() == [1, 2]


def test_stop_tags_compare_like_tags():
    rows = [["cafe\u0301", "dog"], ["İstanbul"]]
    for stop in (["CAFÉ", "istanbul"], ("cafe\u0301", "I\u0307stanbul")):
        assert list(TagEnhancer(stop_tags=stop).fit(rows).vocabulary_) == ["dog"]
    assert list(TagEnhancer(stop_tags="dog").fit(rows).vocabulary_) == ["café", "istanbul"]


PHRASES = "new york 0.1 0.2 0.3\ndog 1 0 0\n. . . 0 1 0\nroute 66 0 0 1\n"


@pytest.mark.parametrize("header", ["", "4 3\n", "\ufeff4 3\r\n", "\ufeff"])
@pytest.mark.parametrize("zipped", [False, True])
def test_words_with_spaces_in_text_files(tmp_path, header, zipped):
    text = header + (PHRASES.replace("\n", " \r\n") if "\r" in header else PHRASES)
    content = text.encode()
    path = tmp_path / ("vectors.txt.gz" if zipped else "vectors.txt")
    path.write_bytes(gzip.compress(content) if zipped else content)
    loaded = load_word_vectors(path)
    assert list(loaded) == ["new york", "dog", ". . .", "route 66"]
    assert_allclose([loaded[w] for w in loaded], [[0.1, 0.2, 0.3], *np.eye(3)], rtol=1e-6)


def test_odd_words_of_text_files(tmp_path):
    words = ["\u00a0", "\u0085", "dog", "dog", "nan", "हिन्दी", "7"]
    lines = [f"{word}\t{i} 0.5\n" for i, word in enumerate(words)]
    path = tmp_path / "odd.vec"
    path.write_text("".join(lines) + "\n\n", encoding="utf-8")
    loaded = load_word_vectors(path)
    assert list(loaded) == ["\u00a0", "\u0085", "dog", "nan", "हिन्दी", "7"]
    assert loaded["dog"].tolist() == [2, 0.5]  # the first of two
    assert len(loaded) == 6
    assert "cat" not in loaded


def packed(content):
    return gzip.compress(content, mtime=0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"dog 1 2 3\ncat 1 2\nsky 1 2 3\n", "line 2 has 2 numbers"),
        (b"dog 1 2 3\ncat 1 x 3\nsky 1 2 3\n", "line 2: .*'x'"),
        (b"2 3\ndog 1 2 3\n", "says 2 words, but it has 1"),
        (b"1 3\ndog 1 2 3\ncat 1 2 3\n", "says 1 words, but it has 2"),
        (b"2 2\ndog 1 2 3\ncat 1 2 3\n", "says 2 dimensions, but lines have 3"),
        (b"d\xf6g 1 2 3\ncat 1 2 3\n", "line 1: the word .* no UTF-8"),
        (packed(b"3000000000 300\ndog 1 2 3\n"), "3000000000|300 dimensions"),
        (packed(b"3000000000 3\ndog 1 2 3\n"), "says 3000000000 words, but it has 1"),
        (packed(b"3000000000 300\nd \x00\x01"), "says 3000000000 words, but it has 0"),
        (packed(b"1 9000000000000000\nd \x00\x01"), "9000000000000000 dimensions"),
        (packed(b"2 3\ndog 1 2 3\ncat 1 2 3\n" * 99)[:50], "ended before"),
        (b"3000000000 300\ndog 1 2 3\n", "more than it can hold"),
        (b"a" * (1 << 22), "longer than"),
    ],
)
def test_damaged_word_vectors_are_refused_without_belief_in_headers(tmp_path, content, message):
    import tracemalloc

    path = tmp_path / "broken.txt"
    path.write_bytes(content)
    tracemalloc.start()
    with pytest.raises(ValueError, match=rf"broken\.txt.*{message}|{message}.*broken\.txt"):
        load_word_vectors(path)
    assert tracemalloc.get_traced_memory()[1] < 40_000_000
    tracemalloc.stop()


def test_binary_files_end_where_they_say(tmp_path, keyed):
    path = tmp_path / "vectors.bin"
    keyed.save_word2vec_format(str(path), binary=True)
    content = path.read_bytes()
    assert_allclose(load_word_vectors(path)["auto"], VECTORS["auto"])
    for wrong, message in [(content[:-9], "but it has 4"), (content + content[5:], "more follows")]:
        path.write_bytes(wrong)
        with pytest.raises(ValueError, match=message):
            load_word_vectors(path)


def test_an_image_of_thousands_of_tags_takes_no_more_than_its_share():
    import tracemalloc

    rows = [["dog", "puppy"], ["dog"], ["car", "sky"], ["sky"]] * 10
    tracemalloc.start()
    enhancer = TagEnhancer().fit([*rows, [f"tag {t}" for t in range(4000)]])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000_000  # 16 million pairs of tags took four times that
    concept = {tag: enhancer.labels_[t] for tag, t in enhancer.vocabulary_.items()}
    assert len({concept[f"tag {t}"] for t in range(4000)}) == 1
    assert len({concept["dog"], concept["car"], concept["tag 0"]}) == 3


def test_parameters_that_are_numpy_scalars():
    rows = [[f"t{t}", f"t{(t * 7) % 300}", "all"] for t in range(300)]
    plain = TagEnhancer(
        vector_size=200, n_neighbors=200, max_tags=250, tau=0.5, eps=0.25, min_count=1
    ).fit(rows)
    scalars = TagEnhancer(
        vector_size=np.uint8(200),
        n_neighbors=np.uint8(200),
        max_tags=np.uint8(250),
        tau=np.float16(0.5),
        eps=np.float16(0.25),
        min_count=np.uint8(1),
    ).fit(rows)
    assert list(scalars.vocabulary_) == list(plain.vocabulary_)
    assert_array_equal(scalars.labels_, plain.labels_)
    assert_allclose(scalars.concept_vectors_, plain.concept_vectors_, atol=1e-5)


def many_tags(n_rows=400, n_tags=120, seed=0):
    """Rows of tags of six kinds, with a vector (D = 8) for each tag."""
    random = np.random.RandomState(seed)
    kind = np.arange(n_tags) % 6
    vectors = random.standard_normal((6, 8))[kind] + 0.7 * random.standard_normal((n_tags, 8))
    rows = []
    for n in range(n_rows):
        own = np.flatnonzero(kind == n % 6)
        rows.append([f"t{t}" for t in random.choice(own, 3, replace=False)])
    return rows, {f"t{t}": vectors[t] for t in range(n_tags)}


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("power", [0.2, 0.5, "auto"])
def test_concepts_dwell_on_what_many_images_share(given, power):
    rows, vectors = many_tags()
    options = {"word_vectors": vectors if given else None, "vector_size": 10, "eps": 0.001}
    plain = TagEnhancer(**options, covariance_power=0).fit(rows)
    assert plain.emphasis_ is None
    enhancer = TagEnhancer(**options, covariance_power=power).fit(rows)
    # Tags are merged before.
    assert_array_equal(enhancer.labels_, plain.labels_)
    assert_array_equal(enhancer.tag_vectors_, plain.tag_vectors_)
    concepts = [np.flatnonzero(row) for row in enhancer.transform(rows).toarray()]
    learned = vectors_from_cooccurrence(tag_cooccurrence(check_tags(rows)[0]), 10)
    expected = reference.emphasized(
        plain.concept_vectors_.astype(float).tolist(),
        concepts,
        np.linalg.norm(learned, axis=0).tolist(),
        0.1 if power == "auto" else power,
    )
    assert_allclose(enhancer.concept_vectors_, expected, atol=2e-4)
    # Tags of a kind have come nearer, and words of the fit are where their concepts are.
    row = enhancer.labels_[enhancer.vocabulary_["t0"]]
    assert_allclose(enhancer.embed("t0")[0], enhancer.concept_vectors_[row], atol=1e-6)


def test_words_that_the_fit_has_not_seen_are_emphasized_as_well():
    rows, vectors = many_tags()
    vectors["near"] = vectors["t0"] + 1e-6
    enhancer = TagEnhancer(vectors, eps=0, tau=1, vector_size=10, remove_components=None).fit(rows)
    assert enhancer.emphasis_ is not None
    alone = TagEnhancer(vectors, eps=0, tau=1, cooccurrence_weight=0, remove_components=None)
    alone = alone.fit(rows)
    assert_allclose(alone.embed("near"), alone.embed("t0"), atol=1e-3)
    # Of what occurs with it an unseen word knows only what its nearest tags say.
    assert (enhancer.embed("near") @ enhancer.embed("t0").T).item() > 0.8


def test_few_tags_are_not_emphasized():
    rows, vectors = many_tags(n_tags=96)
    assert TagEnhancer(vectors).fit(rows).emphasis_ is None
    assert TagEnhancer(vectors, covariance_power=0.3).fit(rows).emphasis_ is not None
    one = TagEnhancer({"a": [1.0, 0.0]}, covariance_power=0.3).fit([["a"], ["a"], []])
    assert one.emphasis_ is None  # images that are all alike


@pytest.mark.parametrize("power", [-0.1, 1.5, np.nan, "much", None])
def test_powers_that_are_none(power):
    with pytest.raises(ValueError, match="covariance_power"):
        TagEnhancer(covariance_power=power).fit([["a"], ["b"]])
