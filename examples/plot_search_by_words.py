"""
Search by words
===============

Tags are places on the same sphere as pictures, so words find pictures that nobody tagged with them:
one word, several, words against, words beside a picture, and words that were no tag at all.

It needs ``pip install ".[demo]"``, some 30 seconds on two idle cores, and no network.
"""

# %%
# A model
# -------
# Two thirds of the pictures are learned from with their keywords. The others are coded without:
# what is found among them is found by what they show.

import warnings

import matplotlib.pyplot as plt
import numpy as np

from skwsdhq import ImageLoader, TagEnhancer, TagKernelRegressor, WSDHQuantizer
from skwsdhq.datasets import load_emoji
from skwsdhq.plotting import NeighborsDisplay
from skwsdhq.search import CodeIndex

# A few keywords have no word vector; they get that of the keywords they occur with.
warnings.filterwarnings("ignore", ".* tags have no word vector", UserWarning)
emoji = load_emoji()
features = ImageLoader("stages:efficientnet_lite0", size=112, n_jobs=2).fit_transform(emoji.images)
rows = np.arange(len(features))
known, new = rows[rows % 3 > 0], rows[rows % 3 == 0]
enhancer = TagEnhancer(emoji.word_vectors, min_count=5)
quantizer = WSDHQuantizer(TagKernelRegressor(enhancer, random_state=0), random_state=0)
quantizer.fit(features[known], [emoji.tags[i] for i in known])
index = CodeIndex(quantizer.codebooks_, quantizer.encode(features[new]))

# %%
# Words
# -----
# A query is a word, several, or a mapping of words to weights. ``automobile`` is no keyword of any
# picture: its word vector places it among vehicles. What carries all words that are wanted and none
# of the others is framed as a hit, by its keywords, which the model never saw.

queries = [["animal"], ["heart", "-red"], ["woman", "sport"], ["woman", "work"], ["automobile"]]
embedded = quantizer.embed_query(tags=queries)
similarities, found = index.search(embedded, 8)


def carries(row, query):
    if query == ["automobile"]:
        return None  # nobody knows
    own = {word.removesuffix("s") for tag in emoji.tags[row] for word in [tag, *tag.split()]}
    return all((word.lstrip("-") in own) != word.startswith("-") for word in query)


display = NeighborsDisplay(
    [None] * len(queries),
    [[emoji.images[new[i]] for i in line] for line in found],
    similarities,
    query_names=queries,
    names=[[emoji.names[new[i]] for i in line] for line in found],
    kinds=[
        [carries(new[i], query) for i in line] for query, line in zip(queries, found, strict=True)
    ],
).plot()

# %%
# A picture and a word
# --------------------
# Both are unit vectors, and their weighted mean is a query: the more weight the word has, the more
# of it there is in what is found. Above the picture alone, below with words beside it.

picture = new[[emoji.names[i] for i in new].index("green apple")]
weights = [0.0, 0.3, 0.5]
embedded = np.concatenate(
    [quantizer.embed_query(features[[picture]], [["animal"]], weight) for weight in weights]
)
similarities, found = index.search(embedded, 8, exclude=[np.searchsorted(new, picture)] * 3)
display = NeighborsDisplay(
    [emoji.images[picture]] * 3,
    [[emoji.images[new[i]] for i in line] for line in found],
    similarities,
    query_names=[f"and animal, {weight:g}" for weight in weights],
    names=[[emoji.names[new[i]] for i in line] for line in found],
).plot()
plt.show()
