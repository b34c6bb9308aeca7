"""Print the lowest versions of direct requirements that pyproject.toml allows, for pip to install.

python .ci/lowest.py [EXTRA ...] > lowest.txt && pip install -r lowest.txt
"""

import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet


def pinned(text: str) -> str:
    """``name==floor`` of ``name>=floor``."""
    requirement = Requirement(text)
    floors = [s.version for s in requirement.specifier if s.operator in (">=", "==", "~=")]
    if len(floors) != 1:
        raise SystemExit(f"{text!r} in pyproject.toml should say the lowest version, with >=.")
    requirement.specifier = SpecifierSet(f"=={floors[0]}")
    return str(requirement)


def main() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8"))
    project = project["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(x for name in sys.argv[1:] for x in extras[name])]
    print("\n".join(dict.fromkeys(map(pinned, wanted))))


if __name__ == "__main__":
    main()
