"""Draw the rooms of the package and their imports, from the source as it is at the build."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import measure_house as house  # noqa: E402

HALF = 0.19  # of the height of a room's box; a floor is 1.25 high


def room_graph() -> dict[str, set[str]]:
    """Return the rooms that each room imports from; files at the top are rooms of their own."""
    graph: dict[str, set[str]] = {}
    for module, sources in house.import_graph(in_functions=True).items():
        room = room_of(module)
        if room is not None:
            graph.setdefault(room, set()).update(
                other for other in map(room_of, sources) if other not in (None, room)
            )
    return graph


def room_of(module: str) -> str | None:
    """Return the room of a module; None for the package itself and its version."""
    parts = module.split(".")
    return None if len(parts) == 1 or house.is_private(parts[1]) else parts[1]


def floors(graph: dict[str, set[str]]) -> dict[str, int]:
    """Return the floor of each room: one above the highest that it imports from."""
    found: dict[str, int] = {}

    def floor(room: str) -> int:
        if room not in found:
            found[room] = 1 + max((floor(other) for other in graph[room]), default=-1)
        return found[room]

    for room in graph:
        floor(room)
    return found


def direct(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """Return the imports that no way through other rooms stands for, which keeps arrows few."""

    def reach(room: str) -> set[str]:
        return graph[room].union(*map(reach, graph[room]))

    return {
        room: {o for o in others if not any(o in reach(via) for via in others if via != o)}
        for room, others in graph.items()
    }


def arranged(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Return the rooms of each floor, the lowest first, from left to right.

    A room stands under the middle of those that import from it, so that few arrows cross.
    """
    height = floors(arrows)
    top = max(height.values())
    rows: list[list[str]] = [[] for _ in range(top + 1)]
    x: dict[str, float] = {}
    for floor in range(top, -1, -1):
        wish = {}
        for room in sorted(room for room in arrows if height[room] == floor):
            above = [x[other] for other in x if room in arrows[other]]
            wish[room] = sum(above) / len(above) if above else 0.0
        rows[floor] = sorted(wish, key=lambda room: wish[room])
        for i, room in enumerate(rows[floor]):
            x[room] = i - (len(rows[floor]) - 1) / 2
    return rows


def draw(path: Path) -> None:
    """Write the picture: who stands higher imports from who stands lower."""
    from matplotlib.figure import Figure

    arrows = direct(room_graph())
    rows = arranged(arrows)
    place = {
        room: ((i - (len(row) - 1) / 2) * 2.4, floor * 1.25)
        for floor, row in enumerate(rows)
        for i, room in enumerate(row)
    }
    figure = Figure(figsize=(8, 1 + 0.95 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for room, others in arrows.items():
        for other in others:
            (x, y), (to_x, to_y) = place[room], place[other]
            bend = 0 if y - to_y < 1.3 else 0.25  # past the boxes between
            axes.annotate(
                "",
                xy=(to_x, to_y + HALF),
                xytext=(x, y - HALF),
                arrowprops={
                    "arrowstyle": "-|>",
                    "color": "#7a8794",
                    "linewidth": 1,
                    "connectionstyle": f"arc3,rad={bend}",
                },
            )
    for room, (x, y) in place.items():
        axes.text(
            x,
            y,
            room,
            ha="center",
            va="center",
            fontsize=10,
            family="monospace",
            bbox={"boxstyle": "round,pad=0.45", "facecolor": "#e8f0f8", "edgecolor": "#4a6fa5"},
            zorder=3,
        )
    xs = [x for x, _ in place.values()]
    axes.set(xlim=(min(xs) - 1.4, max(xs) + 1.4), ylim=(-0.6, (len(rows) - 1) * 1.25 + 0.6))
    axes.axis("off")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
