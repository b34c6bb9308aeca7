"""From images or features to unit vectors near their tags' concepts: embedders and their parts."""

from ..training.companion import Companion, Training
from ..training.optimizer import AdamSchedule
from ..training.scaling import FeatureScaler
from ..training.stopping import EarlyStopping
from ..training.trunk import FineTuning
from ..utils.public import named_here
from .agreement import doubtful_tags
from .embedder import HypersphereEmbedder
from .regressor import TagKernelRegressor

__all__ = [
    "AdamSchedule",
    "Companion",
    "EarlyStopping",
    "FeatureScaler",
    "FineTuning",
    "HypersphereEmbedder",
    "TagKernelRegressor",
    "Training",
    "doubtful_tags",
]

named_here(__name__)
