"""Parquet files, tar shards and tables with columns, in batches."""

import io
import json
import pickle
import tarfile

import numpy as np
import pandas as pd
import polars as pl
import pytest
from PIL import Image
from sklearn.frozen import FrozenEstimator

from skwsdhq import TagEnhancer, TagKernelRegressor, WSDHQuantizer
from skwsdhq.datasets import (
    load_parquet,
    make_tagged_images,
    stream_columns,
    stream_parquet,
    stream_webdataset,
)

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

MADE = make_tagged_images(60, random_state=0)
X = MADE.data.astype(np.float32)


def png(colour, size=(4, 3)):
    content = io.BytesIO()
    Image.new("RGB", size, colour).save(content, "png")
    return content.getvalue()


@pytest.fixture
def files(tmp_path):
    """Two files of 60 rows in all, in row groups of at most 8."""
    for name, part in [("a.parquet", slice(0, 25)), ("b.parquet", slice(25, 60))]:
        table = pa.table(
            {
                "id": [f"id{i}" for i in range(60)[part]],
                "embedding": list(X[part]),
                "tags": [list(t) for t in MADE.tags[part]],
            }
        )
        pq.write_table(table, tmp_path / name, row_group_size=8)
    return tmp_path


def shard(path, members):
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


class TestParquet:
    def test_rows_are_those_that_were_written(self, files):
        rows = load_parquet(files)
        assert rows.data.shape == X.shape
        assert rows.data.dtype == np.float32
        assert np.array_equal(np.asarray(rows.data), X)
        assert np.array_equal(rows.data[20:31], X[20:31])  # over a border of files
        assert np.array_equal(rows.data[50:3:-7], X[50:3:-7])
        assert np.array_equal(rows.data[-1], X[-1])
        assert rows.data[7:7].shape == (0, X.shape[1])
        assert rows.tags == [list(t) for t in MADE.tags]
        assert rows.ids == [f"id{i}" for i in range(60)]
        with pytest.raises(IndexError):
            rows.data[60]

    def test_it_pickles(self, files):
        data = load_parquet(files).data
        data[:3]
        assert np.array_equal(pickle.loads(pickle.dumps(data))[:], X)

    def test_a_fit_is_that_of_the_array(self, files, tmp_path):
        rows = load_parquet(str(files / "*.parquet"))
        options = {"n_codebooks": 2, "n_codewords": 8, "random_state": 0}
        mine = WSDHQuantizer(TagKernelRegressor(random_state=0), **options)
        theirs = WSDHQuantizer(TagKernelRegressor(random_state=0), **options)
        mine.fit(rows.data, rows.tags)
        theirs.fit(X, MADE.tags)
        near = np.einsum("nd,nd->n", mine.transform(rows.data), theirs.transform(X))
        assert near.min() > 0.999
        codes = mine.encode_to(rows.data, tmp_path / "codes.npy")
        assert np.array_equal(codes, mine.encode(rows.data))

    def test_batches_in_order(self, files):
        batches = list(stream_parquet(files, batch_size=5))
        assert np.array_equal(np.concatenate([b.data for b in batches]), X)
        assert [i for b in batches for i in b.ids] == [f"id{i}" for i in range(60)]
        assert max(len(b.ids) for b in batches) == 5

    def test_shuffled_batches_have_each_row_once_and_its_own_tags(self, files):
        one, again, other = (
            list(stream_parquet(files, batch_size=5, shuffle=True, random_state=seed))
            for seed in (0, 0, 1)
        )
        ids = [[i for b in batches for i in b.ids] for batches in (one, again, other)]
        assert ids[0] == ids[1] != ids[2]
        assert sorted(ids[0]) == sorted(f"id{i}" for i in range(60))
        assert ids[0] != sorted(ids[0])
        for batch in one:
            rows = [int(i[2:]) for i in batch.ids]
            assert np.array_equal(batch.data, X[rows])
            assert batch.tags == [list(MADE.tags[i]) for i in rows]

    def test_a_model_learns_from_batches(self, files):
        enhancer = FrozenEstimator(TagEnhancer().fit(MADE.tags))
        model = WSDHQuantizer(
            "passthrough", tag_enhancer=enhancer, n_codebooks=2, n_codewords=8, random_state=0
        )
        for batch in stream_parquet(files, batch_size=30):
            model.partial_fit(batch.data, batch.tags)
        assert len(model.codes_) == 60

    @pytest.mark.parametrize(
        "kind", [pa.list_(pa.float64()), pa.list_(pa.float32(), 3), pa.large_list(pa.float16())]
    )
    def test_kinds_of_lists(self, tmp_path, kind):
        rows = np.arange(12.0).reshape(4, 3).astype(np.float16)
        pq.write_table(
            pa.table({"vector": pa.array([list(r) for r in rows], kind)}), tmp_path / "x.parquet"
        )
        found = load_parquet(tmp_path / "x.parquet")
        assert np.array_equal(found.data[:], rows.astype(float))
        assert found.data.dtype in (np.float32, np.float64)
        assert found.tags is None
        assert found.ids == [0, 1, 2, 3]

    def test_columns_of_numbers(self, tmp_path):
        path = tmp_path / "x.parquet"
        pq.write_table(pa.table({"x": [1.0, 2.0], "y": [3, 4], "Tags": ["a, b", None]}), path)
        rows = load_parquet(path, features=["y", "x"])
        assert rows.data[:].tolist() == [[3.0, 1.0], [4.0, 2.0]]
        assert rows.tags == [["a", "b"], []]

    def test_tags_of_many_scripts(self, tmp_path):
        path = tmp_path / "x.parquet"
        tags = ["cafe\u0301, \u6d77\u8fb9", "a\u2028b"]
        pq.write_table(pa.table({"vector": [[1.0], [2.0]], "tags": tags}), path)
        assert load_parquet(path).tags == [["cafe\u0301", "\u6d77\u8fb9"], ["a b"]]

    def test_pictures(self, tmp_path):
        path = tmp_path / "x.parquet"
        Image.new("RGB", (2, 2), "blue").save(tmp_path / "blue.png")
        cells = [
            {"bytes": png("red"), "path": None},
            {"bytes": None, "path": str(tmp_path / "blue.png")},
        ]
        pq.write_table(pa.table({"image": cells, "tags": [["r"], ["b"]]}), path)
        (batch,) = stream_parquet(path)
        assert [p.shape for p in batch.data] == [(3, 4, 3), (2, 2, 3)]
        assert batch.data[1][0, 0].tolist() == [0, 0, 255]
        with pytest.raises(ValueError, match="stream_parquet reads pictures"):
            load_parquet(path)

    def test_pictures_that_cannot_be_read(self, tmp_path):
        path = tmp_path / "x.parquet"
        pq.write_table(pa.table({"image": [b"none", png("red"), None], "id": [7, 8, 9]}), path)
        with pytest.raises(ValueError, match=r"x.parquet', row 0, has no readable picture"):
            list(stream_parquet(path))
        (batch,) = stream_parquet(path, on_error="skip")
        assert batch.ids == [8]
        assert len(batch.data) == 1

    @pytest.mark.parametrize(
        ("column", "message"),
        [
            ([[1.0, 2.0], [1.0]], "row 1, has 1 features, and others have 2"),
            ([[1.0], None], "row 1, has no features"),
            ([None, [1.0]], "row 0, has no features"),
            ([["a"], ["b"]], "should be numbers"),
        ],
    )
    def test_vectors_that_are_none(self, tmp_path, column, message):
        path = tmp_path / "x.parquet"
        pq.write_table(pa.table({"vector": column}), path)
        with pytest.raises(ValueError, match=message):
            load_parquet(path)
        with pytest.raises(ValueError, match=message):
            list(stream_parquet(path))

    def test_files_of_other_widths(self, tmp_path):
        for name, width in [("a.parquet", 2), ("b.parquet", 3)]:
            pq.write_table(pa.table({"vector": [[0.5] * width]}), tmp_path / name)
        with pytest.raises(ValueError, match=r"b.parquet.* 3 features; the first file has 2"):
            load_parquet(tmp_path).data[:]

    def test_what_is_wrong_is_told_at_the_call(self, files, tmp_path):
        with pytest.raises(ValueError, match="has no column 'words'; it has"):
            stream_parquet(files, tags="words")
        with pytest.raises(FileNotFoundError, match=r"none\.parquet"):
            stream_parquet(tmp_path / "none.parquet")
        (tmp_path / "c.parquet").write_bytes(b"nothing")
        with pytest.raises(ValueError, match="is no readable Parquet file"):
            stream_parquet(tmp_path / "c.parquet")
        with pytest.raises(ValueError, match="paths is empty"):
            stream_parquet([])
        with pytest.raises(ValueError, match="batch_size"):
            stream_parquet(files, batch_size=0)
        with pytest.raises(ValueError, match="both given"):
            stream_parquet(files / "a.parquet", features="embedding", images="id")
        pq.write_table(pa.table({"a": [1]}), tmp_path / "d.parquet")
        with pytest.raises(ValueError, match="no column of features or pictures"):
            stream_parquet(tmp_path / "d.parquet")
        pq.write_table(pa.table({"embedding": [[1.0]]}), tmp_path / "e.parquet")
        with pytest.raises(ValueError, match=r"e.parquet' has no column 'tags'"):
            load_parquet([files / "a.parquet", tmp_path / "e.parquet"])

    def test_no_rows(self, tmp_path):
        pq.write_table(pa.table({"vector": pa.array([], pa.list_(pa.float32()))}), tmp_path / "x")
        assert list(stream_parquet(tmp_path / "x")) == []
        assert len(load_parquet(tmp_path / "x").data) == 0


class TestWebDataset:
    def members(self, n, start=0):
        for i in range(start, start + n):
            yield f"{i:03d}.png", png((i, 0, 0))
            yield f"{i:03d}.json", json.dumps({"Tags": [f"t{i}", "all"]}).encode()

    def test_samples(self, tmp_path):
        shard(tmp_path / "s-00.tar", self.members(3))
        shard(tmp_path / "s-01.tar", self.members(2, 3))
        batches = list(stream_webdataset(tmp_path / "s-{00..01}.tar", batch_size=2))
        assert [b.ids for b in batches] == [["000", "001"], ["002", "003"], ["004"]]
        assert batches[1].tags == [["t2", "all"], ["t3", "all"]]
        assert batches[2].data[0][0, 0].tolist() == [4, 0, 0]

    def test_as_webdataset_reads_it(self, tmp_path):
        tariterators = pytest.importorskip("webdataset.tariterators")
        path = shard(tmp_path / "s.tar", self.members(5))
        with open(path, "rb") as stream:
            opened = [{"url": str(path), "stream": stream}]
            theirs = list(tariterators.group_by_keys(tariterators.tar_file_expander(opened)))
        (mine,) = stream_webdataset(path)
        assert mine.ids == [sample["__key__"] for sample in theirs]

    def test_shuffled(self, tmp_path):
        for i in range(3):
            shard(tmp_path / f"{i}.tar", self.members(20, 20 * i))
        orders = [
            [
                key
                for b in stream_webdataset(
                    tmp_path / "{0..2}.tar", shuffle=True, random_state=seed, batch_size=7
                )
                for key in b.ids
            ]
            for seed in (0, 0, 1)
        ]
        assert orders[0] == orders[1] != orders[2]
        assert sorted(orders[0]) == [f"{i:03d}" for i in range(60)] != orders[0]

    @pytest.mark.parametrize(
        ("members", "options", "expected"),
        [
            ([("a.txt", b"sea, sun")], {}, ["sea", "sun"]),
            ([("a.txt", "caf\u00e9;\u6d77".encode())], {"separator": ";"}, ["caf\u00e9", "\u6d77"]),
            ([("a.json", b'{"words": "x,y"}')], {"tags": "json.words"}, ["x", "y"]),
            ([("a.json", b'{"url": "u"}'), ("a.txt", b"sea")], {}, ["sea"]),
            ([("a.json", b'["p", "q"]')], {"tags": "json"}, ["p", "q"]),
            ([("a.tags.txt", b"m")], {"tags": "tags.txt"}, ["m"]),
            ([("a.cls", b"3")], {"tags": "cls"}, ["3"]),
            ([], {}, []),
        ],
    )
    def test_tags(self, tmp_path, members, options, expected):
        path = shard(tmp_path / "s.tar", [("a.png", png("red")), *members])
        (batch,) = stream_webdataset(path, **options)
        assert batch.tags == [expected]

    def test_vectors(self, tmp_path):
        content = io.BytesIO()
        np.save(content, np.array([1.0, 2.0], np.float32))
        path = shard(tmp_path / "s.tar", [("d/a.npy", content.getvalue())])
        (batch,) = stream_webdataset(path, features="npy")
        assert batch.data.tolist() == [[1.0, 2.0]]
        assert batch.ids == ["d/a"]
        content = io.BytesIO()
        np.save(content, np.array([{}], object), allow_pickle=True)
        path = shard(tmp_path / "t.tar", [("a.npy", content.getvalue())])
        with pytest.raises(ValueError, match="no array that numpy reads"):
            list(stream_webdataset(path, features="npy"))

    def test_compressed(self, tmp_path):
        with tarfile.open(tmp_path / "s.tar.gz", "w:gz") as tar:
            member = tarfile.TarInfo("a.png")
            member.size = len(png("red"))
            tar.addfile(member, io.BytesIO(png("red")))
        assert next(stream_webdataset(tmp_path / "s.tar.gz")).ids == ["a"]

    def test_what_is_wrong_is_told(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"s-1\.tar"):
            stream_webdataset(tmp_path / "s-{1..2}.tar")
        whole = shard(tmp_path / "s.tar", self.members(4)).read_bytes()
        (tmp_path / "cut.tar").write_bytes(whole[:3000])
        with pytest.raises(ValueError, match=r"cut.tar' is no whole tar file"):
            list(stream_webdataset(tmp_path / "cut.tar"))
        (tmp_path / "no.tar").write_bytes(b"nothing at all")
        with pytest.raises(ValueError, match=r"no.tar' is no whole tar file"):
            list(stream_webdataset(tmp_path / "no.tar"))
        path = shard(tmp_path / "t.tar", [("a.txt", b"sea")])
        with pytest.raises(ValueError, match=r"'a', has no picture; it has \['txt'\]"):
            list(stream_webdataset(path))
        path = shard(tmp_path / "u.tar", [("a.png", png("red")), ("a.png", png("red"))])
        with pytest.raises(ValueError, match="two members 'png'"):
            list(stream_webdataset(path))
        path = shard(tmp_path / "v.tar", [("a.png", png("red")), ("a.json", b"{")])
        with pytest.raises(ValueError, match="no readable JSON"):
            list(stream_webdataset(path))
        path = shard(tmp_path / "w.tar", [("a.png", png("red")), ("a.txt", b"\xff\xfe")])
        with pytest.raises(ValueError, match="not in UTF-8"):
            list(stream_webdataset(path))
        path = shard(tmp_path / "x.tar", [("a.png", b"none"), ("b.png", png("red"))])
        with pytest.raises(ValueError, match="row a, has no readable picture"):
            list(stream_webdataset(path))
        (batch,) = stream_webdataset(path, on_error="skip")
        assert batch.ids == ["b"]


def tables():
    columns = {
        "id": list("abcde"),
        "embedding": X[:5].tolist(),
        "tags": ["p, q", "r", None, "", "s"],
    }
    yield "dict", columns
    yield "pandas", pd.DataFrame(columns, index=[9, 8, 7, 6, 5])
    yield "polars", pl.DataFrame(columns)
    yield "arrow", pa.table(columns)
    yield (
        "rows",
        [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)],
    )


class TestColumns:
    @pytest.mark.parametrize(("name", "table"), list(tables()))
    def test_all_tables_give_the_same(self, name, table):
        batches = list(stream_columns(table, batch_size=2))
        assert [b.ids for b in batches] == [["a", "b"], ["c", "d"], ["e"]]
        assert np.allclose(np.concatenate([b.data for b in batches]), X[:5])
        assert [t for b in batches for t in b.tags] == [["p", "q"], ["r"], [], [], ["s"]]
        shuffled = list(stream_columns(table, batch_size=2, shuffle=True, random_state=0))
        ids = [i for b in shuffled for i in b.ids]
        assert sorted(ids) == list("abcde") != ids
        rows = ["abcde".index(i) for i in ids]
        assert np.allclose(np.concatenate([b.data for b in shuffled]), X[rows])

    def test_a_dataset_of_hugging_face(self):
        datasets = pytest.importorskip("datasets")
        columns = {"image": [Image.new("RGB", (3, 2), "red")] * 3, "tags": [[0], [1, 0], []]}
        kinds = datasets.Features(
            {
                "image": datasets.Image(),
                "tags": datasets.Sequence(datasets.ClassLabel(names=["dog", "sea"])),
            }
        )
        table = datasets.Dataset.from_dict(columns, kinds)
        for one in (table, table.to_iterable_dataset()):
            (batch,) = stream_columns(one)
            assert batch.tags == [["dog"], ["sea", "dog"], []]
            assert batch.ids == [0, 1, 2]
            assert batch.data[0].shape == (2, 3, 3)

    def test_names_of_classes(self):
        class Table(dict):
            features = {"tags": type("ClassLabel", (), {"names": ["dog", "sea"]})()}

        (batch,) = stream_columns(Table(embedding=X[:2], tags=[1, 0]))
        assert batch.tags == [["sea"], ["dog"]]

    def test_what_is_wrong_is_told(self):
        with pytest.raises(TypeError, match="should have columns"):
            stream_columns("table")
        with pytest.raises(TypeError, match="should have columns"):
            stream_columns(3)
        with pytest.raises(TypeError, match="each should be a dict"):
            stream_columns([[1.0, 2.0]])
        with pytest.raises(ValueError, match="differ in length"):
            stream_columns({"embedding": X[:2], "tags": ["a"]})
        with pytest.raises(ValueError, match="row 1 has no 'tags'"):
            list(stream_columns([{"vector": [1.0], "tags": "a"}, {"vector": [1.0]}]))
        assert list(stream_columns([])) == []
