"""
A folder of one's own
=====================

A folder of pictures and a table of tags are all it takes. Here the folder is made of 480 emoji; a
collection learns from their keywords, finds pictures by words and by picture, suggests tags, takes
in a picture that comes later, and is shown as a page to hand on.

It needs ``pip install ".[demo]"``, some 25 seconds on two idle cores, and no network.
"""

# %%
# A folder
# --------
# Pictures of any kind and size, and a table that names them and their tags. Text files beside the
# pictures or keywords within them do as well.

import csv
import tempfile
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
from PIL import Image

from skwsdhq import Collection
from skwsdhq.datasets import load_emoji
from skwsdhq.plotting import plot_neighbors
from skwsdhq.report import retrieval_report

# A few keywords have no word vector; they get that of the keywords they occur with.
warnings.filterwarnings("ignore", ".* tags have no word vector", UserWarning)
place = tempfile.TemporaryDirectory()
folder = Path(place.name) / "photos"
folder.mkdir()
emoji = load_emoji()
with open(folder / "tags.csv", "w", encoding="utf-8", newline="") as file:
    table = csv.writer(file)
    table.writerow(["file_name", "tags"])
    for row in range(0, len(emoji.images), 4):
        name = f"{emoji.names[row].replace('/', '-')}.png"
        Image.fromarray(emoji.images[row]).save(folder / name)
        table.writerow([name, ",".join(tag for tag in emoji.tags[row] if "," not in tag)])
Image.fromarray(emoji.images[2]).save(Path(place.name) / "query.png")

# %%
# A collection
# ------------
# It extracts features by a pretrained network, learns from the tags, and codes each picture in 4
# bytes. Broken off, it goes on where it was.

photos = Collection.create(
    Path(place.name) / "photos.skwsdhq", folder, random_state=0, n_jobs=2,
    word_vectors=emoji.word_vectors,
)  # fmt: skip
print(photos.info()["n_items"], "pictures of", photos.info()["n_bits"], "bits each")

# %%
# By words, by picture, and by both
# ---------------------------------
# Words that begin with "-" count against what carries them.

display = plot_neighbors(photos, words=["animal", "-sea"], n_neighbors=8)

# %%

display = plot_neighbors(photos, Path(place.name) / "query.png", n_neighbors=8)

# %%
# Tags for a picture that has none
# --------------------------------

names, scores = photos.suggest_tags([Path(place.name) / "query.png"], n_tags=5)
for name, score in zip(names[0], scores[0], strict=True):
    print(f"{score:.2f}  {name}")

# %%
# It grows
# --------

added = photos.add([Path(place.name) / "query.png"], [["face", "smile"]])
print(len(photos), "pictures; nearest to the new one:", photos.search(like=added[0], k=3).ids)

# %%
# A page to hand on
# -----------------
# Figures, doubtful tags, near duplicates, and a search that works without this library.

page = retrieval_report(photos, path=Path(place.name) / "report.html", title="My photos")
print(f"{Path(page).stat().st_size / 1e6:.1f} MB")

plt.show()
photos.close()
place.cleanup()
