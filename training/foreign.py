"""Model folders from anywhere, looked through before a library opens them: nothing may run, nor fill the memory.

Only bytes and JSON are read here. What passes is still loaded without code of its own; see `pretrained.py`.
"""

import json
import math
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
import psutil
import torch
from jinja2 import nodes
from transformers import PreTrainedConfig, PreTrainedTokenizerBase
from transformers.models.auto.tokenization_auto import tokenizer_class_from_name

from training.architectures import CLASSES, Head

# None of these can hold code that runs on loading: all that is fetched from a registry.
SAFE_FILES = {".safetensors", ".json", ".txt", ".md", ".jinja", ".model", ".spm"}
# These can, or are read by what installs and runs it; see PICKLES for the Hub.
HARMFUL = (
    ".bin .pt .pth .ckpt .pkl .pickle .dill .joblib .h5 .keras .msgpack .npy .npz .py .pyc .pyd .so .dll .dylib .sh"
    " .ipynb .whl .egg .yaml .yml .toml .cfg"
)
INSTALLERS = {"requirements.txt", "MLmodel", "Makefile"}
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
MOST_JSON_BYTES = 256 * 1024**2  # the largest tokenizer.json of the Hub have a seventh of it
MOST_TEMPLATE_BYTES = 1024**2
MOST_HEADER_BYTES = 100_000_000  # as the safetensors library has it
# Names between double underscores by which templates leave their sandbox.
INSIDES = re.compile(
    "__(class|base|bases|mro|subclasses|globals|builtins|import|init|dict|code|closure|getattribute|self|func)__"
)
# Bits of a number, by safetensors' name of its kind.
BITS = {"BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "C64": 64} | {
    f"{kind}{bits}": bits for kind in "IUF" for bits in (8, 16, 32, 64)
}
BITS |= {"BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8}
# What counts parts of a model in a config; each costs memory before a single weight is read.
COUNTS = ("num_", "n_", "layers", "depth", "blocks", "experts", "labels", "heads", "groups")
DEEP = re.compile("layer|depth|block")  # of which each has weights of its own
MOST_POSITIONS = 2**21  # some architectures make a table of them all
SMALL_COUNT = 256  # buckets, codebooks and the like, which may be more than any size of a tiny model
BUFFERS = 2**27  # values that a model may hold beside its weights, such as masks of its whole context
GROWTH = 2  # a newly made head is at most as large as the embeddings that are there


def check_folder(folder: Path) -> None:
    """Raises ValueError, in one line, where a folder holds what could run, leads out of it, or hides code in JSON.

    A snapshot of the Hub's cache may hold anything, as other programs share it and its pickles are never read.
    """
    from_hub = folder.parent.name == "snapshots"
    within = [folder.resolve(), *([folder.resolve().parents[1] / "blobs"] if from_hub else [])]
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if name.startswith(".") or "/." in name:
            continue  # never read, and never copied
        if path.is_symlink() and not any(path.resolve().is_relative_to(place) for place in within):
            raise ValueError(
                f"{folder} holds the link {name}, which leads out of it: put the file itself there"
            )
        mode = path.stat().st_mode if path.exists() else 0
        if stat.S_ISDIR(mode) or from_hub:
            continue
        if not stat.S_ISREG(mode):
            raise ValueError(f"{folder} holds {name}, which is no file: take it away")
        if harmful(path.name):
            raise ValueError(_could_run(str(folder), name))
    for name in ("config.json", "tokenizer_config.json", "generation_config.json"):
        if (folder / name).exists():
            content = _read_json(folder / name)
            _refuse_code(folder, name, content)
            if name == "config.json":
                _check_counts(folder, content)
    _check_templates(folder)


def harmful(name: str) -> bool:
    """Whether a file of this name could run code when loaded or installed."""
    return Path(name).suffix.lower() in HARMFUL.split() or name in INSTALLERS


def refuse_unsafe(named: str, files: list[str]) -> None:
    """Raises ValueError for names of files of a registry of which it is not known that they are safe."""
    for name in files:
        if Path(name).suffix not in SAFE_FILES or Path(name).name in INSTALLERS:
            raise ValueError(_could_run(named, name))


def _could_run(named: str, file: str) -> str:
    return (
        f"{named} holds {file}, which could run code when loaded: put config.json, the tokenizer's files and "
        "*.safetensors into a folder of their own"
    )


def check_size(folder: Path, config: PreTrainedConfig, head: Head) -> None:
    """Raises ValueError where a config describes a larger model than the folder has weights for, or memory is short."""
    stored = sum(math.prod(shape) for shape in stored_shapes(folder).values())
    try:
        with torch.device("meta"):
            sketch = CLASSES[head].from_config(config)
    except Exception as error:  # sizes that no tensor can have, or that do not divide
        why = " ".join(str(error).split())[:200]
        raise ValueError(f"{folder} has sizes in config.json of which no model can be made: {why}") from None
    weights = sum(parameter.numel() for parameter in sketch.parameters())
    if (
        weights > GROWTH * stored + SMALL_COUNT**2
        or sum(b.numel() for b in sketch.buffers()) > BUFFERS + stored
    ):
        raise ValueError(
            f"{folder} describes a model of {weights:,} weights in config.json, and holds {stored:,}: its config is "
            "not that of its weights"
        )
    free = psutil.virtual_memory().available
    if 4 * weights > free:
        raise ValueError(
            f"{folder} wants {4 * weights / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free"
        )


def _check_counts(folder: Path, raw: Any) -> None:
    """Refuses a config.json that counts more layers, heads or labels than its weights have: readers list them."""
    shapes = stored_shapes(folder) if has_weights(folder) else {}
    longest = max((size for shape in shapes.values() if 0 not in shape for size in shape), default=0)
    most = max(longest, len(shapes), SMALL_COUNT)
    for name, value in _entries(raw):
        if "position" in name:
            limit = max(longest, MOST_POSITIONS)
        elif name.startswith(COUNTS[:2]) or name.endswith(COUNTS[2:]):
            limit = max(len(shapes), SMALL_COUNT) if DEEP.search(name) else most
        else:
            continue
        if isinstance(value, int | float) and abs(value) > limit:
            raise ValueError(
                f"{folder} has {name} {value:.3g} in config.json, and weights for no more than {limit:,}: its config "
                "is not that of its weights"
            )


def has_weights(folder: Path) -> bool:
    """Whether there are any that can be read without running code."""
    return any((folder / name).exists() for name in (WEIGHTS, INDEX))


def stored_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor that a folder's safetensors files hold, from their headers alone.

    Raises ValueError where a file is not what its header says, or the index names a file elsewhere.
    """
    found: dict[str, tuple[int, ...]] = {}
    for path in _weight_files(folder):
        try:
            found |= _shapes_in(path)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            why = " ".join(str(error).split())[:200]
            raise ValueError(
                f"{path} cannot be read, its header is damaged ({why}): fetch it again"
            ) from None
    return found


def _weight_files(folder: Path) -> list[Path]:
    if not (folder / INDEX).exists():
        return [folder / WEIGHTS]
    index = _read_json(folder / INDEX)
    named = index.get("weight_map") if isinstance(index, dict) else None
    names = set(named.values()) if isinstance(named, dict) and all(map(_is_text, named.values())) else {""}
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise ValueError(f"{folder / INDEX} names {name[:80]!r}, which is no safetensors file beside it")
    return [folder / name for name in sorted(names)]


def _shapes_in(path: Path) -> dict[str, tuple[int, ...]]:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(size - 8, MOST_HEADER_BYTES):
            raise ValueError(f"a header of {length:,} bytes in a file of {size:,}")
        header = json.loads(file.read(length))
    found = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        shape, (start, end) = tuple(entry["shape"]), entry["data_offsets"]
        if not all(isinstance(one, int) and one >= 0 for one in (*shape, start, end)):
            raise ValueError(f"{name[:80]} has a size that is none")
        if end > size - 8 - length or math.prod(shape) * BITS[entry["dtype"]] != 8 * (end - start):
            raise ValueError(f"{name[:80]} lies where the file is not")
        found[name] = shape
    return found


def _read_json(path: Path) -> Any:
    if path.stat().st_size > MOST_JSON_BYTES:
        raise ValueError(f"{path} has {path.stat().st_size:,} bytes, which is more than any model needs")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        why = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} is no JSON that can be read ({why}): fetch it again") from None


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    """Names and values of a JSON document, at every depth that was read."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            yield from one.items()
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one


def _refuse_code(folder: Path, file: str, content: Any) -> None:
    """Refuses what makes transformers fetch or import code: `auto_map`, kernels of the Hub, classes that are none."""
    for name, value in _entries(content):
        if name in ("auto_map", "custom_pipelines", "custom_generate"):
            raise ValueError(
                f"{folder} needs code of its own ({name} in {file}), which is never run: take a checkpoint whose "
                "architecture transformers itself has"
            )
        if name.endswith(("attn_implementation", "experts_implementation")) and "/" in str(value):
            raise ValueError(
                f"{folder} wants a kernel from elsewhere ({name} in {file}): take it out of the file"
            )
        if name == "tokenizer_class" and value is not None and not _is_tokenizer(value):
            raise ValueError(
                f"{folder} wants the tokenizer class {str(value)[:80]!r} ({file}), which transformers does not have: "
                "save it as a PreTrainedTokenizerFast"
            )


def _is_tokenizer(name: Any) -> bool:
    """Whether transformers has a tokenizer of this class name; loading would call whatever it has under the name."""
    if not _is_text(name) or not name.isidentifier():
        return False
    found = tokenizer_class_from_name(name)
    known = isinstance(found, type) and issubclass(found, PreTrainedTokenizerBase)
    return known or (
        found is not None and name.removesuffix("Fast").endswith("Tokenizer")
    )  # a package is missing


def _check_templates(folder: Path) -> None:
    """Refuses templates of chats that reach for Python's insides: never filled in here, they may be elsewhere."""
    for path in (*folder.glob("*.jinja"), *folder.glob("additional_chat_templates/*.jinja")):
        if path.stat().st_size > MOST_TEMPLATE_BYTES:
            raise ValueError(f"{path} has {path.stat().st_size:,} bytes, which is no template of a chat")
        _check_template(path, path.read_text(encoding="utf-8", errors="replace"))
    for name in ("tokenizer_config.json", "chat_template.json"):
        if (folder / name).exists():
            for key, value in _entries(_read_json(folder / name)):
                if key in ("chat_template", "template") and _is_text(value):
                    _check_template(folder / name, value)


def _check_template(path: Path, text: str) -> None:
    try:
        tree = jinja2.Environment(extensions=["jinja2.ext.loopcontrols"]).parse(text)
    except jinja2.TemplateSyntaxError:
        return  # generation blocks and other extensions; what cannot be parsed cannot be filled in
    except RecursionError:
        raise ValueError(f"{path} holds a template of a chat that is nested too deep: take it out") from None
    told: list[Any] = [node.attr for node in tree.find_all(nodes.Getattr)]
    told += [node.name for node in tree.find_all(nodes.Name)]
    told += [node.value for node in tree.find_all(nodes.Const)]
    if any(_is_text(one) and INSIDES.search(one) for one in told):
        raise ValueError(f"{path} holds a template of a chat that reaches for Python's insides: take it out")


def _is_text(value: Any) -> bool:
    return isinstance(value, str)
