"""The package as a whole: what an import costs, and what it leaves alone."""

import ast
import collections
import doctest
import importlib
import inspect
import pickle
import pkgutil
import subprocess
import sys
from pathlib import Path

import skwsdhq

HEAVY = ("gensim", "faiss", "torchvision", "matplotlib", "timm", "pandas", "PIL.Image")


def run(program):
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_import_loads_nothing_that_is_not_needed():
    before = "import torch, sklearn, sklearn.base, sys; before = set(sys.modules); "
    loaded = run(
        f"{before}import skwsdhq; print([m for m in {HEAVY} if m in set(sys.modules) - before])"
    )
    assert loaded == "[]"


def test_import_leaves_random_and_thread_settings_alone():
    state = (
        "state = lambda: (torch.get_rng_state().sum().item(), torch.get_num_threads(), "
        "np.random.get_state()[1].sum(), np.random.get_state()[2])"
    )
    equal = run(
        f"import numpy as np, torch, sklearn; {state}; before = state(); "
        "import skwsdhq, skwsdhq.metrics, skwsdhq.search, skwsdhq.backbones, skwsdhq.datasets; "
        "print(before == state())"
    )
    assert equal == "True"


def test_public_names():
    for name in skwsdhq.__all__:
        assert hasattr(skwsdhq, name)
    assert skwsdhq.__version__


EVERYTHING = """
import sys
import matplotlib
matplotlib.use("Agg")
import numpy as np
import skwsdhq
from sklearn.pipeline import Pipeline
from skwsdhq import HypersphereEmbedder, ImageLoader, TagEnhancer, WSDHQuantizer
from skwsdhq.backbones import extract_features
from skwsdhq.baselines import CCAITQ, WDHTHasher
from skwsdhq.codebooks import learn_codebooks
from skwsdhq.datasets import make_tagged_images
from skwsdhq.metrics import mean_average_precision
from skwsdhq.plotting import CodeLengthDisplay, PrecisionAtKDisplay, PrecisionRecallDisplay
from skwsdhq.search import CodeIndex, InvertedCodeIndex

folder = sys.argv[1]
made = make_tagged_images(200, random_state=0)
pictures = make_tagged_images(120, kind="images", random_state=0)

def mean_colour(batch):
    return batch.mean(axis=(1, 2))

def colours(rows):
    return extract_features(rows, mean_colour)

assert colours(pictures.data).shape == (120, 3)
loader = ImageLoader(mean_colour, memory=folder)
pipeline = Pipeline([
    ("images", loader),
    ("embedder", HypersphereEmbedder(max_iter=2, random_state=0)),
    ("codes", WSDHQuantizer("passthrough", n_codebooks=2, n_codewords=16, random_state=0)),
]).fit(pictures.data, pictures.tags)
pipeline.score(pictures.data, pictures.tags)
embedder = HypersphereEmbedder(TagEnhancer(), max_iter=2, random_state=0)  # vectors of its own
model = WSDHQuantizer(embedder, n_codebooks=2, n_codewords=16, codebook_iters=2, random_state=0)
model.fit(made.data, made.tags).partial_fit(made.data, made.tags)
model.save(folder + "/model.skwsdhq")
again = skwsdhq.load(folder + "/model.skwsdhq")
rows = again.transform(made.data)
again.encode(made.data), again.decode(again.codes_), again.kneighbors(made.data, 3)
again.score(made.data, made.tags)
learn_codebooks(rows, 2, 16, random_state=0)
index = CodeIndex(again.codebooks_, again.codes_)
for engine in ("auto", "faiss", "numpy"):
    CodeIndex(again.codebooks_, again.codes_, engine=engine).search(rows, 3)
index.add(again.codes_), index.remove([0, 1])
index.save(folder + "/index")
CodeIndex.load(folder + "/index").to_faiss("additive").search(rows, 3)
InvertedCodeIndex(index).search(rows, 3)
mean_average_precision(rows, rows, made.target, made.target)
for hasher in (CCAITQ(n_bits=8), WDHTHasher(n_bits=8, max_iter=1)):
    hasher.fit(made.data, made.tags).encode(made.data)
CodeLengthDisplay([8, 16], [0.5, 0.6], name="codes").plot()
for display in (PrecisionAtKDisplay, PrecisionRecallDisplay):
    display.from_predictions(rows, rows, made.target, made.target, name="codes")
"""


def test_nothing_is_printed(tmp_path):
    """Neither by Python nor by the libraries beneath, which write past it."""
    done = subprocess.run(
        [sys.executable, "-c", EVERYTHING, tmp_path], capture_output=True, text=True
    )
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


def test_every_warning_points_to_the_users_line():
    root = Path(skwsdhq.__file__).parent
    calls = [
        f"{path.relative_to(root)}:{node.lineno}"
        for path in sorted(root.rglob("*.py"))
        if path.name != "warn.py"
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "warnings.warn"
    ]
    assert not calls, "utils.warn.warn_caller knows the user's line"


MODULES = list(pkgutil.walk_packages(skwsdhq.__path__, "skwsdhq."))
PACKAGES = ["skwsdhq", *(module.name for module in MODULES if module.ispkg)]


def public():
    """Pairs of a package and a class or function that it gives."""
    for package in map(importlib.import_module, PACKAGES):
        for name in getattr(package, "__all__", ()):
            value = getattr(package, name)
            if inspect.isclass(value) or inspect.isfunction(value):
                yield package, value


def test_public_names_say_where_they_are_imported_from():
    for package, value in public():
        expected = "skwsdhq" if value.__name__ in skwsdhq.__all__ else package.__name__
        assert value.__module__ == expected
        assert pickle.loads(pickle.dumps(value)) is value


def test_the_examples_of_public_names_run_once():
    found = collections.Counter()
    for module in MODULES:
        if not module.ispkg:  # what a package gives on is not collected there
            tests = doctest.DocTestFinder().find(importlib.import_module(module.name))
            found.update(test.docstring for test in tests if test.examples)
    expected = set()
    for _, value in public():
        members = list(vars(value).values()) if inspect.isclass(value) else []
        members = [part for part in members if inspect.isroutine(part) or type(part) is property]
        expected |= {inspect.getdoc(part) or "" for part in (value, *members)}
    expected = {text for text in expected if ">>>" in text}
    assert len(expected) > 50
    assert {inspect.cleandoc(text) for text in found} >= expected
    assert set(found.values()) == {1}
