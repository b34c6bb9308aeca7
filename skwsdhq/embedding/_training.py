"""The training of a HypersphereEmbedder: what it starts from, its lessons, what it would leave."""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import sparse

from ..backbones.features import features_and_skipped
from ..backbones.networks import load_backbone, name_of, resolve_device
from ..backbones.run import compute_dtype
from ..images import ResizedImages
from ..tags.enhancer import concept_lengths
from ..training.checkpoint import Checkpoint, fingerprint
from ..training.companion import Companion
from ..training.fixed import FixedInputs
from ..training.linear import choose_products
from ..training.loop import Lesson
from ..training.network import build_network, check_layer_sizes, network_arrays
from ..training.optimizer import AdamSchedule, Steps, parameter_groups
from ..training.scaling import FeatureScaler, Scaling
from ..training.session import Session
from ..training.stopping import EarlyStopping, ValidationStop, hold_out
from ..training.team import team_of
from ..training.trunk import FineTuned, FineTuning, load_trunk_state
from ..utils.estimators import check_unchanged, columns_seen, with_attributes
from ..utils.rows import LazyRows, is_lazy, joined_blocks, mapped_rows, room_for
from ..utils.threads import as_outside
from ..utils.together import sharing
from .regressor import TagKernelRegressor, fit_kernel_to, go_on_with_kernel, placed

__all__ = ["EmbedderTraining", "Material", "Parts", "head_dtype", "network_with"]

# Parameters that leave a run what it is, or that enter its fingerprint by what they give: concepts,
# features and a seed.
NOT_IN_FINGERPRINT = (
    "backbone", "checkpoint_dir", "device", "features", "random_state", "tag_enhancer", "verbose",
    "warm_start", "finetune__cache_dir", "kernel__random_state", "kernel__scaler",
    "kernel__tag_enhancer",
)  # fmt: skip


class Parts(NamedTuple):
    """Hold the objects that an embedder is made of, names and None replaced by default ones."""

    loss: Any
    kernel: TagKernelRegressor
    scaler: FeatureScaler
    optimizer: AdamSchedule
    tuning: FineTuning | None
    stopping: EarlyStopping | None


class Material(NamedTuple):
    """Hold what a training learns from: n images and their concepts."""

    X: Any
    features: np.ndarray  # (n, d), X itself or what a network makes of images
    backbone: Any  # that network
    enhancer: Any  # fitted
    indicator: sparse.csr_array  # (n, C)
    scaling: Scaling  # of the features
    seed: int

    @property
    def concepts(self) -> np.ndarray:
        """Concept vectors (C, D)."""
        return self.enhancer.concept_vectors_


class EmbedderTraining:
    """Train an embedder, epoch by epoch.

    Parameters
    ----------
    embedder : HypersphereEmbedder
        With the parameters of the training, and the attributes that it goes on from.
    parts : Parts
        Of the embedder.
    material : Material
        What to learn from.
    companion : Companion, default=None
        What learns along.
    resume : {None, "fit", "partial"}, default=None
        Begin anew; go on from the embedder's attributes for another ``max_iter`` epochs; or go on
        for one epoch over these images only.
    """

    def __init__(
        self,
        embedder: Any,
        parts: Parts,
        material: Material,
        *,
        companion: Companion | None = None,
        resume: str | None = None,
    ) -> None:
        self._embedder, self._parts, self._material = embedder, parts, material
        self._companion, self._is_partial = companion, resume == "partial"
        self.team = team_of(material.X)
        # The first partial_fit, or a warm start without a fit, begins like any other.
        self._goes_on = resume is not None and hasattr(embedder, "coefs_")
        self._generator = self._new_generator()
        self._stream: Any = None  # of sums, by which a regression goes on
        self._kernel = self._first_kernel()
        if companion is not None:
            companion.start(material.concepts, concept_lengths(material.enhancer))
        self._seen: tuple[Any, np.ndarray] | None = None
        stopping = None
        if parts.stopping is not None and not self._is_partial:
            stopping = ValidationStop(parts.stopping.n_iter_no_change, parts.stopping.tol)
        lessons = self._lessons()
        self._session = Session(
            lessons,
            self._generator,
            stopping=stopping if lessons else None,
            checkpoint=self._checkpoint(),
            announced_as=f"fine-tuning {name_of(material.backbone)}" if parts.tuning else None,
            verbose=0 if self.team is not None and self.team.rank else embedder.verbose,
            team=self.team,
        )

    def __iter__(self) -> Iterator[dict[str, float]]:
        """Train, and give the figures of each epoch."""
        return iter(self._session)

    @property
    def has_more(self) -> bool:
        """Whether an epoch is left."""
        return self._session.has_more

    @property
    def failure(self) -> FloatingPointError | None:
        """A loss that was no number, once the last whole epoch is back in place."""
        return self._session.failure

    @property
    def ends_elsewhere(self) -> bool:
        """Whether the last outputs are joined with a regression that a companion has not seen."""
        return self._parts.tuning is not None and bool(self._last_kernel_weight())

    @as_outside
    def attributes(self) -> dict[str, Any]:
        """Return what a fit that ended now would set, by name."""
        material, model = self._material, self._model
        tuned = isinstance(model, FineTuned)
        arrays = [] if model is None else network_arrays(model.head)
        # Moments are twice as large as the weights; who won't go on does without.
        keep = self._is_partial or self._embedder.warm_start
        steps = self._session.lesson.steps if keep and model is not None else None
        state = self._generator.get_state().numpy().copy() if keep and model is not None else None
        return {
            **columns_seen(self._embedder),
            "kernel_": self._kernel_now(),
            **self._stream_now(),
            "tag_enhancer_": material.enhancer,
            "feature_mean_": material.scaling.mean,
            "feature_power_": material.scaling.power,
            "backbone_": material.backbone,
            "backbone_state_": model.trunk_state() if tuned else self._trunk_state(),
            "coefs_": [weights for weights, _ in arrays],
            "intercepts_": [bias for _, bias in arrays],
            **self._history(),
            "_optimizer_state": None if steps is None else steps.state(),
            "_generator_state": state,
        }

    @as_outside
    def outputs(self) -> np.ndarray:
        """Return (n, D) of the images trained on as they would be embedded now, any length."""
        fitted = with_attributes(self._embedder, self.attributes())
        features: Any = self._features_now()
        if fitted.ten_crop or features is None:
            X = self._material.X
            return X.part_by(fitted.outputs) if hasattr(X, "part_by") else fitted.outputs(X)
        if self._parts.tuning is None and self._model is not None and features.dtype == np.float32:
            return self._model.outputs()  # its regression is at hand
        embed = functools.partial(_embedded, fitted)
        if self._model is None and is_lazy(features):
            # The regression's are made where they are asked for: nothing of all rows is held.
            width = self._material.concepts.shape[1]
            kind = np.float64 if features.dtype == np.float64 else np.float32
            return mapped_rows(features, embed, dtype=kind, width=width)
        if self.team is not None:
            return features.of_part(embed)
        return joined_blocks(fitted.outputs_of_features(features), len(features), room_for)

    # --- what it starts from ------------------------------------------------------------

    def _new_generator(self) -> torch.Generator:
        """Return torch's random numbers of this run, or those that the last one has left."""
        # Draws on the device, so that batches need not travel.
        device = resolve_device(self._embedder.device)
        generator = torch.Generator(device).manual_seed(self._material.seed)
        state = getattr(self._embedder, "_generator_state", None) if self._goes_on else None
        if state is not None and state.size == generator.get_state().numel():  # of this device
            generator.set_state(torch.from_numpy(np.array(state)))
        return generator

    def _first_kernel(self) -> dict[str, Any]:
        """Return the regression on frozen features, which is there before the network learns."""
        if self._parts.tuning is not None:
            return {}
        if self._is_partial:
            return self._kernel_gone_on()
        return self._fitted_kernel(self._material.features)

    def _kernel_gone_on(self) -> dict[str, Any]:
        """Return the regression with the rows of this batch added; set what goes on next time."""
        embedder, material = self._embedder, self._material
        weight = float(embedder.kernel_weight)
        before: tuple[dict[str, Any], Any] = {}, None
        if self._goes_on:
            before = embedder.kernel_, getattr(embedder, "_kernel_stream", None)
        # A batch says little of what a network has learned of many, if no regression came before.
        if not weight or (self._goes_on and not before[0]):
            return {}
        inputs = material.scaling.inputs(material.features)
        found, self._stream = go_on_with_kernel(
            before, inputs, material.indicator, material.concepts, self._parts.kernel, material.seed
        )
        return {**found, "weight": weight}

    def _fitted_kernel(self, features: np.ndarray) -> dict[str, Any]:
        """Return ``kernel_``, fitted to these features of the images."""
        weight, material = float(self._embedder.kernel_weight), self._material
        # A share of 0 is a network alone.
        if not weight:
            return {}
        inputs = material.scaling.inputs(features)
        fitted = fit_kernel_to(
            inputs, material.indicator, material.concepts, self._parts.kernel, material.seed
        )
        return {**fitted, "weight": weight}

    def _checkpoint(self) -> Checkpoint | None:
        """Return where this run keeps its state: another file for other parameters or data."""
        embedder, material = self._embedder, self._material
        if embedder.checkpoint_dir is None or self._is_partial or self._goes_on:
            return None
        if embedder.random_state is None:
            raise ValueError(
                "checkpoint_dir needs a random_state: without one a run that goes on can't be "
                "told from a new one."
            )
        # A companion that learns otherwise makes another run of it.
        codes = None if self._companion is None else self._companion.parameters()
        rows = (material.indicator.indptr, material.indicator.indices)
        told = fingerprint(
            self._told_parameters(),
            material.features,
            rows,
            material.concepts,
            material.seed,
            codes,
        )
        return Checkpoint(embedder.checkpoint_dir, told)

    def _told_parameters(self) -> dict[str, Any]:
        """Return the parameters that make the run what it is, those of its parts by their own."""
        given = self._embedder.get_params(deep=False)
        parts = self._parts
        named = {
            "loss": parts.loss,
            "kernel": parts.kernel,
            "scaler": parts.scaler,
            "optimizer": parts.optimizer,
            "finetune": parts.tuning,
            "early_stopping": parts.stopping,
        }
        for name, part in named.items():
            if hasattr(part, "get_params"):
                given[name] = type(part).__qualname__
                # By what it holds: two equal parts are one run.
                own = part.get_params()
                given |= {f"{name}__{key}": own[key] for key in sorted(own)}
            else:
                given[name] = part
        return {name: value for name, value in given.items() if name not in NOT_IN_FINGERPRINT}

    # --- what is learned ----------------------------------------------------------------

    def _lessons(self) -> list[Lesson]:
        """Return the epochs to come: of the head on frozen features, then of network and head."""
        if self._embedder.has_no_network:
            return []  # the regression is all there is
        tuning, embedder, material = self._parts.tuning, self._embedder, self._material
        head = self._new_head()
        loss = self._parts.loss.start(material.concepts, material.indicator, self._generator.device)
        # partial_fit is one epoch, whatever max_iter says.
        n_epochs = 1 if self._is_partial else int(embedder.max_iter)
        if tuning is None:
            return [self._lesson(self._on_features(head, self._kernel), loss, n_epochs)]
        # The same head in both lessons: what the first has taught it stays.
        last = self._lesson(self._fine_tuned(head, tuning), loss, n_epochs)
        if self._goes_on or self._is_partial or not tuning.head_iter:
            return [last]
        first = self._lesson(self._on_features(head, {}), loss, int(tuning.head_iter), alone=True)
        return [first, last]

    def _new_head(self) -> torch.nn.Sequential:
        """Return the layers that learn, as new or as the last fit has left them."""
        embedder, material = self._embedder, self._material
        hidden = check_layer_sizes(embedder.hidden_layer_sizes)
        arrays = None
        if self._goes_on and embedder.coefs_:
            fitted = tuple(len(bias) for bias in embedder.intercepts_[:-1])
            # Else the fitted layers would stand, in silence, for those that are asked for.
            check_unchanged("hidden_layer_sizes", hidden, fitted)
            arrays = list(zip(embedder.coefs_, embedder.intercepts_, strict=True))
        sizes = (material.features.shape[1], *hidden, material.concepts.shape[1])
        return build_network(sizes, embedder.dropout, self._generator, arrays)

    def _on_features(self, head: torch.nn.Sequential, kernel: dict[str, Any]) -> FixedInputs:
        """Return the head on frozen features, its outputs joined with the regression's."""
        inputs = self._material.scaling.inputs(self._material.features)
        # The network learns in float32, whatever the features are.
        inputs = mapped_rows(
            inputs, lambda rows: rows.astype(np.float32, copy=False), dtype=np.float32
        )
        with sharing():
            joined = (self._placed(inputs, kernel), kernel["weight"]) if kernel else ()
        return FixedInputs(head, inputs, self._generator.device, *joined)

    def _placed(self, inputs: Any, kernel: dict[str, Any]) -> np.ndarray:
        """Return unit rows (n, D) by the regression; of a team each process makes its part."""
        if self.team is None:
            return placed(inputs, kernel)
        return np.asarray(inputs.of_part(lambda rows: placed(rows, kernel)))

    def _fine_tuned(self, head: torch.nn.Sequential, tuning: FineTuning) -> FineTuned:
        """Return head and backbone, which learn together."""
        embedder, material = self._embedder, self._material
        before = self._trunk_state()
        network = load_backbone(network_with(material.backbone, before))
        if not isinstance(network.module, torch.nn.Module):
            raise TypeError(
                f"finetune={embedder.finetune!r} needs a network of torch; backbone is a "
                f"{type(network.module).__name__}. Set finetune=None."
            )

        def embed_features(state: dict[str, np.ndarray]) -> Any:
            learned = network_with(material.backbone, state)
            if self.team is not None:
                return LazyRows(material.X.features_by(learned, embedder.device), np.float32)
            return features_and_skipped(
                material.X, learned, device=embedder.device, is_announced=False
            )[0]

        size = int(network.size if tuning.crop_size is None else tuning.crop_size)
        n_at_once = tuning.micro_batch_size or embedder.batch_size
        return FineTuned(
            head,
            dataclasses.replace(network, size=size),
            ResizedImages(
                material.X, FineTuned.side(size, tuning.augment), cache_dir=tuning.cache_dir
            ),
            material.scaling,
            tuning,
            embed_features=embed_features,
            generator=self._generator,
            dtype=compute_dtype(tuning.dtype, self._generator.device, n_at_once),
            before=before,
            team=self.team,
        )

    def _lesson(self, model: Any, loss: Any, n_epochs: int, *, alone: bool = False) -> Lesson:
        """Return the epochs of a model; ``alone`` are those of the head before the backbone's."""
        embedder, schedule = self._embedder, self._parts.optimizer
        companion = None if alone else self._companion
        tagged = np.diff(self._material.indicator.indptr) > 0
        rows = np.flatnonzero(tagged) if companion is None else np.arange(len(tagged))
        held = None
        if self._parts.stopping is not None and not self._is_partial:
            fraction = self._parts.stopping.validation_fraction
            is_held = hold_out(tagged, fraction, np.random.RandomState(self._material.seed))
            rows, held = rows[~is_held[rows]], np.flatnonzero(is_held)
        # Of each process, so that a step of a team is one of as many batches.
        batch_size = int(embedder.batch_size) * (1 if self.team is None else self.team.size)
        tuning = self._parts.tuning
        dtype = head_dtype(schedule, tuning)
        choose_products(model.head, dtype, len(rows), int(embedder.batch_size))
        groups = parameter_groups(
            model.head,
            last_layer_factor=schedule.last_layer_factor,
            weight_decay=schedule.weight_decay,
            trunk=getattr(model, "parameters", ()),
            trunk_factor=1.0 if tuning is None else tuning.rate_factor,
        )
        factor = None
        if not self._is_partial:
            factor = schedule.factor(n_epochs, -(-len(rows) // batch_size))
        steps = Steps(
            groups, embedder.learning_rate, factor=factor, max_norm=schedule.max_grad_norm
        )
        state = getattr(embedder, "_optimizer_state", None) if self._goes_on else None
        if state is not None:
            steps.go_on(state)
        return Lesson(
            model, steps, loss, rows, n_epochs, batch_size, held, companion, team=self.team
        )

    # --- where it stands ----------------------------------------------------------------

    @property
    def _model(self) -> Any:
        """What learns now, or learned last; None where the regression is all there is."""
        return self._session.lesson.model if self._session.lessons else None

    def _trunk_state(self) -> dict[str, np.ndarray]:
        """Return what an earlier fit taught the network, by the name of the parameter."""
        return dict(self._embedder.backbone_state_) if self._goes_on else {}

    def _last_kernel_weight(self) -> float:
        """Return the share of the regression that is fitted once the backbone has learned."""
        is_refitted = self._parts.tuning is not None and not self._is_partial
        return float(self._embedder.kernel_weight) if is_refitted else 0.0

    def _features_now(self) -> np.ndarray | None:
        """Return the features (n, d) by the network as it is now; None where none are at hand."""
        model = self._model
        if isinstance(model, FineTuned):
            if not self._last_kernel_weight():
                return None
            now = len(self._session.figures), self._session.has_ended
            if self._seen is None or self._seen[0] != now:
                self._seen = now, model.features()
            return self._seen[1]
        # A network that an earlier fit has taught gave them, too.
        return self._material.features

    def _kernel_now(self) -> dict[str, Any]:
        """Return the regression on the features of the network as it is now."""
        if not self._last_kernel_weight():
            return self._kernel
        features = self._features_now()
        return self._fitted_kernel(self._material.features if features is None else features)

    def _stream_now(self) -> dict[str, Any]:
        """Return what a regression goes on from; nothing where it neither does nor did."""
        did = hasattr(self._embedder, "_kernel_stream")
        return {"_kernel_stream": self._stream} if self._stream is not None or did else {}

    def _history(self) -> dict[str, Any]:
        """Return ``history_`` and ``n_iter_``, those of earlier fits first."""
        figures = self._session.figures
        names = ["loss", "learning_rate"]
        history = {name: [row[name] for row in figures] for name in names}
        told = dict.fromkeys(name for row in figures for name in row if name not in names)
        told.pop("validation_loss", None)
        for name in told:  # a companion's, which some lessons are without
            history[name] = [row.get(name, 0.0) for row in figures]
        if self._parts.stopping is not None and not self._is_partial:
            history["validation_loss"] = [
                row["validation_loss"] for row in figures if "validation_loss" in row
            ]
        if self._goes_on:
            before = self._embedder.history_
            history = {name: before.get(name, []) + own for name, own in history.items()}
        return {"history_": history, "n_iter_": len(history["loss"])}


def _embedded(embedder: Any, features: np.ndarray) -> np.ndarray:
    return joined_blocks(embedder.outputs_of_features(features), len(features))


def head_dtype(schedule: AdamSchedule, tuning: FineTuning | None) -> str:
    """Return the dtype of the head's products: who asked for a backbone in float32 meant both."""
    if schedule.dtype == "auto" and tuning is not None and tuning.dtype == "float32":
        return "float32"
    return schedule.dtype


def network_with(backbone: Any, state: dict[str, np.ndarray]) -> Any:
    """Return a backbone with what it has learned."""
    if not state:
        return backbone
    network = load_backbone(backbone)
    module: Any = network.module  # of torch, since it has learned
    return dataclasses.replace(network, module=load_trunk_state(module, state))
