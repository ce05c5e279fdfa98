"""Checkpoints: atomic and checksummed; the newest one that verifies wins.

A checkpoint is a folder `step-<n>`: weights and optimizer state in safetensors, everything else in
`state.json`, and `manifest.json` with the sha256 of each file, written last.
"""

import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from training.optimizers import Optimizers

KEPT = 2  # the newest may be damaged


@dataclass(frozen=True)
class Position:
    """How far a training is, apart from its tensors."""

    step: int
    tokens: int
    used_seconds: float
    fingerprint: str


def save_checkpoint(folder: Path, position: Position, model: nn.Module, optimizers: Optimizers) -> Path:
    """Writes `folder/step-<n>` so that it is there whole or not at all; older ones go, but for KEPT."""
    final = folder / f"step-{position.step:08d}"
    draft = folder / f".{final.name}-{os.getpid()}"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    save_file(
        {name: tensor.contiguous() for name, tensor in model.state_dict().items()},
        draft / "model.safetensors",
    )
    save_file(_state_tensors(optimizers), draft / "optimizer.safetensors")
    (draft / "state.json").write_text(json.dumps(asdict(position)))
    sums = {path.name: _sha256(path) for path in sorted(draft.iterdir())}
    (draft / "manifest.json").write_text(json.dumps(sums))
    for path in draft.iterdir():
        _sync(path)
    shutil.rmtree(final, ignore_errors=True)
    draft.rename(final)
    _sync(folder)
    for old in sorted(folder.glob("step-*"))[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def newest_checkpoint(folder: Path, fingerprint: str) -> Path | None:
    """The newest checkpoint whose every byte is as it was written; damaged ones are passed over.

    Raises ValueError where a good checkpoint belongs to another training.
    """
    for path in sorted(folder.glob("step-*"), reverse=True):
        if _verifies(path):
            found = read_position(path).fingerprint
            if found != fingerprint:
                raise ValueError(
                    f"{path} belongs to another training (fingerprint {found}, here {fingerprint}): "
                    "settings, data or code of the model changed; start a new run"
                )
            return path
    return None


def load_checkpoint(path: Path, model: nn.Module, optimizers: Optimizers) -> Position:
    """Puts weights, optimizer state and random state back, and says where the training was."""
    model.load_state_dict(load_file(path / "model.safetensors"))
    tensors = load_file(path / "optimizer.safetensors")
    torch.set_rng_state(tensors.pop("random_state"))
    for number, optimizer in enumerate(optimizers):
        state: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in tensors.items():
            owner, parameter, field = name.split(".", 2)
            if int(owner) == number:
                state.setdefault(int(parameter), {})[field] = tensor
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return read_position(path)


def read_position(path: Path) -> Position:
    """Where the training of a checkpoint was."""
    return Position(**json.loads((path / "state.json").read_text()))


def _state_tensors(optimizers: Optimizers) -> dict[str, torch.Tensor]:
    tensors = {"random_state": torch.get_rng_state()}
    for number, optimizer in enumerate(optimizers):
        for parameter, fields in optimizer.state_dict()["state"].items():
            for field, value in fields.items():
                tensors[f"{number}.{parameter}.{field}"] = torch.as_tensor(value).contiguous()
    return tensors


def _verifies(path: Path) -> bool:
    try:
        sums = json.loads((path / "manifest.json").read_text())
        return bool(sums) and all(_sha256(path / name) == digest for name, digest in sums.items())
    except (OSError, ValueError, AttributeError):
        return False


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
