"""Files of indexes: corrupted, forged, replaced while they are read; and ids of every kind."""

import hashlib
import json
import os
import stat
import struct
import tracemalloc

import numpy as np
import pytest

from skwsdhq.persistence import LoadError
from skwsdhq.search import CodeIndex, InvertedCodeIndex
from skwsdhq.search import _store as _search_store

PREFIX = struct.Struct("<8sII32s")
N_CORRUPTIONS = 520
# What an edited header says; JSON knows no tuples, and Python reads NaN and Infinity.
VALUES = [
    None, True, False, -1, 0, 1, 2, 3, 5, 12, 64, 2**31, 2**40, 2**63, 2**64, 10**30, 0.5, 1e300,
    float("nan"), float("inf"), "", "x", "codes", "ids", "rows", "starts", "CodeIndex",
    "InvertedCodeIndex", "InvertedCodeIndex of residuals", "|O", "|O8", "O", "<f8", "<f4", ">f4",
    "<i8", "<i4", "<u2", "|u1", "|b1", "<c8", "<M8[s]", "|V8", "|S4", "<U0", "<U1", "<U2",
    "<U99999999", "<U999999999", "f4,f4", "é", "\ud800", [], {}, [0], [12], [3, 4], [12, 2],
    [2**62, 4], [2**32, 2**32], [-1, -2], [2**62, 2**62, 2**62], [[1]], [None], {"a": 1},
]  # fmt: skip


def problem(n=12):
    rng = np.random.default_rng(0)
    return rng.normal(size=(2, 5, 3)).astype("f4"), rng.integers(0, 5, (n, 2))


def build(kind):
    codebooks, codes = problem()
    ids = None
    if kind.endswith("numbers"):
        ids = np.arange(12) * 3 - 4
    if kind.endswith("strings"):
        ids = [f"ü{i}" for i in range(12)]
    index = CodeIndex(codebooks, codes, ids=ids)
    if kind.startswith("index"):
        return index
    vectors = np.random.default_rng(1).normal(size=(12, 3))
    residuals = kind.startswith("residuals")
    return InvertedCodeIndex(index, 4, vectors=vectors, residuals=residuals, random_state=0)


KINDS = ["index", "index, numbers", "index, strings", "lists", "lists, strings",
         "residuals", "residuals, numbers"]  # fmt: skip


def split(whole):
    """Header, as an object, and all that follows it."""
    length = PREFIX.unpack_from(whole)[2]
    start = -(-(PREFIX.size + length) // 64) * 64
    return json.loads(whole[PREFIX.size : PREFIX.size + length]), whole[start:]


def join(header, data):
    """A file with a header, object or bytes, under a right checksum."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    prefix = PREFIX.pack(b"SKWSDHQ\0", 1, len(text), hashlib.sha256(text).digest())
    return (prefix + text).ljust(-(-(PREFIX.size + len(text)) // 64) * 64, b"\0") + data


def seal_arrays(header, data):
    """Write anew the checksums of all arrays that lie within the data."""
    for entry in header["arrays"]:
        part = data[entry["offset"] : entry["offset"] + entry["nbytes"]]
        entry["sha256"] = hashlib.sha256(part).hexdigest()


def places(value, path=()):
    """All places within a JSON value."""
    if path:
        yield path
    entries = value.items() if isinstance(value, dict) else enumerate(value)
    if isinstance(value, dict | list):
        for key, entry in entries:
            yield from (
                places(entry, (*path, key)) if isinstance(entry, dict | list) else [(*path, key)]
            )


def flipped(content, rng, count):
    content = bytearray(content)
    for place in rng.integers(len(content), size=count):
        content[place] ^= 1 << rng.integers(8)
    return bytes(content)


def corrupt(whole, rng):
    """A changed file, and whether its checksums were written anew."""
    header, data = split(whole)
    way = rng.integers(8)
    if way == 0:
        return flipped(whole, rng, 1 + rng.integers(4)), False
    if way == 1:
        return whole[: rng.integers(len(whole))], False
    if way == 2:
        place = rng.integers(len(whole) + 1)
        return whole[:place] + rng.bytes(1 + rng.integers(70)) + whole[place:], False
    if way == 3:  # bytes of arrays, with right checksums
        data = flipped(data, rng, 1 + rng.integers(3))
        seal_arrays(header, data)
        return join(header, data), True
    if way == 4:  # bytes of the header, with a right checksum
        return join(flipped(json.dumps(header).encode(), rng, 1 + rng.integers(2)), data), True
    if way == 5:  # whole arrays
        entry = header["arrays"][rng.integers(len(header["arrays"]))]
        fill = [b"\0", b"\xff", b"\x7f"][rng.integers(3)] * entry["nbytes"]
        data = data[: entry["offset"]] + fill + data[entry["offset"] + entry["nbytes"] :]
        seal_arrays(header, data)
        return join(header, data), True
    for _ in range(1 + rng.integers(2)):
        all_places = list(places(header))
        *parents, last = all_places[rng.integers(len(all_places))]
        parent = header
        for key in parents:
            parent = parent[key]
        if rng.integers(6) == 0:
            del parent[last]
        else:
            parent[last] = VALUES[rng.integers(len(VALUES))]
        if not header:
            break
    if way == 6:
        return join(header, data), True
    text = json.dumps(header).encode()  # under the checksum of the old one
    sealed = join(header, data)
    digest = PREFIX.unpack_from(whole)[3]
    return sealed[:16] + digest + sealed[48:], text == json.dumps(split(whole)[0]).encode()


def results(index):
    """All that a user gets of an index; an overflow of forged codebooks may be an error of ours."""
    queries = np.random.default_rng(2).normal(size=(6, index.codebooks.shape[2]))
    found = [index.codebooks, *index.search(queries, 4), *index.search(queries[:1], 100)]
    if isinstance(index, CodeIndex):
        found += [index.codes, index.ids, *index.range_search(queries, 0.0), index.reconstruct()]
        found.append(CodeIndex(*problem()).add(problem()[1]).ids)
    return found


def assert_same(found, expected):
    """Equal, but for the last bits of products, which depend on where arrays lie in memory."""
    for ours, theirs in zip(found, expected, strict=True):
        if theirs.dtype.kind == "f":
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
        else:
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("kind", KINDS)
def test_corruption_is_noticed_or_harmless(kind, tmp_path):
    index = build(kind)
    path = tmp_path / "some.index"
    index.save(path)
    whole = path.read_bytes()
    expected = results(index)
    rng = np.random.default_rng(KINDS.index(kind))
    n_refused, n_equal, is_named = 0, 0, True
    for number in range(N_CORRUPTIONS):
        content, is_sealed = corrupt(whole, rng)
        path.write_bytes(content)
        for verify, mmap in [(True, number % 2 == 0), (False, number % 4 < 2)]:
            try:
                with np.errstate(all="ignore"):
                    loaded = type(index).load(path, verify=verify, mmap=mmap)
            except LoadError as error:
                n_refused += 1
                is_named &= str(path) in str(error)
                continue
            try:
                found = results(loaded)
            except ValueError as error:  # of codebooks that are forged
                if "exceed float32" not in str(error):
                    raise
                continue
            if verify and not is_sealed:
                n_equal += 1
                assert_same(found, expected)
    assert is_named
    assert n_refused > N_CORRUPTIONS
    assert n_equal < 60  # changes between arrays, and those that undo each other


def forge(index, path, change):
    """Save an index whose header and arrays are changed, all checksums right."""
    index.save(path)
    header, data = split(path.read_bytes())
    arrays = {}
    for entry in header["arrays"]:
        part = data[entry["offset"] : entry["offset"] + entry["nbytes"]]
        arrays[entry["name"]] = np.frombuffer(part, entry["dtype"]).reshape(entry["shape"]).copy()
    change(arrays, header["extra"])
    _search_store.save_arrays(path, arrays, header["extra"])


def put(name, place, value):
    def change(arrays, _):
        arrays[name][place] = value

    return change


def replace(name, function):
    def change(arrays, _):
        arrays[name] = function(arrays[name])

    return change


def rename(kind):
    def change(_, extra):
        extra["kind"] = kind

    return change


def number(value):
    def change(_, extra):
        extra["next_id"] = value

    return change


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("index", put("codes", (7, 1), 5), "codes beyond K=5"),
        ("index", put("codebooks", (1, 2, 0), np.nan), "codebooks contain NaN"),
        ("index", replace("codes", lambda codes: codes[:, :1].copy()), "do not fit its codebooks"),
        ("index", replace("codes", lambda codes: codes.astype("u2")), "codes have a wrong dtype"),
        ("index", replace("codes", lambda codes: codes.astype("i8")), "codes can't have dtype"),
        ("index", replace("codebooks", lambda c: c.astype("f8")), "codebooks can't have dtype"),
        ("index", replace("codebooks", lambda c: c[0]), "codebooks can't have shape"),
        ("index", replace("codebooks", lambda c: c[:, :0]), "codebooks have no shape"),
        ("index", rename("InvertedCodeIndex"), "not a saved CodeIndex"),
        ("index", rename(["CodeIndex"]), "not a saved CodeIndex"),
        ("index", number(11), "next id can't be 11"),
        ("index", number(True), "next id can't be True"),
        ("index", number("12"), "next id can't be '12'"),
        ("index", number(2**64), "next id can't be"),
        ("index, numbers", number(29), "next id can't be 29"),
        ("index, numbers", put("ids", 3, 2), "2 comes twice"),
        ("index, numbers", replace("ids", lambda ids: ids[:-1]), "not as many ids as codes"),
        ("index, numbers", replace("ids", lambda ids: ids.astype("f8")), "ids can't have dtype"),
        ("index, strings", put("ids", 3, "ü2"), "'ü2' comes twice"),
        ("index, strings", replace("ids", lambda i: (i.view("u4") + 2**21).view("<U3")), "no text"),
        ("lists", put("rows", 3, 12), "names rows that it does not have"),
        ("lists", put("rows", 3, -1), "names rows that it does not have"),
        ("lists", replace("rows", lambda rows: np.sort(rows) // 2), "names a row twice"),
        ("lists", replace("rows", lambda rows: rows[1:].copy()), "not as many rows as codes"),
        ("lists", replace("starts", lambda s: s + 1), "overlap or leave gaps"),
        ("lists", replace("starts", lambda s: s[:-1].copy()), "not as many lists as directions"),
        ("lists", put("starts", 1, 13), "overlap or leave gaps"),
        ("lists", put("starts", 1, -1), "overlap or leave gaps"),
        ("lists", put("directions", (0, 0), np.inf), "directions are no numbers"),
        ("lists", replace("directions", lambda d: d[:, :2].copy()), "directions have another sh"),
        ("lists", replace("codes", lambda codes: codes[:0]), "no rows or no lists"),
        ("lists, strings", replace("ids", lambda ids: ids[:5]), "not as many ids as codes"),
        ("residuals", put("centers", (0, 0), np.nan), "centers are no numbers"),
        ("residuals", replace("centers", lambda c: c[:-1].copy()), "centers have another shape"),
        ("residuals", rename("InvertedCodeIndex"), "not a saved InvertedCodeIndex"),
    ],
)
def test_lies_under_right_checksums_are_seen_through(kind, change, message, verify, mmap, tmp_path):
    index, path = build(kind), tmp_path / "some.index"
    forge(index, path, change)
    with pytest.raises(LoadError, match=message) as caught:
        type(index).load(path, verify=verify, mmap=mmap)
    assert str(path) in str(caught.value)


def edit(path, change):
    """Change the header of a file, and seal it again."""
    header, data = split(path.read_bytes())
    change({entry["name"]: entry for entry in header["arrays"]}, header)
    path.write_bytes(join(header, data))


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize(
    "change",
    [
        lambda arrays, header: arrays["ids"].update(dtype="|O"),
        lambda arrays, header: arrays["codes"].update(dtype="|O", nbytes=8 * 24),
        lambda arrays, header: arrays["codes"].update(shape=[2**40, 2], nbytes=2**41),
        lambda arrays, header: arrays["codes"].update(shape=[2**62, 4]),
        lambda arrays, header: arrays["ids"].update(dtype="<U99999999", shape=[0], nbytes=0),
        lambda arrays, header: arrays["ids"].update(shape=[-12], nbytes=-96),
        lambda arrays, header: arrays["codes"].update(offset=0),
        lambda arrays, header: arrays["codes"].update(offset=-64),
        lambda arrays, header: arrays["codes"].update(offset=10**15),
        lambda arrays, header: arrays["codes"].update(offset=float(arrays["codes"]["offset"])),
        lambda arrays, header: header.update(nbytes=10**15),
        lambda arrays, header: header["arrays"].append(dict(arrays["codes"])),
        lambda arrays, header: header["arrays"].reverse(),
        lambda arrays, header: header["arrays"].pop(),
        lambda arrays, header: header.update(more=1),
    ],
)
def test_forged_headers_allocate_nothing(change, mmap, verify, tmp_path):
    path = tmp_path / "some.index"
    build("index, numbers").save(path)
    edit(path, change)
    tracemalloc.start()
    with pytest.raises(LoadError, match=r"some\.index"):
        CodeIndex.load(path, verify=verify, mmap=mmap)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 300_000


def test_headers_that_no_json_can_be_are_refused(tmp_path):
    path = tmp_path / "some.index"
    build("index").save(path)
    _, data = split(path.read_bytes())
    texts = [b"", b"[" * 100_000, b"\xff", b"null", b"[]", b'{"arrays":[],"arrays":[]}']
    texts.append(b'{"arrays":[],"extra":{},"nbytes":' + b"9" * 6000 + b"}")
    for text in texts:
        path.write_bytes(join(text, data))
        with pytest.raises(LoadError, match=r"some\.index"):
            CodeIndex.load(path)
    path.write_bytes(PREFIX.pack(b"SKWSDHQ\0", 1, 2**32 - 1, bytes(32)) + bytes(500))
    with pytest.raises(LoadError, match="a header of 4294967295 bytes"):
        CodeIndex.load(path)


def test_errors_of_the_system_are_its_own(tmp_path):
    for kind in (CodeIndex, InvertedCodeIndex):
        with pytest.raises(FileNotFoundError):
            kind.load(tmp_path / "none")
        with pytest.raises(OSError, match=r"irectory|denied"):
            kind.load(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_a_pipe_is_no_file_to_wait_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(LoadError, match="no regular file"):
        CodeIndex.load(tmp_path / "pipe")


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("kind", ["index, strings", "residuals, numbers"])
def test_a_file_that_is_replaced_while_it_is_read_is_the_old_one(
    kind, verify, mmap, tmp_path, monkeypatch
):
    index, path = build(kind), tmp_path / "some.index"
    index.save(path)
    expected = results(index)
    codebooks, codes = problem(900)
    other = CodeIndex(codebooks + 1, codes)
    if isinstance(index, InvertedCodeIndex):
        other = InvertedCodeIndex(other, 30, random_state=0)
    n_arrays = len(split(path.read_bytes())[0]["arrays"])
    read = _search_store._read_array
    for last in range(n_arrays):
        index.save(path)
        n_read = 0

        def read_slowly(*arguments, last=last):
            nonlocal n_read
            if n_read == last:
                other.save(path)
            n_read += 1
            return read(*arguments)

        monkeypatch.setattr(_search_store, "_read_array", read_slowly)
        loaded = type(index).load(path, mmap=mmap, verify=verify)
        assert_same(results(loaded), expected)
        assert len(type(index).load(path)) == 900


def test_saves_keep_mode_and_link_and_clean_up(tmp_path):
    index = build("index")
    (tmp_path / "real").mkdir()
    target, link = tmp_path / "real" / "some.index", tmp_path / "link.index"
    index.save(target)
    os.chmod(target, 0o600)
    link.symlink_to(target)
    before = target.stat().st_ino
    index.add(problem()[1]).save(link)
    assert link.is_symlink()
    assert target.stat().st_ino != before
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert len(CodeIndex.load(link)) == 24
    assert [path.name for path in target.parent.iterdir()] == ["some.index"]
    (target.parent / ".some.index.0123456789ab.part").write_bytes(b"left by a killed process")
    index.save(target)
    assert [path.name for path in target.parent.iterdir()] == ["some.index"]


# -- ids -----------------------------------------------------------------------------------------


class Number(int):
    pass


def listed_ids():
    import pandas as pd
    import polars as pl

    numbers, strings = [5, 1, 9], ["b", "a", "ç"]
    return [
        (numbers, "i"),
        (tuple(numbers), "i"),
        (iter(numbers), "i"),
        (range(3, 6), "i"),
        (np.array(numbers), "i"),
        (np.array(numbers, dtype=">i4"), "i"),
        (np.array(numbers, dtype="u8"), "i"),
        (np.array(numbers * 2, dtype="i2")[::2], "i"),
        (np.array(numbers, dtype=object), "i"),
        ([np.int8(5), 1, np.uint64(9)], "i"),
        ([Number(5), 1, 9], "i"),
        ([-1, -(2**63), 2**63 - 1], "i"),
        (pd.Series(numbers), "i"),
        (pd.Series(numbers, dtype="Int64"), "i"),
        (pd.Index(numbers), "i"),
        (pl.Series(numbers), "i"),
        (strings, "U"),
        (np.array(strings), "U"),
        (np.array(strings, dtype=">U7"), "U"),
        (np.array(strings, dtype=object), "U"),
        ([np.str_("b"), "a", "ç"], "U"),
        (pd.Series(strings), "U"),
        (pd.Series(strings, dtype="string"), "U"),
        (pd.Series(strings, dtype="category"), "U"),
        (pd.Index(strings), "U"),
        (pl.Series(strings), "U"),
        (["", "a\0b", "\0a"], "U"),
    ]


def test_ids_come_in_many_forms():
    codebooks, codes = problem(3)
    for given, kind in listed_ids():
        expected = [3, 4, 5] if isinstance(given, range) else None
        if not hasattr(given, "__next__") and expected is None:
            expected = [i if isinstance(i, str) else int(i) for i in given]
        index = CodeIndex(codebooks, codes, ids=given)
        assert index.ids.tolist() == (expected or [5, 1, 9])
        assert index.ids.dtype.kind == kind
        assert index.ids.dtype.isnative
        again = CodeIndex(codebooks, codes[:0]).add(codes, ids=index.ids.tolist())
        assert again.remove(index.ids[:2]).ids.tolist() == index.ids[2:].tolist()


def wrong_ids():
    import pandas as pd
    import polars as pl

    masked = np.ma.array([1, 2, 3], mask=[False, True, False])
    return [
        ["a", "b", float("nan")],
        ["a", "b", None],
        ["a", "b", pd.NA],
        ["a", "b", 3],
        [1, 2, "c"],
        [1, 2, 3.0],
        [1, 2, None],
        [True, False, 3],
        [np.True_, np.False_, 3],
        [b"a", b"b", b"c"],
        ["a", "b", b"c"],
        ["a", "b", ["c"]],
        [[1], [2], [3]],
        np.array(["a", "b", float("nan")], dtype=object),
        np.array([1.0, 2.0, 3.0]),
        np.array([True, False, True]),
        np.array([b"a", b"b", b"c"]),
        np.array(["2020", "2021", "2022"], dtype="M8[Y]"),
        masked,
        pd.Series(["a", None, "c"]),
        pd.Series(["a", None, "c"], dtype="string"),
        pd.Series([1, None, 3], dtype="Int64"),
        pd.Series([1, None, 3]),
        pl.Series(["a", None, "c"]),
        pl.Series([1, None, 3]),
        "abc",
        b"abc",
    ]


@pytest.mark.parametrize("place", range(27))
def test_ids_that_are_none_are_refused(place):
    ids = wrong_ids()[place]
    codebooks, codes = problem(3)
    index = CodeIndex(codebooks, codes)
    queries = np.ones((3, 3))
    match = "all integers or all strings|should be a list of ids"
    with pytest.raises(TypeError, match=match):
        CodeIndex(codebooks, codes, ids=ids)
    with pytest.raises(TypeError, match=match):
        index.add(codes, ids=ids)
    with pytest.raises(TypeError, match=match):
        index.remove(ids)
    with pytest.raises(TypeError, match=match):
        index.reconstruct(ids)
    with pytest.raises((TypeError, ValueError)):
        index.search(queries, 1, exclude=[ids] * 3)
    assert index.ids.tolist() == [0, 1, 2]


def test_one_id_among_many_that_comes_twice_is_named():
    codebooks, codes = problem(5000)
    rng = np.random.default_rng(0)
    numbers = rng.permutation(5000)
    for ids in (numbers, np.array([f"ü{i}" for i in numbers]), numbers.astype(str)[::-1]):
        assert len(CodeIndex(codebooks, codes, ids=ids)) == 5000
        twice = ids.copy()
        twice[17] = twice[4000]
        with pytest.raises(ValueError, match=f"{ids[4000].item()!r} comes twice"):
            CodeIndex(codebooks, codes, ids=twice)


def test_ids_that_numpy_would_change_are_refused():
    codebooks, codes = problem(3)
    for ids in (["a", "a\0", "b"], ["a", "b", "\0"]):
        with pytest.raises(ValueError, match="should not end in a NUL character; got '"):
            CodeIndex(codebooks, codes, ids=ids)
    large = [1, 2, 2**63]
    for ids in (large, np.array(large, dtype="u8"), [1, 2, np.uint64(2**63)], [1, -(2**64), 3]):
        with pytest.raises(ValueError, match="should lie within int64; got"):
            CodeIndex(codebooks, codes, ids=ids)
    with pytest.raises(ValueError, match="should have 1 dimension"):
        CodeIndex(codebooks, codes, ids=np.array([[1], [2], [3]]))
    index = CodeIndex(codebooks, codes, ids=[1, 2, 2**63 - 1])
    with pytest.raises(ValueError, match="no integer id after 9223372036854775807; give ids="):
        index.add(codes)
    assert index.add(codes[:1], ids=[5]).ids.tolist() == [1, 2, 2**63 - 1, 5]


def test_an_id_of_minus_one_is_told_from_none_by_its_similarity():
    codebooks, codes = problem(3)
    for ids, none in (([-1, 7, 8], -1), (["", "a", "b"], "")):
        index = CodeIndex(codebooks, codes, ids=ids)
        similarities, found = index.search(np.ones((2, 3)), 3, filter=[ids, ids[:1]])
        assert (found[0] == none).sum() == 1
        assert (found[1] == none).all()
        assert np.isfinite(similarities).sum(axis=1).tolist() == [3, 1]


# -- what people bring ---------------------------------------------------------------------------


def shifted(array):
    """An equal array that begins four bytes off a multiple of 64."""
    room = np.zeros(array.nbytes + 128, dtype=np.uint8)
    begin = -room.ctypes.data % 64 + 4
    moved = room[begin : begin + array.nbytes].view(array.dtype).reshape(array.shape)
    moved[...] = array
    return moved


def test_arrays_of_every_make_are_searched_alike(tmp_path):
    rng = np.random.default_rng(0)
    codebooks = rng.normal(size=(4, 16, 8)).astype("f4")
    codes = rng.integers(0, 16, (9000, 4)).astype("u1")
    queries = rng.normal(size=(70, 8)).astype("f4")
    np.save(tmp_path / "codes.npy", codes)
    mapped = np.load(tmp_path / "codes.npy", mmap_mode="r")
    expected = CodeIndex(codebooks, codes).search(queries, 9)
    for given in (
        (codebooks, mapped, queries),
        (codebooks, np.asfortranarray(codes), queries),
        (codebooks, codes.repeat(2, axis=0)[::2], queries),
        (codebooks, codes.astype(">i8"), queries),
        (codebooks.astype(">f8"), codes.tolist(), queries.astype(">f4")),
        (shifted(codebooks), shifted(codes), shifted(queries)),
        (np.asfortranarray(codebooks), codes, np.asfortranarray(queries)),
        (codebooks, codes, queries.repeat(2, axis=1)[:, ::2]),
    ):
        for engine in ("auto", "scan", "pairs", "numpy"):
            index = CodeIndex(*given[:2], engine=engine)
            similarities, ids = index.search(given[2], np.int32(9))
            # How an array lies in memory may change the last bits of products.
            np.testing.assert_allclose(similarities, expected[0], rtol=1e-5, atol=1e-5)
            decoded = sum(codebooks[m][codes[ids, m]] for m in range(4))
            np.testing.assert_allclose(
                np.einsum("qd,qkd->qk", queries, decoded), expected[0], rtol=1e-5, atol=1e-5
            )
            assert all(len(set(row)) == 9 for row in ids.tolist())


def test_nothing_to_add_search_or_remove():
    codebooks, codes = problem()
    index = CodeIndex(codebooks, codes)
    before = index._rows
    assert index.add(codes[:0]).add(np.zeros((0, 2))).remove([])._rows is before
    assert index.add(codes[:0], ids=[])._rows is before
    empty = CodeIndex(codebooks, codes[:0])
    for k in (1, np.int64(7)):
        assert empty.search(np.ones((3, 3)), k)[1].shape == (3, 0)
        assert index.search(np.ones((0, 3)), k)[1].shape == (0, min(k, 12))
    assert empty.search(np.ones((3, 3)), 2, filter=[])[1].shape == (3, 0)
    assert empty.search(np.ones((3, 3)), 2, exclude=[[1]] * 3)[1].shape == (3, 0)
    assert empty.reconstruct().shape == (0, 3)
    assert index.remove(index.ids).add(codes[:1]).ids.tolist() == [12]
    for k in (0, -3):
        with pytest.raises(ValueError, match=f"k={k} should be at least 1"):
            index.search(np.ones((1, 3)), k)
    for k in (True, 2.5, "3", None):
        with pytest.raises(TypeError, match="should be an integer"):
            index.search(np.ones((1, 3)), k)
        with pytest.raises(TypeError, match=r"n_codebooks=.* should be an integer"):
            index.prefix(k)


def test_similarities_beyond_float32_are_refused():
    codebooks, codes = problem()
    index = CodeIndex(codebooks * np.float32(1e25), codes)
    queries = np.full((9, 3), 1e20)
    for search in (
        lambda: index.search(queries, 3),
        lambda: index.range_search(queries, 0),
        lambda: InvertedCodeIndex(index, 2, random_state=0).search(queries, 3),
    ):
        with pytest.raises(ValueError, match="exceed float32; scale embeddings"):
            search()
