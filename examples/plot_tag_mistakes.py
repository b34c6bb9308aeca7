"""
Suggested tags, and mistaken ones
=================================

Pictures that look alike say what tags a picture should have, and which of its own are likely
mistakes. How far both can be trusted is measured here: on pictures whose tags are kept back, and by
wrong tags that are planted.

It needs ``pip install ".[demo]"``, some 40 seconds on two idle cores, and no network.
"""

# %%
# A model that was taught some mistakes
# -------------------------------------
# One picture in eight gets a keyword of a picture of another group.

import warnings

import matplotlib.pyplot as plt
import numpy as np

from skwsdhq import ImageLoader, TagEnhancer, TagKernelRegressor, WSDHQuantizer
from skwsdhq.datasets import load_emoji
from skwsdhq.embedding import doubtful_tags
from skwsdhq.plotting import TagReliabilityDisplay

# A few keywords have no word vector; they get that of the keywords they occur with.
warnings.filterwarnings("ignore", ".* tags have no word vector", UserWarning)
emoji = load_emoji()
features = ImageLoader("stages:efficientnet_lite0", size=112, n_jobs=2).fit_transform(emoji.images)
rows = np.arange(len(features))
known, new = rows[rows % 8 > 0], rows[rows % 8 == 0]
tags = [list(row) for row in emoji.tags]
counts = {tag: sum(tag in row for row in tags) for tag in {tag for row in tags for tag in row}}
random = np.random.RandomState(0)
group = emoji.target.argmax(axis=1)
planted = set()
for row in random.permutation(known)[: len(known) // 8]:
    other = random.choice(known[group[known] != group[row]])
    # One that others carry as well: a model can only know such.
    choice = [tag for tag in emoji.tags[other] if counts[tag] >= 10 and tag not in tags[row]]
    if choice:
        tags[row].append(random.choice(choice))
        planted.add((int(row), tags[row][-1]))
quantizer = WSDHQuantizer(
    TagKernelRegressor(TagEnhancer(emoji.word_vectors, min_count=5), random_state=0),
    random_state=0,
).fit(features[known], [tags[i] for i in known])

# %%
# Suggestions
# -----------
# Each comes with a probability that a person agrees. Pictures that came later show how true it is:
# a point is a tenth of the suggestions, and on the diagonal what is said is true.

names, scores = quantizer.suggest_tags(features[new[:3]], n_tags=4)
for row, own, likely in zip(new, names, scores, strict=False):
    told = ", ".join(f"{tag} {p:.2f}" for tag, p in zip(own, likely, strict=True))
    print(f"{emoji.names[row]}: {told}")
display = TagReliabilityDisplay.from_estimator(
    quantizer, features[new], [emoji.tags[i] for i in new]
)

# %%
# Mistakes
# --------
# A tag is the more doubtful, the less it agrees with where pictures that look alike place its
# picture. Among the most doubtful ones the planted are far more frequent than among all; of the
# others many are odd for what the picture shows.

found = doubtful_tags(quantizer, features[known], [tags[i] for i in known], n_tags=300)
is_planted = [(int(known[one["row"]]), one["tag"]) in planted for one in found]
n_tags = sum(len([tag for tag in tags[i] if counts[tag] >= 5]) for i in known)
print(f"planted: {len(planted)} of {n_tags} tags, or {len(planted) / n_tags:.1%}")
for n in (20, 50, 100, 300):
    print(f"among the {n} most doubtful: {np.mean(is_planted[:n]):.0%}")

# %%
# The first of them; a dashed frame says that the tag was planted.

figure, axes = plt.subplots(3, 8, figsize=(9, 4.4), layout="constrained")
for axis, one, is_wrong in zip(axes.flat, found, is_planted, strict=False):
    axis.imshow(emoji.images[known[one["row"]]])
    axis.set(xticks=[], yticks=[])
    axis.set_title(one["tag"], fontsize=8)
    style = {"edgecolor": "#D55E00", "linestyle": "--", "linewidth": 2.5} if is_wrong else {}
    axis.spines[:].set(**{"edgecolor": "#999999", "linewidth": 1, **style})
figure.suptitle("The most doubtful tags", fontsize=10)
plt.show()
