"""
What wrong tags cost
====================

People tag in haste. Here a growing share of the tags is replaced by others at random. A fit finds
out by itself how far tags are to be trusted: those that pictures that look alike disagree with
count less. Beside it stands the same regression that trusts all tags alike.

It needs ``pip install ".[demo]"``, some 40 seconds on two idle cores, and no network.
"""

# %%
# Noise
# -----

import warnings

import matplotlib.pyplot as plt
import numpy as np

from skwsdhq import ImageLoader, TagEnhancer, TagKernelRegressor
from skwsdhq.datasets import load_emoji
from skwsdhq.metrics import mean_average_precision

# A few keywords have no word vector; they get that of the keywords they occur with.
warnings.filterwarnings("ignore", ".* tags have no word vector", UserWarning)
emoji = load_emoji()
features = ImageLoader("stages:efficientnet_lite0", size=112, n_jobs=2).fit_transform(emoji.images)
rows = np.arange(len(features))
# Two thirds are learned from, and looked through for the others.
known, new = rows[rows % 3 > 0], rows[rows % 3 == 0]
counts = {}
for i in known:
    for tag in emoji.tags[i]:
        counts[tag] = counts.get(tag, 0) + 1
clean = [[tag for tag in emoji.tags[i] if counts[tag] >= 5] for i in known]
everything = [tag for row in clean for tag in row]


def noisy(share, random):
    """Replace a share of all tags by tags of other pictures, as frequent as they are."""
    return [
        [random.choice(everything) if random.random_sample() < share else tag for tag in row]
        for row in clean
    ]


# %%
# Two fits for each share
# -----------------------

shares = (0.0, 0.2, 0.4, 0.6)
scores = {"trust is found": [], "all tags are trusted": []}
for share in shares:
    tags = noisy(share, np.random.RandomState(0))
    for name, consistency in zip(scores, ("auto", 0), strict=True):
        enhancer = TagEnhancer(emoji.word_vectors)
        model = TagKernelRegressor(enhancer, consistency=consistency, random_state=0)
        model.fit(features[known], tags)
        scores[name].append(
            mean_average_precision(
                *(model.transform(features[new]), model.transform(features[known])),
                *(emoji.target[new], emoji.target[known]),
            )
        )
    print(f"{share:4.0%} wrong: " + ", ".join(f"{n} {s[-1]:.3f}" for n, s in scores.items()))

# %%
# Labels judge, that neither has seen.

figure, axis = plt.subplots(layout="constrained")
for (name, line), marker in zip(scores.items(), "os", strict=True):
    axis.plot(np.multiply(shares, 100), line, marker=marker, label=name)
axis.set(xlabel="Wrong tags, %", ylabel="mAP@5000 on groups", ylim=(0, None))
axis.legend()
plt.show()
