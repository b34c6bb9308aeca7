"""Measure how the package is built, beside what it was and what good neighbours have.

Run from the top of the repository::

    python -m tests.measure_house

Each number comes from the source alone: nothing is imported, so that nothing can be missed for
being imported late. ``tests/test_house.py`` holds the ones that must not get worse.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

PACKAGE = "skwsdhq"
ROOT = Path(__file__).resolve().parents[1] / PACKAGE
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


class Module(NamedTuple):
    """Hold one file of the package."""

    name: str  # as "skwsdhq.search._tables"; a package goes by its own name
    package: str  # as "search"; "" for what lies at the top
    is_package: bool
    text: str
    tree: ast.Module


@cache
def modules() -> dict[str, Module]:
    """Return every module of the package by its full name."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        names = (PACKAGE, *(parts[:-1] if is_package else parts))
        package = parts[0] if len(parts) > 1 else ""
        text = path.read_text("utf-8")
        found[".".join(names)] = Module(".".join(names), package, is_package, text, ast.parse(text))
    return found


# --- imports ----------------------------------------------------------------------------------


class Import(NamedTuple):
    """Hold one imported name and where the import stands."""

    module: str  # the importing module
    source: str  # the module that the name comes from, as "skwsdhq.search"
    name: str  # "" where the module itself is imported
    line: int
    in_function: bool
    is_relative: bool

    def __str__(self) -> str:
        """Return the import as a message shows it."""
        return f"{self.module}:{self.line} imports {self.source}{self.name and '.' + self.name}"


@cache
def imports(module: str) -> tuple[Import, ...]:
    """Return each name that a module imports, but for those of types alone."""
    known = modules()[module]
    # What one dot stands for: a package itself, or that of the module.
    base = module.split(".") if known.is_package else module.split(".")[:-1]
    found: list[Import] = []
    waiting: list[tuple[ast.AST, bool]] = [(known.tree, False)]
    while waiting:
        node, in_function = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                found.append(Import(module, alias.name, "", node.lineno, in_function, False))
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:
                start = base[: len(base) - node.level + 1]
                source = ".".join([*start, *([source] if source else [])])
            for alias in node.names:
                name = f"{source}.{alias.name}"
                made = (name, "") if name in modules() else (source, alias.name)
                found.append(Import(module, *made, node.lineno, in_function, node.level > 0))
        inside = in_function or isinstance(node, (*FUNCTIONS, ast.Lambda))
        # Expressions hold no imports: statements alone are looked into.
        waiting += [
            (child, inside)
            for child in ast.iter_child_nodes(node)
            if isinstance(child, (ast.stmt, ast.ExceptHandler, ast.match_case))
        ]
    return tuple(sorted(found, key=lambda one: one.line))


def import_graph(*, in_functions: bool) -> dict[str, set[str]]:
    """Return the modules that each module imports, with or without those inside functions."""
    graph: dict[str, set[str]] = {name: set() for name in modules()}
    for module, sources in graph.items():
        for one in imports(module):
            if one.source in graph and (in_functions or not one.in_function):
                sources.add(one.source)
    return graph


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return the groups of modules that import each other, directly or through others."""
    reach = {}
    for start in graph:
        seen, waiting = set(), [start]
        while waiting:
            for name in graph[waiting.pop()] - seen:
                seen.add(name)
                waiting.append(name)
        reach[start] = seen
    found = {
        tuple(sorted(other for other in reach[name] if name in reach[other]))
        for name in graph
        if name in reach[name]
    }
    return [list(circle) for circle in sorted(found)]


def hidden_imports() -> list[str]:
    """Return the imports of our own modules that stand inside a function."""
    return [
        str(one)
        for module in modules()
        for one in imports(module)
        if one.in_function and (one.is_relative or one.source.split(".")[0] == PACKAGE)
    ]


# --- privates ---------------------------------------------------------------------------------

# Private names that may be used across packages, each with its reason.
ALLOWED = {
    "_compat": "utils/_compat.py, the one door to scikit-learn's privates; private itself, so that "
    "no user takes it for ours",
    "_version": "the version stands in a file of its own, which the build reads",
    "_validate_params": "scikit-learn's own, which every estimator inherits",
    "_sklearn_output_config": "what scikit-learn's set_output leaves on an estimator",
    "_parameter_constraints": "scikit-learn's own, which _validate_params reads",
    "_get_param_names": "scikit-learn's own, on every class of estimators",
    "_cache": "where numba keeps what it compiled, and tells nobody that a disk is full",
    "_forward_hooks": "torch tells nowhere else whether a module has hooks",
    "_forward_pre_hooks": "torch tells nowhere else whether a module has hooks",
}
# Where scikit-learn's and torch's private modules may be imported.
COMPAT = f"{PACKAGE}.utils._compat"


def is_private(name: str) -> bool:
    """Tell whether a name begins with an underscore and is no dunder."""
    return name.startswith("_") and not name.startswith("__") and name != "_"


def private_imports() -> list[Import]:
    """Return the imports of a private module or name, ours or a library's.

    A module may import the private modules of its own package, but no private name from any.
    """
    found = []
    for module in modules().values():
        for one in imports(module.name):
            source = one.source.split(".")
            shared = source[:2] if source[0] == PACKAGE else []
            own = module.package and shared == [PACKAGE, module.package]
            parts = [one.name] if own else [*source, one.name]
            if module.name != COMPAT and any(is_private(p) and p not in ALLOWED for p in parts):
                found.append(one)
    return found


def private_attributes() -> list[str]:
    """Return uses of a private attribute that no file of the same package defines.

    An attribute belongs to a package whose code sets it (``self._x = …``), defines it in a class
    (a method, a class attribute, a slot) or at the top of a module. ``getattr(x, "_name")`` counts
    like ``x._name``.
    """
    own: dict[str, set[str]] = defaultdict(set)
    used: list[tuple[Module, int, str]] = []
    for module in modules().values():
        for node in ast.walk(module.tree):
            if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
                own[module.package].add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                own[module.package].add(node.id)
            elif isinstance(node, ast.Attribute) and is_private(node.attr):
                on_self = isinstance(node.value, ast.Name) and node.value.id in ("self", "twin")
                if on_self and isinstance(node.ctx, ast.Store):
                    own[module.package].add(node.attr)
                used.append((module, node.lineno, node.attr))
            elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr"):
                name = getattr(node.args[1], "value", "")
                if isinstance(name, str) and is_private(name):
                    used.append((module, node.lineno, name))
    return [
        f"{module.name}:{line} {name}"
        for module, line, name in used
        if name not in own[module.package] and name not in ALLOWED and module.name != COMPAT
    ]


# --- functions --------------------------------------------------------------------------------


class Function(NamedTuple):
    """Hold what is measured of one function."""

    place: str
    n_parameters: int  # without self and cls
    complexity: int
    n_conditions: int  # as the complexity, with each condition counted
    n_code_lines: int


def functions() -> list[Function]:
    """Return every function and method of the package; those inside others are their parts."""
    found = []
    for module in modules().values():
        for owner, node in _outer_functions(module.tree, ""):
            arguments = node.args
            named = [
                a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)
            ]
            more = sum(a is not None for a in (arguments.vararg, arguments.kwarg))
            found.append(
                Function(
                    f"{module.name}:{node.lineno} {owner}{node.name}",
                    len([name for name in named if name not in ("self", "cls")]) + more,
                    complexity(node),
                    conditions(node),
                    _n_code(node, module.text),
                )
            )
    return found


def _outer_functions(tree: ast.AST, owner: str) -> Iterator[tuple[str, ast.FunctionDef]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, FUNCTIONS):
            yield owner, node  # type: ignore[misc]
        elif isinstance(node, ast.ClassDef):
            yield from _outer_functions(node, f"{owner}{node.name}.")
        else:
            yield from _outer_functions(node, owner)


def complexity(function: ast.AST) -> int:
    """Return the number of independent ways through a function, as ruff's C901 counts them.

    One, and one more for each branch, loop, handler, ``else`` of a loop, case and inner function.
    """
    count = 1
    for node in ast.walk(function):
        if isinstance(node, (ast.If, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler)):
            count += 1
        if isinstance(node, (ast.For, ast.AsyncFor, ast.While, ast.Try)) and node.orelse:
            count += 1
        if isinstance(node, ast.match_case):
            count += 1
        if isinstance(node, FUNCTIONS) and node is not function:
            count += 1
    return count


def conditions(function: ast.AST) -> int:
    """Return the complexity of a function with each condition of its own counted.

    Each ``and``, ``or``, ``x if y else z`` and part of a comprehension is one more. The share in
    the table, and that of the models, is of this number.
    """
    count = 1
    for node in ast.walk(function):
        if isinstance(node, (ast.If, ast.IfExp, ast.For, ast.While, ast.ExceptHandler)):
            count += 1
        elif isinstance(node, ast.comprehension):
            count += 1 + len(node.ifs)
        elif isinstance(node, ast.BoolOp):
            count += len(node.values) - 1
        elif isinstance(node, (ast.Assert, ast.match_case)):
            count += 1
    return count


def _n_code(function: ast.FunctionDef, text: str) -> int:
    """Return the lines of a body that hold code: no docstring, blank line or comment."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    if not body:
        return 0
    lines = [line.strip() for line in text.splitlines()[body[0].lineno - 1 : function.end_lineno]]
    return sum(bool(line) and not line.startswith("#") for line in lines)


# --- prose ------------------------------------------------------------------------------------

_PRAGMA = re.compile(r"#\s*(noqa|type:|fmt:|!|pragma|-\*-)")


def comments_and_lines(text: str) -> tuple[int, int]:
    """Return the comments and the lines of a file; orders to tools are no comments."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    comments = [t for t in tokens if t.type == tokenize.COMMENT and not _PRAGMA.match(t.string)]
    return len(comments), len(text.splitlines())


# A docstring begins with a verb when its first word stands here. The list holds imperatives only:
# "Returns", "Returning" and nouns do not count.
VERBS = frozenset(
    """
    accept add adjust advance allow announce answer append apply ask assemble attach average
    balance become begin bind blur break bring build cache calculate call cast centre change check
    choose claim clean clear clip clone close collect combine compare compose compress compute
    concatenate configure connect continue convert convolve copy count cover create crop cut
    decide decode decorate delete describe descend detach detect determine divide do download draw
    drop eliminate embed empty encode end ensure enter evaluate exclude execute exit expand expect
    extract fall fetch fill filter find finish fit flatten follow forget format free freeze gather
    generate get give go group guess hand hash have hide hold identify ignore import improve
    include index infer initialise insert invert iterate join keep know label lay learn leave let
    lift limit link list load lock look lower make map mark mask match measure meet merge mix move
    multiply name normalise normalize note number offer omit open order pad pair parse pass perform
    permute pick place plot point predict prefer prepare print produce project put quantize raise
    rank reach read recall receive reconstruct record reduce refill refine refuse register release
    remember remove rename repeat replace report represent request resize resolve restore return
    round run sample save say scale scan score search seed select send serve set settle shift show
    shrink shuffle skip slice solve sort split spread stack standardise start state stop store
    subtract sum supply support take tell test tie time train transform transpose trust try tune
    turn unite unpack update upgrade use validate visit wait walk warn watch weigh whiten widen
    work wrap write yield
    """.split()  # noqa: SIM905 - as words they can be read
)
# Words that are nouns as well. As a verb of ours they take an object at once ("Score rows"); where
# a preposition or a mark follows ("Score of rows", "Search: …") they are nouns, and don't count.
_NOUN_AFTER = frozenset(
    ("of", "for", "over", "by", "that", "which", "in", "at", "from", "with", "to", "is", "are")
)
_BOTH = frozenset(
    """
    answer average cache call change check claim cover copy count crop cut draw drop end estimate
    filter fit group hash hold index label list load lock look map mark mask match measure mix name
    note number offer order pad pair place plot point print project rank reach record release
    report request round run sample scale scan score search seed set shift show sort split spread
    stack start state stop store sum support test tie time train transform try turn update upgrade
    use visit wait walk watch work
    """.split()  # noqa: SIM905 - as words they can be read
)


def begins_with_verb(docstring: str) -> bool:
    """Tell whether the first word of a docstring is a verb in the imperative."""
    words = docstring.split()
    if not words or words[0].lower() not in VERBS:  # a mark on the word leaves it out of the list
        return False
    follower = words[1].lower() if len(words) > 1 else ""
    return not (words[0].lower() in _BOTH and follower in _NOUN_AFTER)


def docstrings(module: Module) -> Iterator[tuple[str, str]]:
    """Yield the place and the text of each docstring, the module's own first."""
    for node in ast.walk(module.tree):
        if isinstance(node, (ast.Module, ast.ClassDef, *FUNCTIONS)) and ast.get_docstring(node):
            name = getattr(node, "name", "")
            yield (
                f"{module.name}:{getattr(node, 'lineno', 1)} {name}",
                ast.get_docstring(node) or "",
            )


# --- the table --------------------------------------------------------------------------------


def measures() -> dict[str, float]:
    """Return the measures of the table."""
    known = functions()
    makers = [f.n_parameters for f in known if f.place.endswith("__init__")]
    comments, verbs = prose(modules().values())
    return {
        "parameters of the largest constructor": max(makers),
        "% of functions with a complexity over 10": _share(f.n_conditions > 10 for f in known),
        "functions that ruff finds too complex": sum(f.complexity > 10 for f in known),
        "% of functions with more than 7 parameters": _share(f.n_parameters > 7 for f in known),
        "functions of more than 50 lines of code": sum(f.n_code_lines > 50 for f in known),
        "circles of imports": len(circles(import_graph(in_functions=False))),
        "circles with imports inside functions": len(circles(import_graph(in_functions=True))),
        "uses of another package's privates": len(private_imports()) + len(private_attributes()),
        "comments a thousand lines": comments,
        "% of docstrings that begin with a verb": verbs,
    }


def prose(kept: Iterable[Module]) -> tuple[float, float]:
    """Return the comments a thousand lines and the % of docstrings that begin with a verb."""
    kept = list(kept)
    counts = [comments_and_lines(module.text) for module in kept]
    texts = [text for module in kept for _, text in docstrings(module)]
    comments = 1000 * sum(n for n, _ in counts) / sum(n for _, n in counts)
    return comments, _share(map(begins_with_verb, texts))


def _share(facts: Iterable[bool]) -> float:
    values = list(facts)
    return 100 * sum(values) / max(1, len(values))


# Before the package had rooms, and what scikit-learn, nanopq, skrub, skorch and imbalanced-learn
# have: the two columns beside which the measures stand.
BESIDE = {
    "parameters of the largest constructor": ("43", "4 to 24"),
    "% of functions with a complexity over 10": ("7.6", "0 to 4.5"),
    "% of functions with more than 7 parameters": ("3.6", "0.4 to 1.9"),
    "circles of imports": ("4", "0 to 1"),
    "uses of another package's privates": ("21", "0"),
    "comments a thousand lines": ("20", "36 to 56"),
    "% of docstrings that begin with a verb": ("8", "37 to 50"),
}


def main() -> None:
    """Print the table, and the prose of each package."""
    print(f"{'':46}{'before':>8}{'now':>8}   models")
    for name, value in measures().items():
        before, models = BESIDE.get(name, ("", ""))
        print(f"{name:46}{before:>8}{value:8.3g}   {models}")
    print("\npackage         comments a thousand lines   docstrings with a verb, %")
    for package in sorted({module.package for module in modules().values()}):
        comments, verbs = prose(m for m in modules().values() if m.package == package)
        print(f"{package or '(top)':16}{comments:25.0f}{verbs:28.0f}")


if __name__ == "__main__":
    main()
