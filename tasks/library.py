"""What every Python brings along: its standard library, by modules or by functions, with no download."""

import ast
import platform
import sysconfig
import textwrap
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field

from tasks import formats
from tasks.artifacts import InputError
from tasks.documents import Document, SetAside, below, digest, document
from tasks.formats import Reason, text_of
from tasks.store import content_key
from training.config import Choice

NOT_SHIPPED = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
# Of a function that is taken: shorter ones hardly say where they come from (a tenth), of longer ones
# there are few (0.3 %); counted in Python 3.11.
SHORTEST_CHARACTERS, LONGEST_CHARACTERS = 120, 4000


class PythonStdlib(Choice):
    """The running interpreter's own library without its tests: about 730 files, 12 MB, no download."""

    kind: Literal["python_stdlib"] = "python_stdlib"

    def documents(self) -> Iterator[Document | SetAside]:
        """Each module, labelled with its top-level package."""
        for path in _paths():
            name, package = _named(path)
            yield document(name, 0, package, package, formats.whole(path))

    def fingerprint(self) -> str:
        """Names the interpreter's version and the content of its files."""
        return _fingerprint(self)

    def describe(self) -> str:
        """One line that a person recognises."""
        return f"standard library of Python {platform.python_version()}"

    def size_bytes(self) -> int | None:
        """Bytes to be read, for progress."""
        return sum(path.stat().st_size for path in _paths())

    def check(self, labelled: bool = False) -> None:
        """Raises InputError where this Python keeps its library in no folder of .py files."""
        _check()


class PythonFunctions(Choice):
    """The functions of the interpreter's own library, each labelled with the package it comes from."""

    kind: Literal["python_functions"] = "python_functions"
    packages: int = Field(
        default=20,
        ge=2,
        le=200,
        description="At most this many labels: the packages with the most functions. Rarer ones are harder.",
    )
    functions: int = Field(
        default=60,
        ge=10,
        le=1000,
        description="A package with fewer functions is left out: from little text little is learnt about it.",
    )

    def documents(self) -> Iterator[Document | SetAside]:
        """Each function of a module and each method of its classes, file by file; group is the file."""
        found = [(path, _functions(path)) for path in _paths()]
        counts: Counter[str] = Counter()
        for path, functions in found:
            counts[_named(path)[1]] += 0 if isinstance(functions, Reason) else len(functions)
        ranked = sorted(counts, key=lambda package: (-counts[package], package))[: self.packages]
        chosen = {package for package in ranked if counts[package] >= self.functions}
        for path, functions in found:
            name, package = _named(path)
            if isinstance(functions, Reason):
                yield SetAside(name, 0, str(functions))
            elif package in chosen:
                for position, text in enumerate(functions):
                    yield Document(name, position, name, package, text)

    def fingerprint(self) -> str:
        """Names the settings, the interpreter's version and the content of its files."""
        return _fingerprint(self)

    def describe(self) -> str:
        """One line that a person recognises."""
        return f"functions of the standard library of Python {platform.python_version()}, by package"

    def size_bytes(self) -> int | None:
        """None: how much of the files is functions of the packages chosen is not known beforehand."""
        return None

    def check(self, labelled: bool = False) -> None:
        """Raises InputError where this Python keeps its library in no folder of .py files."""
        _check()


def _functions(path: Path) -> list[str] | Reason:
    """The source of a file's functions and methods of a sensible size, decorators included, not indented."""
    text = text_of(formats.whole(path))
    if isinstance(text, Reason):
        return text
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # about escapes in old strings
            warnings.simplefilter("ignore", DeprecationWarning)
            body = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError):
        return Reason("not the Python that is running")
    lines = text.split("\n")
    found = []
    for node in _definitions(body):
        first = min(part.lineno for part in (node, *node.decorator_list))
        source = textwrap.dedent("\n".join(lines[first - 1 : node.end_lineno]) + "\n")
        if SHORTEST_CHARACTERS <= len(source) <= LONGEST_CHARACTERS:
            found.append(source)
    return found


def _definitions(body: list[ast.stmt]) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in body:
        if isinstance(node, ast.ClassDef):
            yield from _definitions(node.body)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def _named(path: Path) -> tuple[str, str]:
    """The file's name within the library, and the top-level package that it belongs to."""
    name = path.relative_to(_library())
    return name.as_posix(), name.parts[0].removesuffix(".py")


def _fingerprint(source: Choice) -> str:
    files = [(path.relative_to(_library()).as_posix(), digest(path)) for path in _paths()]
    return content_key(source, platform.python_version(), files)


def _check() -> None:
    if not _paths():
        raise InputError(f"This Python has no source files in {_library()}: choose source.kind=files.")


def _paths() -> list[Path]:
    return below(_library(), {".py"}, without=NOT_SHIPPED)


def _library() -> Path:
    return Path(sysconfig.get_path("stdlib"))
