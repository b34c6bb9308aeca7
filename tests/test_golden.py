"""What models of every kind learn stays as the code moves.

The file was written by the version before the package got its rooms, on one machine. Others round
otherwise, turn the vectors of tags about (a singular vector has no sign), and a training carries
that on: similarities and losses are held to what machines agree on. To compare two versions to the
bit on one machine, see ``tests/reference/golden.py``.
"""

from pathlib import Path

import numpy as np
import pytest
from reference.golden import MODELS, summary

BEFORE = np.load(Path(__file__).parent / "data" / "golden.npz")


@pytest.mark.parametrize("kind", sorted(MODELS))
def test_what_is_learned_stays(kind):
    now = summary(MODELS[kind]())
    before = {
        name.removeprefix(f"{kind}: "): BEFORE[name]
        for name in BEFORE.files
        if name.startswith(f"{kind}: ")
    }
    assert sorted(now) == sorted(before)
    for name, array in before.items():
        assert now[name].shape == array.shape, name
        assert np.abs(now[name] - array).max(initial=0) < 0.01, name


def test_another_model_is_told():
    """A network that has learned half as long is none of these."""
    now, other = (summary(MODELS[kind]()) for kind in ("network alone", "default"))
    assert np.abs(now["similarities"] - other["similarities"]).max() > 0.05
