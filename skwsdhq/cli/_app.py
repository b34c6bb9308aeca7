"""The commands: each opens a collection, calls one method of it, and writes what that gives."""

from pathlib import Path
from typing import Annotated, Any

import typer

from .._version import __version__
from ..collection import Collection
from ..report import retrieval_report
from ._read import read_labels, read_where, write_tags
from ._shown import draw, show
from ._told import put, put_json, told

__all__ = ["app", "main"]

app = typer.Typer(
    help="Find images by picture and by words, in a collection that grows.\n\n"
    "A collection is made of a folder of pictures with tags, and is a directory itself.",
    epilog="Example: skwsdhq create photos -o photos.skwsdhq, then "
    "skwsdhq search photos.skwsdhq --words beach --not people",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

_Place = Annotated[Path, typer.Argument(help="Directory of the collection.")]
_Folder = Annotated[Path, typer.Argument(help="Folder of pictures.")]
_Tags = Annotated[
    str | None,
    typer.Option(
        "--tags",
        help="CSV, TSV or JSONL table of files, tags and any other columns; 'sidecar' for text "
        "files beside the pictures; 'embedded' for keywords within them; else tags.csv in the "
        "folder and the like.",
    ),
]
_Separator = Annotated[
    str | None, typer.Option("--separator", help="Between the tags of a cell; else a comma.")
]
_OnError = Annotated[
    str, typer.Option("--on-error", help="'raise' or 'skip': pictures that can't be read.")
]
_Jobs = Annotated[
    int | None, typer.Option("--jobs", "-j", help="Threads that read pictures; -1 is all.")
]
_Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
_Json = Annotated[bool, typer.Option("--json", help="Write JSON, an object a line.")]


def main() -> None:
    """Run the command line on the arguments of this process."""
    app(prog_name="skwsdhq")


def _show_version(is_asked: bool) -> None:
    if is_asked:
        put(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    pass


@app.command(epilog="Example: skwsdhq create photos --tags tags.csv --bits 32 -o photos.skwsdhq")
@told
def create(  # noqa: PLR0913 - options of a command
    folder: _Folder,
    output: Annotated[Path, typer.Option("--output", "-o", help="Directory to make.")],
    tags: _Tags = None,
    bits: Annotated[int, typer.Option("--bits", "-b", help="Of a code.")] = 32,
    seed: Annotated[int | None, typer.Option(help="For the same model each time.")] = None,
    separator: _Separator = None,
    on_error: _OnError = "raise",
    jobs: _Jobs = None,
    quiet: _Quiet = False,
) -> None:
    """Make a collection of a folder; interrupted and started again, it goes on."""
    with Collection.create(
        output,
        folder,
        tags,
        n_bits=bits,
        random_state=seed,
        separator=separator,
        on_error=on_error,
        n_jobs=jobs,
        verbose=not quiet,
    ) as made:
        put(f"{output}: {len(made)} images")


@app.command(epilog="Example: skwsdhq add photos.skwsdhq holidays")
@told
def add(
    collection: _Place,
    folder: _Folder,
    tags: _Tags = None,
    separator: _Separator = None,
    on_error: _OnError = "raise",
    jobs: _Jobs = None,
    quiet: _Quiet = False,
) -> None:
    """Add the pictures of a folder that are not there yet."""
    with Collection.open(collection, n_jobs=jobs) as opened:
        # So that a command that was broken off can be given again.
        added = opened.add(
            folder,
            tags,
            exist_ok=True,
            separator=separator,
            on_error=on_error,
            verbose=not quiet,
        )
        put(f"{collection}: {len(added)} images added, {len(opened)} in all")


@app.command(
    epilog="Examples: skwsdhq search photos.skwsdhq query.jpg -k 5; "
    "skwsdhq search photos.skwsdhq --words beach --not people --where 'year>=2020' --json; "
    "skwsdhq search photos.skwsdhq query.jpg --open results.png"
)
@told
def search(  # noqa: PLR0913 - what is looked for, in any combination
    collection: _Place,
    query: Annotated[Path | None, typer.Argument(help="A picture.")] = None,
    words: Annotated[list[str] | None, typer.Option("--words", "-w", help="Looked for.")] = None,
    without: Annotated[list[str] | None, typer.Option("--not", "-n", help="Unwanted.")] = None,
    like: Annotated[str | None, typer.Option(help="Id of an item.")] = None,
    k: Annotated[int, typer.Option("-k", help="How many.")] = 20,
    has_tag: Annotated[
        list[str] | None, typer.Option(help="Tag that an image carries itself; -TAG: does not.")
    ] = None,
    where: Annotated[list[str] | None, typer.Option(help="Condition on a column.")] = None,
    weight: Annotated[float, typer.Option(help="Of words beside a picture, 0 to 1.")] = 0.5,
    expansion: Annotated[
        int, typer.Option(help="First results whose mean joins the query; 2 finds more of most.")
    ] = 0,
    as_json: _Json = False,
    picture: Annotated[
        Path | None,
        typer.Option("--open", help="Picture to draw the results in, as results.png, and to open."),
    ] = None,
) -> None:
    """Find images by a picture, by words, or by both."""
    # A mapping, since words of a list are against what they name where they begin with "-".
    asked = dict.fromkeys(words or (), 1.0) | dict.fromkeys(without or (), -1.0)
    with Collection.open(collection, read_only=True) as opened:
        results = opened.search(
            query,
            asked or None,
            like,
            k,
            read_where(where or []),
            has_tag,
            weight=weight,
            n_expansion=expansion,
        )
        if picture is not None:
            draw(picture, opened, results, image=query, words=asked or None, like=like)
    _put_found(results, as_json)
    if picture is not None:
        show(picture)


def _put_found(results: Any, as_json: bool) -> None:
    """Write what a search has found, an item a line."""
    for found in results:
        if as_json:
            own = {"id": found.id, "similarity": found.similarity, "path": found.path}
            put_json(own | {"tags": found.tags, "columns": found.columns})
        else:
            put(f"{found.similarity:.3f}\t{found.path or found.id}\t{', '.join(found.tags)}")


@app.command(epilog="Example: skwsdhq suggest photos.skwsdhq --write suggested.csv")
@told
def suggest(
    collection: _Place,
    images: Annotated[
        list[Path] | None, typer.Argument(help="Pictures; else all items without tags.")
    ] = None,
    n_tags: Annotated[int, typer.Option("-n", help="Tags of an image.")] = 5,
    least: Annotated[float, typer.Option(help="Leave out less likely ones.")] = 0.0,
    write: Annotated[Path | None, typer.Option(help="CSV table to write them to.")] = None,
    as_json: _Json = False,
) -> None:
    """Suggest tags, with how likely a person is to agree."""
    with Collection.open(collection, read_only=True) as opened:
        given: dict[str, Any] = {"images": images} if images else {"ids": opened.ids(untagged=True)}
        tags, scores = opened.suggest_tags(n_tags=n_tags, **given)
    rows = []
    for name, own, likely in zip(next(iter(given.values())), tags, scores, strict=True):
        kept = [(t, float(p)) for t, p in zip(own, likely, strict=True) if t and p >= least]
        rows.append((str(name), kept))
    if write is not None:
        write_tags(write, [(name, [tag for tag, _ in kept]) for name, kept in rows])
        return
    for name, kept in rows:
        if as_json:
            put_json({"id": name, "tags": dict(kept)})
        else:
            put(f"{name}\t{', '.join(f'{tag} {likely:.2f}' for tag, likely in kept)}")


@app.command(epilog="Example: skwsdhq duplicates photos.skwsdhq --threshold 0.98")
@told
def duplicates(
    collection: _Place,
    threshold: Annotated[float, typer.Option("--threshold", "-t", help="Least cosine.")] = 0.95,
    as_json: _Json = False,
) -> None:
    """Find pairs of images that are the same or nearly so."""
    with Collection.open(collection, read_only=True) as opened:
        pairs = opened.find_duplicates(threshold)
    for first, second, cosine in pairs:
        if as_json:
            put_json({"first": first, "second": second, "cosine": cosine})
        else:
            put(f"{cosine:.3f}\t{first}\t{second}")


@app.command(epilog="Example: skwsdhq evaluate photos.skwsdhq --labels labels.csv")
@told
def evaluate(
    collection: _Place,
    labels: Annotated[Path, typer.Option("--labels", help="CSV table of ids and labels.")],
    top_k: Annotated[int, typer.Option(help="Of the ranking, that count.")] = 5000,
) -> None:
    """Write the mean average precision of searches, by labels of yours."""
    with Collection.open(collection, read_only=True) as opened:
        put(f"{opened.evaluate(read_labels(labels), top_k=top_k):.4f}")


@app.command(epilog="Example: skwsdhq report photos.skwsdhq -o report.html --labels labels.csv")
@told
def report(
    collection: _Place,
    output: Annotated[Path, typer.Option("--output", "-o", help="HTML file to write.")] = Path(
        "report.html"
    ),
    labels: Annotated[
        Path | None, typer.Option("--labels", help="CSV table of ids and labels to judge by.")
    ] = None,
    title: Annotated[str, typer.Option(help="Of the page.")] = "Retrieval report",
    top_k: Annotated[int | None, typer.Option(help="Of the ranking, that count for mAP.")] = None,
    max_images: Annotated[
        int, typer.Option(help="Of more images, so many are drawn at random.")
    ] = 5000,
    jobs: _Jobs = None,
) -> None:
    """Write a page of figures, doubtful tags and duplicates, that searches by itself."""
    with Collection.open(collection, read_only=True, n_jobs=jobs) as opened:
        written = retrieval_report(
            opened,
            labels=None if labels is None else read_labels(labels),
            path=output,
            title=title,
            top_k=top_k,
            max_images=max_images,
            n_jobs=jobs,
        )
    put(f"{written}: {output.stat().st_size / 1e6:.1f} MB")


@app.command(epilog="Example: skwsdhq info photos.skwsdhq --json")
@told
def info(collection: _Place, as_json: _Json = False) -> None:
    """Write what there is to know of a collection."""
    with Collection.open(collection, read_only=True) as opened:
        facts: dict[str, Any] = opened.info()
    if as_json:
        put_json(facts)
        return
    for name, value in facts.items():
        put(f"{name}: {', '.join(value) if isinstance(value, list) else value}")


@app.command(epilog="Example: skwsdhq export photos.skwsdhq -o photos.csv")
@told
def export(
    collection: _Place,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write.")],
    form: Annotated[str, typer.Option(help="csv, jsonl, faiss or numpy.")] = "csv",
) -> None:
    """Write items or codes to a file that other programs read."""
    with Collection.open(collection, read_only=True) as opened:
        opened.export(output, form)
