"""What is compiled, and what happens where nothing can be."""

import sys
import types

import numpy as np
import pytest

from skwsdhq.search import CodeIndex, _sorted
from skwsdhq.utils import compiled as compiling


@pytest.fixture
def loaded(monkeypatch):
    modules = {}
    monkeypatch.setattr(compiling, "_LOADED", modules)
    return modules


def test_a_missing_compiler_is_no_error(loaded, monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)  # as where it is not installed
    for name in ("_kernels_keys", "_kernels_walk", "_kernels_many"):
        monkeypatch.delitem(sys.modules, f"skwsdhq.search.{name}", raising=False)
    monkeypatch.setattr(_sorted, "_asked", _sorted._MIN_ASKED)
    random = np.random.RandomState(0)
    codebooks, codes = random.normal(size=(3, 64, 4)), random.randint(64, size=(3000, 3))
    queries = random.normal(size=(9, 4))
    index = CodeIndex(codebooks, codes, engine="bounded")
    expected = CodeIndex(codebooks, codes, engine="numpy").search(queries, 7, exclude=[[1]] * 9)
    found = index.search(queries, 7, exclude=[[1]] * 9)
    np.testing.assert_array_equal(found[1], expected[1])
    np.testing.assert_array_equal(found[0], expected[0])
    assert loaded == {"skwsdhq.search._kernels_walk": None}


def test_what_raises_when_it_is_tried_out_is_not_used(loaded, monkeypatch):
    broken = types.ModuleType("broken")
    broken.try_out = lambda: 1 / 0
    monkeypatch.setitem(sys.modules, "broken", broken)
    assert compiling.kernels("broken") is None
    broken.try_out = lambda: None
    assert compiling.kernels("broken") is None  # and is not tried again


@pytest.mark.parametrize("place", ["none", "full disk", "damaged"])
def test_no_cache_means_to_compile_anew(place, monkeypatch, tmp_path):
    numba = pytest.importorskip("numba")
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    caching = numba.core.caching
    if place == "none":
        monkeypatch.setattr(caching.FunctionCache._impl_class, "_locator_classes", [])
    double = compiling.compiled(lambda x: x + x)
    if place == "full disk":
        monkeypatch.setattr(caching.IndexDataCacheFile, "save", lambda *args: 1 / 0)
    elif place == "damaged":
        monkeypatch.setattr(caching.IndexDataCacheFile, "load", lambda *args: 1 / 0)
    assert double(21) == 42
