"""The package as a whole: what an import costs, and what it leaves alone."""

import subprocess
import sys

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
