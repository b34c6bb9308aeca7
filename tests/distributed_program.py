"""What tests/test_distributed.py runs in several processes: fits, whose models each of them saves.

torchrun --nproc-per-node 2 distributed_program.py FOLDER {fits,refusals,killed}
"""

import os
import pickle
import signal
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

from skwsdhq import HypersphereEmbedder, TagKernelRegressor, WSDHQuantizer
from skwsdhq.backbones import Backbone
from skwsdhq.datasets import make_tagged_images
from skwsdhq.distributed import fit
from skwsdhq.embedding import EarlyStopping, FeatureScaler, FineTuning
from skwsdhq.losses import Contrastive

# Of batches of twice 32 the last one holds a single row, so that one process has none.
MADE = make_tagged_images(257, wrong=0.2, random_state=0)
X = MADE.data.astype(np.float32)
BATCH_SIZE = 32


class Unused(nn.Module):
    """A network with a layer that nothing goes through, and one that drops units.

    It takes no empty batch.
    """

    def __init__(self):
        super().__init__()
        self.first, self.aside = nn.Conv2d(3, 6, 3, 2), nn.Linear(4, 4)
        self.drop, self.last = nn.Dropout(0.3), nn.Conv2d(6, 8, 3, 2)

    def forward(self, pixels):
        seen = self.last(self.drop(self.first(pixels).relu()))
        return seen.reshape(len(seen), 8, -1).mean(dim=2)


class Normal(nn.Module):
    """A network with statistics of its own, which tells how many pictures it has seen."""

    n_seen = 0

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 5, 3), nn.BatchNorm2d(8)

    def forward(self, pixels):
        Normal.n_seen += len(pixels)
        return self.norm(self.first(pixels)).relu().mean(dim=(2, 3))


def network(kind=Unused):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Backbone(kind(), size=16)


def pictures():
    rng = np.random.default_rng(0)
    shown = rng.integers(0, 256, (129, 18, 18, 3))
    kinds = np.stack([np.arange(129) % n for n in (7, 5)])
    shown[..., 0], shown[..., 1] = kinds[:, :, None, None] * [[[[30]]], [[[50]]]]
    return list(shown.astype(np.uint8)), [[f"a{a}", f"b{b}"] for a, b in kinds.T]


def quantizer(embedder, **parameters):
    given = {"n_codebooks": 2, "n_codewords": 16, "code_update_period": 2, "random_state": 0}
    return WSDHQuantizer(embedder, **{**given, **parameters})


def embedder(batch_size, **parameters):
    given = {"hidden_layer_sizes": (24,), "max_iter": 4, "dropout": 0.3, "random_state": 0}
    return HypersphereEmbedder(batch_size=batch_size, **{**given, **parameters})


def tuned(batch_size, kind=Unused, **parameters):
    tuning = FineTuning("all", head_iter=2, dtype="float32", **parameters)
    options = {"backbone": network(kind), "finetune": tuning, "max_iter": 2, "learning_rate": 0.01}
    return embedder(batch_size, **options)


class Sliced:
    """Rows that are not in memory."""

    def __init__(self, rows):
        self.rows, self.shape, self.dtype = rows, rows.shape, rows.dtype

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, part):
        return self.rows[part]


def fits(batch_size, folder=None):
    """Yield names of fits, models, and what they are fitted to; some of it in a file."""
    some = TagKernelRegressor(max_landmarks=60)
    rows, tags = X, MADE.tags
    yield "in memory", quantizer(embedder(batch_size)), rows, tags
    mapped = rows
    if folder is not None:
        np.save(folder / f"{os.getpid()}.npy", rows)
        mapped = np.load(folder / f"{os.getpid()}.npy", mmap_mode="r")
    stopping = EarlyStopping(n_iter_no_change=1)
    by_sums = embedder(batch_size, kernel=some, early_stopping=stopping, max_iter=9)
    # Without a beam codes go on from where they were; few rows for so many codewords.
    options = {"beam_size": None, "code_update_period": 1, "n_codewords": 200}
    yield "by sums", quantizer(by_sums, **options), mapped, tags
    loss = Contrastive()
    yield "contrastive", quantizer(embedder(batch_size, loss=loss, kernel_weight=0)), rows, tags
    alone = embedder(batch_size, kernel=some, kernel_weight=1)
    yield "no network", quantizer(alone), rows.astype(np.float64), tags
    yield "regression", TagKernelRegressor(max_landmarks=60, random_state=0), rows, tags
    shown, seen_tags = pictures()
    yield "tuned", quantizer(tuned(batch_size)), shown, seen_tags
    # The last batch of twice 32 holds 33: one process has a part of 16, the other two.
    parts = tuned(batch_size, Normal, micro_batch_size=16)
    yield "in parts", quantizer(parts), shown[:97], seen_tags[:97]
    crops = embedder(batch_size, backbone=network(Normal), ten_crop=True)
    yield "ten crops", quantizer(crops), np.stack(shown), seen_tags
    yield "other numbers", quantizer(embedder(batch_size)), rows.astype(object), tags
    yield "embedder", embedder(batch_size), rows, tags


def keep(model, rows, path):
    """Save what a model makes of its rows."""
    kept = {"rows": model.transform(rows)}
    if hasattr(model, "codes_"):
        kept |= {"codes": model.codes_, "codebooks": model.codebooks_}
    for name, figures in getattr(model, "history_", {}).items():
        kept[f"history {name}"] = np.array(figures)
    np.savez(path, **kept)


def fit_all(folder, batch_size):
    rank = os.environ.get("RANK", "alone")
    for name, model, rows, tags in fits(batch_size, folder):
        Normal.n_seen = 0
        assert fit(model, rows, tags) is model
        # What is fitted knows nothing of other processes.
        kept = pickle.dumps(model)
        assert b"Team" not in kept
        assert b"DistributedDataParallel" not in kept
        (folder / f"{name} {rank}.seen").write_text(str(Normal.n_seen))
        keep(model, rows, folder / f"{name} {rank}.npz")


def told(*arguments, error):
    try:
        fit(*arguments)
    except error as raised:
        return f"{type(raised).__name__}: {str(raised).splitlines()[0]}"
    return "nothing"


class Lost:
    """A loss that is no number."""

    def start(self, concept_vectors, indicator, device):
        return lambda outputs, rows: outputs.sum() * float("nan")


class Callback:
    """Stop after an epoch that is another one in each process; or fail in one of them."""

    def __init__(self, rank, fails=False):
        self.rank, self.fails, self.n_epochs = rank, fails, 0

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context, *, X=None, y=None):
        pass

    def on_fit_task_end(self, estimator, context, *, X=None, y=None, fitted_estimator=None):
        assert fitted_estimator is None or fitted_estimator.transform(MADE.data[:3]).shape[0] == 3
        self.n_epochs += 1
        if self.fails and self.rank:
            raise KeyError("of one process")
        return self.n_epochs > 1 + self.rank


def called(*arguments):
    """Tell how many epochs a fit with a callback takes, or what it raises."""
    model = embedder(BATCH_SIZE)
    if not hasattr(model, "set_callbacks"):  # of scikit-learn before 1.9
        return "none"
    model.set_callbacks(Callback(*arguments))
    return told(model, X, MADE.tags, error=KeyError).replace(
        "nothing", str(getattr(model, "n_iter_", 0))
    )


def damaged(rows, row):
    rows = rows.copy()
    rows[row] = np.nan
    return rows


def refuse_all(folder):
    rank = int(os.environ["RANK"])
    model = TagKernelRegressor(random_state=0)
    other = MADE.tags if rank else MADE.tags[::-1]
    lines = [
        told(model, X, other, error=ValueError),
        told(TagKernelRegressor(random_state=rank), X, MADE.tags, error=ValueError),
        told(TagKernelRegressor(), X, MADE.tags, error=ValueError),
        told(model, X.tolist(), MADE.tags, error=TypeError),
        told(model, X[:, :0], MADE.tags, error=ValueError),
        told(embedder(8, loss=Lost()), X, MADE.tags, error=FloatingPointError),
        told(model, damaged(X, 250), MADE.tags, error=ValueError),
    ]
    # Of what one process alone can see the other one is told.
    last = Sliced(damaged(X, 250))
    plain = FeatureScaler(scale=False)
    as_it_is = embedder(8, kernel_weight=0, scaler=plain)
    lines += [told(each, last, MADE.tags, error=ValueError) for each in (model, as_it_is)]
    paths = [folder / "nowhere.png"] * 4
    seen = embedder(8, backbone=network())
    lines.append(told(seen, paths, MADE.tags[:4], error=OSError))
    by_chance = embedder(8, random_state=np.random.RandomState(rank))
    lines.append(told(quantizer(by_chance), X, MADE.tags, error=ValueError))
    lines += [called(rank), called(rank, True)]
    (folder / f"{rank}.txt").write_text("\n".join(lines))


def be_killed(folder):
    """Kill a process after some epochs of the first start; the second start goes on."""
    from skwsdhq.training import session

    run_epoch, n_run = session.run_epoch, []

    def counted(*arguments):
        n_run.append(1)
        if len(n_run) == 3 and os.environ["RANK"] == "1" and not (folder / "killed").exists():
            (folder / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return run_epoch(*arguments)

    session.run_epoch = counted
    model = quantizer(embedder(BATCH_SIZE, checkpoint_dir=folder / "kept"))
    fit(model, X, MADE.tags)
    rank = os.environ["RANK"]
    (folder / f"{rank}.txt").write_text(str(len(n_run)))
    keep(model, X, folder / f"in memory {rank}.npz")


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    if sys.argv[2] == "killed":
        be_killed(folder)
    else:
        fit_all(folder, BATCH_SIZE)
        refuse_all(folder)
