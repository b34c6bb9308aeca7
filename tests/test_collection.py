"""Collections: what is found, what is kept, and what is left after a kill."""

import csv
import json
import os
import pickle
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from skwsdhq import Collection, TagEnhancer, TagKernelRegressor, WSDHQuantizer
from skwsdhq.collection import _create, _source, _store, duplicates
from skwsdhq.collection._build import codes_of
from skwsdhq.datasets import load_emoji, make_tagged_images
from skwsdhq.persistence import LoadError

MADE = make_tagged_images(260, random_state=0)
N = 200


def quantizer(**parameters):
    given = {"n_codebooks": 2, "n_codewords": 16, "random_state": 0, "codebook_iters": 2}
    return WSDHQuantizer(TagKernelRegressor(random_state=0), **{**given, **parameters})


def create(path, n=N, **options):
    columns = {"year": [2000 + i % 10 for i in range(n)], "place": ["Oslo", "Łódź"] * (n // 2)}
    given = {"quantizer": quantizer(), "columns": columns}
    return Collection.create(path, MADE.data[:n], MADE.tags[:n], **{**given, **options})


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    path = tmp_path_factory.mktemp("collections") / "original"
    create(path).close()
    return path


@pytest.fixture
def photos(original, tmp_path):
    """A copy of one's own."""
    shutil.copytree(original, tmp_path / "photos")
    with Collection.open(tmp_path / "photos") as opened:
        yield opened


def check_whole(photos):
    """All parts tell of the same items, and codes are those that the model makes of them."""
    store = photos._store
    with photos._seen() as now:
        rows = [row for (row,) in store.connection.execute("SELECT row FROM items ORDER BY row")]
        assert now.rows.tolist() == rows
        kept, features = _source.kept_features(store, photos._reading)
        assert kept.tolist() == rows
        found = store.connection.execute("SELECT row, tags, fitted FROM items ORDER BY row")
        tags = {row: [] if fitted else json.loads(text) for row, text, fitted in found}
        pairs = set(store.connection.execute("SELECT row, tag FROM tags"))
        every = store.connection.execute("SELECT row, tags FROM items").fetchall()
        assert pairs == {(row, tag) for row, text in every for tag in json.loads(text)}
        expected = codes_of(now.quantizer, features, [tags[row] for row in rows])
        assert (now.codes == expected).mean() > 0.999
    return len(rows)


# --- search -----------------------------------------------------------------------------


def test_a_search_by_features_is_that_of_an_index(photos):
    model = photos.quantizer
    features = MADE.data[:N].astype(np.float16).astype(np.float32)
    assert_array_equal(model.codes_, photos._snapshot.codes)
    similarities, rows = model.index().search(model.transform(features[:1]), 7)
    found = photos.search(image=MADE.data[0], k=7)
    assert found.ids == [str(row) for row in rows[0]]
    assert_allclose(found.similarities, similarities[0], rtol=1e-6)
    assert [sorted(tags) for tags in found.tags] == [sorted(MADE.tags[row]) for row in rows[0]]
    assert found[0].columns["year"] == 2000 + rows[0][0] % 10
    assert "Results(7 items)" in repr(found)


def test_words_items_and_both(photos):
    tag = MADE.tags[0][0]
    by_words = photos.search(tags=tag, k=5)
    assert by_words.ids == [str(row) for row in photos.quantizer.kneighbors_of_tags([tag], 5)[1][0]]
    alike = photos.search(like=3, k=N)
    assert len(alike) == N - 1
    assert "3" not in alike.ids
    assert photos.search(like="3", tags=[tag], weight=0.9, k=5).ids != alike.ids[:5]
    assert len(photos.search(tags={tag: 1, "c1_t0": -0.5}, k=10**9)) == N


def test_a_folders_columns_are_kept(tmp_path, monkeypatch):
    """Through add, refit, export and a creation that goes on; a call's own count more."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    lines = []
    for i in range(20):
        Image.new("RGB", (4, 4), (i * 12, 0, 200 - i * 9)).save(folder / f"{i:02}.png")
        line = {"file": f"{i:02}.png", "tags": [f"t{i % 3}", "größe"], "year": 1990 + i}
        lines.append(json.dumps(line | ({"more": {"a": [i]}, "flag": True} if i == 3 else {})))
    (folder / "tags.jsonl").write_text("\n".join(lines), "utf-8")

    def extracted(images, backbone, **options):
        return np.array([np.asarray(Image.open(image))[0, 0] for image in images], dtype=float)

    monkeypatch.setattr(_source, "extract_features", extracted)
    small = quantizer(n_codewords=4)
    options = {"quantizer": small, "backbone": "efficientnet_lite0"}
    columns = {"year": [None] * 19 + [2050], "mark": list(range(20))}
    with Collection.create(tmp_path / "c", folder, columns=columns, **options) as photos:
        assert photos["03.png"].columns == {
            "year": 1993,
            "mark": 3,
            "more": '{"a": [3]}',
            "flag": 1,
        }
        assert photos["19.png"].columns["year"] == 2050
        assert photos.ids(where={"year": ("<", 1992)}) == ["00.png", "01.png"]
        photos.refit(quantizer=small)
        assert photos["03.png"].columns["year"] == 1993
        Image.new("RGB", (4, 4)).save(folder / "new.png")
        (folder / "tags.jsonl").unlink()
        (folder / "tags.csv").write_text("file;tags;year\n", "utf-8")
        table = tmp_path / "other.csv"
        table.write_text('file,tags,year\nnew.png,"t1; größe, x",1970\n', "utf-8")
        photos.add(folder, table, exist_ok=True, separator=";")
        assert photos["new.png"].tags == ["t1", "größe, x"]
        assert photos["new.png"].columns == {"year": 1970}
        photos.export(tmp_path / "out.jsonl", "jsonl")
        last = json.loads((tmp_path / "out.jsonl").read_text("utf-8").splitlines()[-1])
        assert last["year"] == 1970
        with pytest.raises(ValueError, match="separator=';' is for the table of a folder"):
            photos.add([str(folder / "00.png")], [["x"]], separator=";")


def test_queries_are_joined_by_what_filters_let_pass(photos):
    plain = photos.search(image=MADE.data[0], k=7)
    found = photos.search(image=MADE.data[0], k=7, n_expansion=3)
    asked = photos.quantizer.kneighbors(MADE.data[:1].astype("f2").astype("f4"), 7, n_expansion=3)
    assert found.ids == [str(row) for row in asked[1][0]]
    assert not np.array_equal(found.similarities, plain.similarities)
    # As over the items that pass alone, and not by the item that is asked about itself.
    photos.add(MADE.data[N : N + 3], MADE.tags[N : N + 3])
    some = photos.search(like=3, where={"place": "Oslo"}, n_expansion=2, k=4)
    rows = [int(name) for name in photos.search(like=3, where={"place": "Oslo"}, k=2).ids]
    with photos._seen() as now:
        pull = now.quantizer.decode(now.codes_of(np.array(rows) + 1))
    pull /= np.linalg.norm(pull, axis=1, keepdims=True)
    query = photos.quantizer.transform(MADE.data[3:4].astype("f2").astype("f4"))[0] + pull.mean(0)
    with photos._seen() as now:
        own = now.quantizer.decode(now.codes_of(np.array([int(name) for name in some.ids]) + 1))
    assert_allclose(own @ query / np.linalg.norm(query), some.similarities, rtol=1e-3, atol=1e-4)
    assert len(photos.search(like=3, where={"year": 1066}, n_expansion=2)) == 0
    with pytest.raises(TypeError, match="n_expansion"):
        photos.search(like=3, n_expansion=0.5)


def test_filters(photos):
    tag = MADE.tags[0][0]
    carriers = {str(i) for i in range(N) if tag in MADE.tags[i]}
    assert set(photos.search(like=5, k=N, has_tags=tag).ids) == carriers - {"5"}
    assert set(photos.ids(has_tags=[f"-{tag}"])) == {str(i) for i in range(N)} - carriers
    assert photos.ids(where={"year": 2003}) == [str(i) for i in range(N) if i % 10 == 3]
    for operator, passes in {
        "<": lambda y: y < 2003, "<=": lambda y: y <= 2003, ">": lambda y: y > 2003,
        ">=": lambda y: y >= 2003, "!=": lambda y: y != 2003, "==": lambda y: y == 2003,
    }.items():  # fmt: skip
        expected = [str(i) for i in range(N) if passes(2000 + i % 10)]
        assert photos.ids(where={"year": (operator, 2003)}) == expected
    both = photos.ids(where={"year": ("in", [2001, 2002]), "place": "Łódź"}, has_tags=tag)
    assert both == [str(i) for i in range(N) if i % 10 == 1 and tag in MADE.tags[i]]
    assert photos.ids(where={"year": ("not in", [2001])}) == photos.ids(
        where={"year": ("!=", 2001)}
    )
    assert photos.ids(where={"place": (">", 5)}) == []  # a text is no number
    assert photos.ids(where={"year": None}) == []
    assert len(photos.ids(where={"year": ("!=", None)})) == N
    assert len(photos.search(like=5, where={"year": 1066}, k=3)) == 0


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "give what to look for"),
        ({"image": MADE.data[0], "like": 0}, ValueError, "give one of them"),
        ({"like": "nobody"}, KeyError, "no item 'nobody'"),
        ({"tags": "c0_t9x"}, ValueError, "did you mean"),
        ({"like": 0, "k": 0}, ValueError, "k"),
        ({"like": 0, "where": {"yeer": 1}}, ValueError, "no item has a column 'yeer'.*'place'"),
        ({"like": 0, "where": {"year": ("~", 1)}}, ValueError, "operator '~'"),
        ({"like": 0, "where": {"year": ("<", None)}}, ValueError, "compares with nothing"),
        ({"like": 0, "where": {"year": ("<", [1])}}, TypeError, "a text, a number or None"),
        ({"like": 0, "where": {"year": ("in", "20")}}, TypeError, "list the values"),
        ({"like": 0, "where": "year = 1; DROP TABLE items"}, TypeError, "a mapping"),
        ({"like": 0, "has_tags": [""]}, ValueError, "has_tags"),
        ({"image": "nowhere.jpg"}, ValueError, "one of features"),
        ({"image": MADE.data[0][:-1]}, ValueError, "features should be numbers of shape"),
    ],
)
def test_bad_searches(photos, arguments, error, message):
    with pytest.raises(error, match=message):
        photos.search(**arguments)


def test_names_of_columns_are_no_statements(photos):
    name = "x\"; DROP TABLE items; --'"
    photos.add(MADE.data[N : N + 1], ids=["new"], columns={name: ["'"]})
    assert photos.ids(where={name: "'"}) == ["new"]
    assert photos["new"].columns == {name: "'"}
    assert check_whole(photos) == N + 1


# --- changes ----------------------------------------------------------------------------


def test_items_come_and_go_and_change(photos):
    before = photos.search(like=7, k=5).ids
    added = photos.add(MADE.data[N:], MADE.tags[N:])
    assert added == [str(i) for i in range(N, 260)]
    assert len(photos) == 260
    assert check_whole(photos) == 260
    model = photos.quantizer
    expected = codes_of(model, MADE.data[N:].astype(np.float16), [sorted(t) for t in MADE.tags[N:]])
    assert_array_equal(photos._snapshot.codes[N:], expected)
    without = model.encode(MADE.data[N:].astype(np.float16))
    assert (expected != without).any()  # their tags have placed them
    photos.remove(added)
    assert photos.search(like=7, k=5).ids == before
    photos.update_tags([1, "0"], [["c3_t0", "C3_T1 "], []])
    assert photos["1"].tags == ["c3_t0", "c3_t1"]
    assert photos[0].tags == []
    assert photos.ids(untagged=True) == ["0"]
    photos.remove(["2"])
    assert "2" not in photos
    assert len(photos) == N - 1
    # Numbers of rows that are gone are not given again.
    assert photos.add(MADE.data[:1]) == ["260"]
    assert check_whole(photos) == N


def test_many_small_additions_are_joined(photos, monkeypatch):
    monkeypatch.setattr(_store, "_MOST_SMALL", 8)
    monkeypatch.setattr(_store, "BLOCK", 64)
    for i in range(30):
        photos.add(MADE.data[N + i : N + i + 1], [MADE.tags[N + i]])
    with photos._seen():
        assert len(photos._store.blocks()) < 20
    assert check_whole(photos) == N + 30
    photos.remove([str(i) for i in range(0, N + 30, 3)])
    assert check_whole(photos) == N + 30 - len(range(0, N + 30, 3))
    found = photos.search(like="1", k=5).ids
    with Collection.open(photos.path) as again:
        assert again.search(like="1", k=5).ids == found


def test_bad_changes_change_nothing(photos):
    for call, error, message in [
        (lambda: photos.add(MADE.data[:2], ids=["a", "a"]), ValueError, "'a' comes twice"),
        (lambda: photos.add(MADE.data[:2], ids=["a", "3"]), ValueError, "already, as '3'"),
        (lambda: photos.add(MADE.data[:2], ids=["a"]), ValueError, "1 ids for 2 images"),
        (lambda: photos.add(MADE.data[:2], ids="ab"), TypeError, "a list of ids"),
        (lambda: photos.add(MADE.data[:2], ids=["a", 1.5]), TypeError, "a text or a whole"),
        (lambda: photos.add(MADE.data[:2], ids=["a", ""]), ValueError, "not empty"),
        (lambda: photos.add(MADE.data[:2], ids=["a", "\ud800"]), ValueError, "valid Unicode"),
        (lambda: photos.add(MADE.data[:2], [["a"]]), ValueError, "1 rows of tags for 2"),
        (lambda: photos.add(MADE.data[:2], columns={"x": [1]}), ValueError, "1 values for 2"),
        (lambda: photos.add(MADE.data[:1], columns={"x": [{}]}), TypeError, "a text, a number"),
        (lambda: photos.add(MADE.data[:1], columns=[3]), TypeError, "a mapping"),
        (lambda: photos.add(MADE.data[:1, :-1]), ValueError, "features should be"),
        (lambda: photos.add(MADE.data[:0]), ValueError, "no images"),
        (lambda: photos.add([np.zeros((8, 8, 3), np.uint8)]), ValueError, "one of features"),
        (lambda: photos.add(MADE.data[:1] * np.nan), ValueError, "finite"),
        (lambda: photos.add(MADE.data[:1] * 1e9), ValueError, "within float16"),
        (lambda: photos.update_tags(["1", "no"], [[], []]), KeyError, "no item 'no'"),
        (lambda: photos.update_tags(["1"], [[], []]), ValueError, "2 rows of tags for 1"),
        (lambda: photos.remove(["1", "no", "none"]), KeyError, "and 1 more"),
        (lambda: photos.refit(n_bits=0), ValueError, "n_bits"),
        (lambda: photos.find_duplicates(2), ValueError, "at most 1"),
        (lambda: photos.evaluate([1]), ValueError, "1 labels for 200"),
        (lambda: photos.evaluate({"no": 1}), KeyError, "no item"),
        (lambda: photos.export(photos.path / "x", "xml"), ValueError, "form"),
        (lambda: photos.suggest_tags(), ValueError, "either images or ids"),
    ]:
        with pytest.raises(error, match=message):
            call()
    assert check_whole(photos) == N


def test_existing_items_can_be_left_out(photos):
    added = photos.add(MADE.data[N - 2 : N + 2], ids=["198", "199", "x", "y"], exist_ok=True)
    assert added == ["x", "y"]
    assert check_whole(photos) == N + 2


def test_unicode_everywhere(photos):
    names = ["日本語", "e\u0301", "\u00e9", "a\u2028b", "😀"]
    photos.add(MADE.data[:5], [["Straße", "日本"]] * 5, ids=names)
    assert photos["e\u0301"].id != photos["\u00e9"].id
    assert photos.ids(has_tags="STRASSE") == []
    assert photos.ids(has_tags="straße") == names
    photos.export(photos.path.parent / "items.jsonl", "jsonl")
    lines = (photos.path.parent / "items.jsonl").read_text("utf-8").split("\n")
    assert [json.loads(line)["id"] for line in lines[-6:-1]] == names
    photos.remove(names)
    assert check_whole(photos) == N


def test_refit_learns_from_what_has_gathered(photos, monkeypatch):
    photos.add(MADE.data[N:], MADE.tags[N:])
    old = photos.quantizer
    with Collection.open(photos.path) as reader:
        assert photos.refit(quantizer=quantizer(n_codebooks=3)) is photos
        assert photos.quantizer.n_bits_ == 12
        assert photos.quantizer is not old
        assert reader.quantizer.n_bits_ == 12
        assert reader.search(like=7, k=3).ids == photos.search(like=7, k=3).ids
    assert check_whole(photos) == 260
    assert len(list(photos.path.glob("model-*"))) == 1
    assert photos.info()["n_fits"] == 2

    # One that fails leaves all as it was.
    def broken(*args):
        raise MemoryError

    before = photos.search(like=7, k=9).ids
    monkeypatch.setattr(WSDHQuantizer, "save", broken)
    with pytest.raises(MemoryError):
        photos.refit()
    assert photos.search(like=7, k=9).ids == before


def test_changes_during_a_refit_are_kept(photos, monkeypatch):
    fit = WSDHQuantizer.fit

    def slow(model, *args):
        with Collection.open(photos.path) as other:
            if "late" not in other:
                other.add(MADE.data[N : N + 1], [MADE.tags[N]], ids=["late"])
                other.update_tags(["5"], [["c0_t0"]])
                other.remove(["6"])
        return fit(model, *args)

    monkeypatch.setattr(WSDHQuantizer, "fit", slow)
    photos.refit(quantizer=quantizer())
    assert "late" in photos
    assert "6" not in photos
    assert photos["5"].tags == ["c0_t0"]
    assert check_whole(photos) == N


def test_items_that_come_while_the_model_changes_get_codes_of_the_new_one(photos, monkeypatch):
    from skwsdhq.collection import collection

    made = []

    def coded(model, features, tags):
        if not made:
            made.append(True)
            with Collection.open(photos.path) as other:
                other.refit(quantizer=quantizer(n_codebooks=3))
        return codes_of(model, features, tags)

    monkeypatch.setattr(collection, "codes_of", coded)
    photos.add(MADE.data[N : N + 3], MADE.tags[N : N + 3])
    assert photos.quantizer.codebooks_.shape[0] == 3
    assert check_whole(photos) == N + 3


# --- other methods ----------------------------------------------------------------------


def test_suggestions_for_items_and_images(photos):
    names, scores = photos.suggest_tags(ids=["0", "1"], n_tags=3)
    assert names.shape == scores.shape == (2, 3)
    assert not set(names[0]) & set(MADE.tags[0])
    of_images, _ = photos.suggest_tags(MADE.data[N:], 2)
    assert of_images.shape == (60, 2)
    assert photos.suggest_tags(ids=[])[0].shape == (0, 5)


@pytest.mark.parametrize("way", ["features", "codes"])
def test_duplicates_by_brute_force(photos, monkeypatch, way):
    if way == "codes":
        monkeypatch.setattr(duplicates, "_MOST_EXACT", 0)
    random = np.random.RandomState(0)
    near = MADE.data[:5] + 0.05 * random.randn(5, MADE.data.shape[1])
    new = [f"n{i}" for i in range(5)] + ["e0", "e1", "e2"]
    photos.add(np.vstack([near, MADE.data[:3]]), ids=new)
    features = np.vstack([MADE.data[:N], near, MADE.data[:3]]).astype(np.float16).astype(float)
    units = features / np.linalg.norm(features, axis=1, keepdims=True)
    names = [*map(str, range(N)), *new]
    above = np.argwhere(np.triu(units @ units.T > 0.98, 1))
    expected = {(names[a], names[b]) for a, b in above if not names[b].startswith("e")}
    expected = {pair for pair in expected if not pair[0].startswith("e")}
    expected |= {("0", "e0"), ("1", "e1"), ("2", "e2")}
    found = photos.find_duplicates(0.98)
    assert {pair[:2] for pair in found} == expected
    assert {pair[:2] for pair in found if pair[2] == 1} >= {("0", "e0"), ("1", "e1"), ("2", "e2")}
    assert [pair[2] for pair in found] == sorted((pair[2] for pair in found), reverse=True)


def test_evaluate_is_the_score_of_the_model(photos):
    labels = MADE.target if "target" in MADE else [tags[0][:2] for tags in MADE.clean_tags]
    labels = list(labels)[:N]
    features = MADE.data[:N].astype(np.float16).astype(np.float32)
    expected = photos.quantizer.score(features, MADE.tags[:N], labels=labels)
    assert photos.evaluate(labels) == pytest.approx(expected, abs=1e-6)
    assert photos.evaluate(dict(zip(photos.ids(), labels, strict=True))) == pytest.approx(
        expected, abs=1e-6
    )


def test_exports(photos, tmp_path):
    photos.export(tmp_path / "items.csv")
    with open(tmp_path / "items.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == N
    assert rows[3]["id"] == "3"
    assert rows[3]["place"] == "Łódź"
    assert sorted(rows[3]["tags"].split(",")) == sorted(MADE.tags[3])
    photos.export(tmp_path / "codes.npz", "numpy")
    arrays = np.load(tmp_path / "codes.npz")
    assert_array_equal(arrays["codes"], photos._snapshot.codes)
    assert arrays["ids"][3] == "3"
    photos.export(tmp_path / "codes.faiss", "faiss")
    import faiss

    index = faiss.read_index(str(tmp_path / "codes.faiss"))
    assert index.ntotal == N
    query = photos.quantizer.transform(MADE.data[:1].astype(np.float16))
    _, found = index.search(np.ascontiguousarray(query, dtype=np.float32), 1)
    place = arrays["rows"].tolist().index(found[0, 0])
    assert str(arrays["ids"][place]) == photos.search(image=MADE.data[0], k=1).ids[0]


def test_info_and_small_things(photos):
    facts = photos.info()
    assert (facts["n_items"], facts["n_bits"], facts["n_features"]) == (N, 8, MADE.data.shape[1])
    assert facts["columns"] == ["place", "year"]
    again = pickle.loads(pickle.dumps(photos))
    assert again.ids() == photos.ids()
    again.close()
    again.close()
    with pytest.raises(ValueError, match="closed"):
        len(again)


def test_words_that_only_word_vectors_know(tmp_path):
    names = sorted({tag for row in MADE.tags for tag in row})
    vectors = {tag: np.eye(len(names))[i] for i, tag in enumerate(names)}
    vectors["holiday"] = vectors["c0_t0"] + vectors["c0_t1"]
    model = WSDHQuantizer(
        TagKernelRegressor(TagEnhancer(vectors)), n_codebooks=2, n_codewords=16, random_state=0
    )
    photos = create(tmp_path / "p", quantizer=model)
    with pytest.raises(ValueError, match="none of the"):
        photos.search(tags="holiday")
    photos.close()
    with Collection.open(tmp_path / "p", word_vectors=vectors) as photos:
        assert photos.search(tags="holiday", k=1)[0].tags[0].startswith("c0")


# --- creation ---------------------------------------------------------------------------


def test_pictures_of_a_folder_with_a_table(tmp_path, monkeypatch):
    folder = tmp_path / "päth"
    folder.mkdir()
    random = np.random.RandomState(0)
    lines = ["file,tags"]
    for i in range(40):
        shade = np.full((12, 12, 3), 40 + 170 * (i % 2), np.uint8)
        noise = random.randint(0, 40, shade.shape).astype(np.uint8)
        Image.fromarray(shade + noise).save(folder / f"{i:02}.png")
        lines.append(f'{i:02}.png,"{"light" if i % 2 else "dark"}, all"')
    (folder / "tags.csv").write_text("\n".join(lines))
    calls = []

    def extracted(images, backbone, *, on_error="raise", **options):
        calls.append(len(images))
        features = np.array([np.asarray(Image.open(p))[:4, :4].mean(axis=(0, 1)) for p in images])
        return (features, np.arange(len(images))) if on_error == "skip" else features

    monkeypatch.setattr(_source, "extract_features", extracted)
    monkeypatch.setattr(_create, "resolve_auto", lambda: "some network")
    with Collection.create(tmp_path / "c", folder, n_bits=8, quantizer=quantizer()) as photos:
        assert photos.ids()[:2] == ["00.png", "01.png"]
        assert photos["01.png"].path == str(folder / "01.png")
        assert photos["01.png"].tags == ["light", "all"]
        found = photos.search(image=str(folder / "02.png"), k=5)
        assert all("dark" in tags for tags in found.tags)
        assert photos.info()["backbone"] == "some network"
        assert sum(calls) == 41
        photos.refit(quantizer=quantizer())
        assert sum(calls) == 41  # nothing is read twice
        with pytest.raises(ValueError, match="give images, not features"):
            photos.search(image=np.zeros(3))


def test_pictures_that_cannot_be_read(tmp_path, monkeypatch):
    for name in ("a", "b"):
        (tmp_path / f"{name}.jpg").write_text("no picture")
    paths = [tmp_path / "a.jpg", tmp_path / "b.jpg"]
    monkeypatch.setattr(_create, "resolve_auto", lambda: "efficientnet_lite0")
    with pytest.raises(OSError, match=r"a\.jpg"):
        Collection.create(tmp_path / "c", paths, [["x"], ["y"]])
    with pytest.raises(ValueError, match="none of the 2 images could be read"):
        Collection.create(tmp_path / "c", paths, [["x"], ["y"]], on_error="skip")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"tags": None}, ValueError, "no image has any"),
        ({"tags": MADE.tags[:3]}, ValueError, "3 rows of tags"),
        ({"images": "nowhere"}, FileNotFoundError, "no folder"),
        ({"images": MADE.data[:0], "tags": []}, ValueError, "no images"),
        ({"on_error": "maybe"}, ValueError, "on_error"),
        ({"n_bits": 0, "quantizer": None}, ValueError, "n_bits"),
        ({"ids": ["a"]}, ValueError, "1 ids"),
    ],
)
def test_bad_creations(tmp_path, arguments, error, message):
    given = {"images": MADE.data[:50], "tags": MADE.tags[:50], "quantizer": quantizer()}
    with pytest.raises(error, match=message):
        Collection.create(tmp_path / "c", **{**given, **arguments})


def test_few_images_get_fewer_codewords(tmp_path):
    with Collection.create(
        tmp_path / "c", MADE.data[:20], MADE.tags[:20], n_bits=16, random_state=0
    ) as photos:
        assert photos.quantizer.codebooks_.shape[:2] == (4, 16)
        assert photos.quantizer.n_bits_ == 16


def test_places_that_are_taken(original, tmp_path):
    with pytest.raises(FileExistsError, match="collection already"):
        create(original)
    (tmp_path / "diary.txt").write_text("dear")
    with pytest.raises(FileExistsError, match="other files"):
        create(tmp_path)
    with pytest.raises(FileExistsError, match="is a file"):
        create(tmp_path / "diary.txt")


def test_what_is_no_collection(tmp_path, original):
    with pytest.raises(FileNotFoundError, match="holds no collection"):
        Collection.open(tmp_path)
    (tmp_path / "items.sqlite").write_text("dear diary, " * 1000)
    with pytest.raises(LoadError, match="damaged or no collection"):
        Collection.open(tmp_path)
    (tmp_path / "items.sqlite").unlink()
    sqlite3.connect(tmp_path / "items.sqlite").execute("CREATE TABLE diary (day)")
    with pytest.raises(LoadError, match="no collection of skwsdhq"):
        Collection.open(tmp_path)


def test_newer_and_unfinished_collections(photos):
    photos.close()
    connection = sqlite3.connect(photos.path / "items.sqlite", isolation_level=None)
    connection.execute("UPDATE meta SET value = 'creating' WHERE key = 'state'")
    with pytest.raises(LoadError, match="has not ended"):
        Collection.open(photos.path)
    connection.execute("PRAGMA user_version = 99")
    with pytest.raises(LoadError, match="format 99"):
        Collection.open(photos.path)


def test_a_model_that_is_gone(photos):
    photos.close()
    for path in photos.path.glob("model-*"):
        path.unlink()
    with pytest.raises(LoadError, match="lacks its model"):
        Collection.open(photos.path)


def test_read_only(photos):
    with Collection.open(photos.path, read_only=True) as reader:
        assert reader.search(like=0, k=1)
        for change in (
            lambda: reader.add(MADE.data[N:]),
            lambda: reader.remove(["1"]),
            lambda: reader.update_tags(["1"], [[]]),
            lambda: reader.refit(),
        ):
            with pytest.raises(PermissionError, match="read_only"):
                change()
        photos.remove(["1"])
        assert "1" not in reader  # and sees what others write


def test_a_full_disk_leaves_what_there_was(photos):
    pages = photos._store.connection.execute("PRAGMA page_count").fetchone()[0]
    photos._store.connection.execute(f"PRAGMA max_page_count = {pages + 1}")
    with pytest.raises(OSError, match="disk is full"):
        photos.add(np.repeat(MADE.data[N:], 40, axis=0))
    photos._store.connection.execute("PRAGMA max_page_count = 1000000")
    assert check_whole(photos) >= N
    photos.add(MADE.data[N:], ids=[f"again{i}" for i in range(60)])
    check_whole(photos)


# --- several at once --------------------------------------------------------------------


def test_threads_read_while_one_writes(photos):
    errors, n_seen = [], []
    stop = threading.Event()

    def read():
        try:
            while not stop.is_set():
                found = photos.search(like=3, k=500)
                n_seen.append(len(found))
                assert len(found) % 10 == 9  # additions are seen whole
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for start in range(0, 50, 10):
        photos.add(MADE.data[N + start : N + start + 10], MADE.tags[N + start : N + start + 10])
    stop.set()
    for thread in threads:
        thread.join()
    assert not errors
    assert check_whole(photos) == N + 50


def test_threads_that_write_wait_for_each_other(photos):
    def write(i):
        photos.add(MADE.data[N + i : N + i + 1], ids=[f"t{i}"])

    threads = [threading.Thread(target=write, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert check_whole(photos) == N + 8


PROGRAM = """
    import os, signal, sqlite3, sys
    import numpy as np
    from skwsdhq import Collection, TagKernelRegressor, WSDHQuantizer
    from skwsdhq.collection import _source, _store
    from skwsdhq.datasets import load_emoji, make_tagged_images

    work, fatal, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    events = 0

    def tick():
        global events
        events += 1
        if events == fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    def watched(function):
        def call(*args, **kwargs):
            tick()
            result = function(*args, **kwargs)
            tick()
            return result
        return call

    connect = _store.Store._connect

    def traced(self):
        connection = connect(self)
        connection.set_trace_callback(lambda statement: tick())
        return connection

    _store.Store._connect = traced
    os.replace, os.fsync = watched(os.replace), watched(os.fsync)
    _source._AT_ONCE = 16
    made = make_tagged_images(100, random_state=0)
    model = WSDHQuantizer(
        TagKernelRegressor(random_state=0), n_codebooks=2, n_codewords=8, random_state=0,
        codebook_iters=2,
    )
    if work == "create":
        photos = Collection.create(folder, made.data, made.tags, quantizer=model)
    else:
        photos = Collection.open(folder)
    if work == "add":
        extra = make_tagged_images(40, random_state=1)
        photos.add(extra.data, extra.tags, ids=[f"x{i}" for i in range(40)], exist_ok=True)
    if work == "change":
        photos.update_tags(["3", "4"], [["c0_t0"], []])
        if "5" in photos:
            photos.remove(["5", "6"])
        photos.refit(quantizer=model)
    print(events, len(photos))
"""


def run(work, fatal, folder):
    program = textwrap.dedent(PROGRAM)
    arguments = [sys.executable, "-c", program, work, str(fatal), str(folder)]
    return subprocess.run(arguments, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_processes_that_are_killed_lose_nothing(tmp_path):
    random = np.random.RandomState(int.from_bytes(os.urandom(4), "little"))
    n_expected = {"create": 100, "add": 140, "change": 138}
    for work, n_items in n_expected.items():
        folder = tmp_path / "photos"
        whole = tmp_path / f"whole-{work}"
        if folder.exists():
            shutil.copytree(folder, whole)
        first = run(work, 0, whole)
        assert first.returncode == 0, first.stderr
        n_events = int(first.stdout.split()[0])
        moments = random.randint(1, n_events, size=3)
        for moment in moments:
            killed = run(work, moment, folder)
            assert killed.returncode in (-signal.SIGKILL, 0), (moments, killed.stderr)
            if work != "create":
                with Collection.open(folder) as photos:
                    assert check_whole(photos) >= 100
        last = run(work, 0, folder)
        assert last.returncode == 0, (moments, last.stderr)
        with Collection.open(folder) as photos, Collection.open(whole) as other:
            assert check_whole(photos) == n_items
            assert photos.search(like="0", k=20).ids == other.search(like="0", k=20).ids


def test_a_creation_that_is_killed_goes_on(tmp_path):
    """At one moment of each kind: while features are gathered, and before the codes are written."""
    folder = tmp_path / "photos"
    killed = run("create", 60, folder)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    with pytest.raises((LoadError, FileNotFoundError)):
        Collection.open(folder)
    last = run("create", 0, folder)
    assert last.returncode == 0, last.stderr
    with Collection.open(folder) as photos:
        assert check_whole(photos) == 100


@pytest.mark.slow
def test_a_million_codes(photos):
    n = 1_000_000
    random = np.random.RandomState(0)
    with photos._store.writing() as (connection, version):
        start = 10**6
        rows = np.arange(start, start + n)
        connection.executemany(
            "INSERT INTO items (row, id, tags) VALUES (?, ?, '[]')",
            ((int(row), f"m{row}") for row in rows),
        )
        codes = random.randint(0, 16, (n, 2)).astype(np.uint8)
        photos._store.append_codes(version, rows, codes)
    with Collection.open(photos.path) as large:
        assert len(large) == n + N
        assert len(large.search(tags=MADE.tags[0][0], k=20)) == 20
        large.add(MADE.data[N : N + 1], ids=["last"])
        assert len(large) == n + N + 1
        assert large.search(like="last", k=3).ids


@pytest.mark.slow
def test_the_lines_of_the_readme_run_on_a_folder(tmp_path, monkeypatch):
    text = (Path(__file__).parents[1] / "README.md").read_text("utf-8")
    lines = text.split("from skwsdhq import Collection\n")[1].split("```")[0]
    data = load_emoji()
    (tmp_path / "photos").mkdir()
    table = ["file,tags"]
    for i, tags in enumerate(data.tags[:40]):
        Image.fromarray(data.images[i]).save(tmp_path / "photos" / f"{i}.png")
        table.append(f'{i}.png,"{", ".join([*tags[:5], "beach" if i % 2 else "people"])}"')
    (tmp_path / "photos" / "tags.csv").write_text("\n".join(table), "utf-8")
    Image.fromarray(data.images[50]).convert("RGB").save(tmp_path / "query.jpg")
    monkeypatch.chdir(tmp_path)
    found = {"Collection": Collection}
    exec(lines, found)
    with Image.open(tmp_path / "beach.png") as picture:
        assert picture.width > 1000
    assert len(found["alike"]) == 5
    assert found["names"].shape == (1, 5)
    found["photos"].close()
