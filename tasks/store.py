"""Where the stages' bytes lie, under keys that name what they were made from; they appear all at once."""

import ast
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from tasks import home
from tasks.artifacts import InputError, Record

if TYPE_CHECKING:
    from prefect.context import TaskRunContext


def content_key(*parts: Any) -> str:
    """16 hexadecimal digits that name `parts` (JSON-like values and pydantic models) by content."""
    text = json.dumps(parts, sort_keys=True, default=lambda value: value.model_dump(mode="json"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def code_key(stage: ModuleType, *below: ModuleType) -> str:
    """Names the source code of a stage, of the modules `below` it, and of all of ours that these import in turn."""
    files, waiting = {Path(str(stage.__file__))}, [Path(str(module.__file__)) for module in below]
    while waiting:
        file = waiting.pop()
        if file not in files:
            files.add(file)
            waiting += _imported(file)
    return content_key(*(path.read_text() for path in sorted(files)))


@cache
def _imported(file: Path) -> list[Path]:
    """The files of `tasks` and `training` that a file imports anywhere in it."""
    names = list[str]()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{name.name}" for name in node.names)]
    root = Path(__file__).parent.parent
    paths = [root.joinpath(*name.split(".")).with_suffix(".py") for name in names]
    return [path for path in paths if path.is_file()]


def stored(kind: str, key: str) -> bool:
    """Whether the store holds finished bytes under this key."""
    return (home.store(kind) / key / "complete").exists()


def once_a_run(context: "TaskRunContext", inputs: Mapping[str, Any]) -> str:
    """Names a stage within its flow run, so that a run that goes on does not do it again."""
    import prefect.runtime

    return f"{context.task.task_key}-{prefect.runtime.flow_run.id}-{inputs.get('fold', '')}"


def cache_key(record: type[Record], key: Callable[..., str]) -> Callable[..., str | None]:
    """Prefect's name for a task's record: the store's own key, `key(**inputs)`.

    For `@task(cache_key_fn=...)`. A record whose bytes are gone counts as absent, and the body runs
    again. Inputs that cannot work have no key: the body runs and says why.
    """

    def name_of(context: "TaskRunContext", inputs: dict[str, Any]) -> str | None:
        try:
            bytes_key = key(**inputs)
        except InputError:
            return None
        name, results = f"{record.kind}-{bytes_key}", context.result_store
        if not stored(record.kind, bytes_key) and results.exists(name):
            from prefect.types import DateTime

            forgotten = results.create_result_record(None, key=name, expiration=DateTime.now(UTC))
            results.persist_result_record(forgotten)
        return name

    return name_of


@contextmanager
def storing(kind: str, key: str) -> Iterator[Path]:
    """A folder to fill; it appears under its key all at once, when the block ends well.

    Two processes that store the same key write the same bytes: the first wins.
    """
    final = home.store(kind) / key
    draft = final.with_name(f".{key}-{uuid4().hex[:8]}")
    draft.mkdir(parents=True)
    try:
        yield draft
        (draft / "complete").touch()
        if final.exists() and not stored(kind, key):
            shutil.rmtree(final)
        try:
            draft.rename(final)
        except OSError:
            if not stored(kind, key):
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
