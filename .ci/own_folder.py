"""The README's six lines, on a folder of pictures that this script makes, and what they leave."""

import re
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from PIL import Image

from skwsdhq.datasets import load_emoji

emoji = load_emoji()
folder = Path("photos")
folder.mkdir()
lines = ["file_name,tags"]
for row in range(0, len(emoji.images), 8):
    Image.fromarray(emoji.images[row]).save(folder / f"{row}.png")
    lines.append(f'{row}.png,"{",".join(emoji.tags[row]).lower()}"')
(folder / "tags.csv").write_text("\n".join(lines), encoding="utf-8")
Image.fromarray(emoji.images[1]).save("query.jpg")

readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
code = re.search(r"```python\n(from skwsdhq import Collection.*?)```", readme, re.DOTALL).group(1)
# The words of the example are those of photographs; these pictures have others.
exec(code.replace('["beach", "-people"]', '["flower", "-animal"]'), names := {})
assert len(names["alike"]) == 5
assert names["names"].size
assert Path("beach.png").stat().st_size
print("an own folder gives", [found.tags[:1] for found in names["alike"]])
