"""What decides a run's weights beside its data: settings, code, packages, machine; kept, to do it again."""

import hashlib
import platform
import subprocess
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict

from tasks import train
from tasks.artifacts import Trained
from tasks.evidence import machine
from tasks.processes import ROOT
from tasks.store import code_key
from training import worker
from training.blueprint import Blueprint

PROVENANCE = "provenance.json"
NUMERICS = (
    "torch",
    "transformers",
    "numpy",
    "tokenizers",
    "safetensors",
    "ray",
)  # packages that weights may hang on


class Provenance(BaseModel):
    """One training: what went in, what it ran on, and the weights that came out."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    weights: str  # SHA-256 of all weights' files, in order of their names
    settings: str  # the blueprint's fingerprint
    data: str  # the tokens' key
    workers: int
    device: str
    machine: str
    processor: str  # what torch makes use of in it, such as AVX512
    python: str
    packages: dict[str, str]
    code: str  # names the sources that train
    commit: str | None  # None: not from a git checkout
    journal: str  # relative to the run folder and to MLflow's artifacts


def taken(trained: Trained) -> Provenance:
    """The provenance of a finished training that was made on this machine, with this code."""
    blueprint = Blueprint.model_validate_json((trained.folder / "blueprint.json").read_text())
    return here(blueprint, trained.tokens.key, trained.workers, trained.device).model_copy(
        update={"weights": weights_sha256(trained.model_folder), "journal": trained.journal}
    )


def here(blueprint: Blueprint, data: str, workers: int, device: str) -> Provenance:
    """What a training of these would have that began now, without its weights."""
    return Provenance(
        weights="",
        settings=blueprint.fingerprint(),
        data=data,
        workers=workers,
        device=device,
        machine=machine(),
        processor=torch.cuda.get_device_name()
        if device == "cuda"
        else torch.backends.cpu.get_cpu_capability(),
        python=platform.python_version(),
        packages={name: installed(name) for name in NUMERICS},
        code=code_key(train, worker),
        commit=commit(),
        journal="",
    )


def differences(then: Provenance, now: Provenance) -> list[str]:
    """What is not as it was, but for weights and journal; one sentence each."""
    words = {"data": "data (its digest)", "settings": "settings (their fingerprint)"}
    found = []
    for name in ("settings", "data", "workers", "device", "machine", "processor", "python"):
        was, is_ = getattr(then, name), getattr(now, name)
        if was != is_:
            found.append(f"{words.get(name, name)}: {was} then, {is_} now")
    if then.code != now.code:
        commits = [held.commit or held.code for held in (then, now)]
        found.append(f"code that trains: {commits[0]} then, {commits[1]} now")
    for name in sorted({*then.packages, *now.packages}):
        versions = [held.packages.get(name, "none") for held in (then, now)]
        if versions[0] != versions[1]:
            found.append(f"{name}: {versions[0]} then, {versions[1]} now")
    return found


def weights_sha256(model_folder: Path) -> str:
    """Names a model folder's weights by content."""
    digest = hashlib.sha256()
    for path in sorted(model_folder.glob("*.safetensors")):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


@cache
def commit() -> str | None:
    """The commit that this code is, with a plus where files were changed since; None outside a git checkout."""
    if not (ROOT / ".git").exists():
        return None
    try:
        said = [
            subprocess.run(
                ["git", *words], cwd=ROOT, capture_output=True, text=True, timeout=10, check=True
            ).stdout
            for words in (
                ("rev-parse", "--short=12", "HEAD"),
                ("status", "--porcelain", "--untracked-files=no"),
            )
        ]
    except (OSError, subprocess.SubprocessError):  # no git, or a checkout that it does not trust
        return None
    return said[0].strip() + "+" * bool(said[1].strip())


def write_provenance(trained: Trained) -> Provenance:
    """Keeps in a run's folder what decides its weights."""
    found = taken(trained)
    (trained.folder / PROVENANCE).write_text(found.model_dump_json(indent=1))
    return found


def as_parameters(provenance: Provenance) -> Mapping[str, str]:
    """What a compare page shows of it, as MLflow parameters."""
    told: dict[str, Any] = provenance.model_dump(include={"weights", "code", "commit", "python", "processor"})
    told |= provenance.packages
    return {f"made.{name}": str(value) for name, value in told.items()}
