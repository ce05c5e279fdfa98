"""Checkpoints: atomic and checksummed; the newest one that verifies wins.

A checkpoint is a folder `step-<n>`: weights and optimizer state in safetensors, everything else in
`state.json`, and `manifest.json` with the sha256 of each file, written last.
"""

import hashlib
import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from training.optimizers import Optimizers
from training.parts import gathered, part_of, parts_of
from training.state import Position, State

MANIFEST = "manifest.json"
NEEDED = {"model.safetensors", "optimizer.safetensors", "state.json"}
KEPT = 2  # the newest may be damaged


def save_checkpoint(folder: Path, position: Position, state: State, writes: bool = True) -> Path:
    """Writes `folder/step-<n>` so that it is there whole or not at all; older ones go, but for KEPT.

    Ranks that hold parts of tensors must all call it, and one of them `writes`.
    """
    final = folder / f"step-{position.step:08d}"
    files = {"model": state.model.state_dict(), "optimizer": _optimizer_tensors(state.optimizers)}
    files |= state.extras()
    if not writes:
        for tensors in files.values():
            gathered(tensors, keep=False)
        return final
    for unfinished in folder.glob(".step-*"):  # a kill left it
        shutil.rmtree(unfinished, ignore_errors=True)
    draft = folder / f".{final.name}-{os.getpid()}"
    draft.mkdir(parents=True)
    for name, tensors in files.items():
        _write(tensors, draft / f"{name}.safetensors")
    (draft / "state.json").write_text(json.dumps({"position": asdict(position), "facts": state.facts()}))
    sums = {path.name: _sha256(path) for path in sorted(draft.iterdir())}
    (draft / MANIFEST).write_text(json.dumps(sums))
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


def load_checkpoint(path: Path, state: State) -> Position:
    """Puts weights and everything else back, and says where the training was."""
    state.model.load_state_dict(parts_of(load_file(path / "model.safetensors"), state.model.state_dict()))
    tensors = load_file(path / "optimizer.safetensors")
    for number, optimizer in enumerate(state.optimizers):
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        found: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in tensors.items():
            owner, parameter, field = name.split(".", 2)
            if int(owner) == number:
                part = part_of(tensor, parameters[int(parameter)])
                found.setdefault(int(parameter), {})[field] = part
        optimizer.load_state_dict({"state": found, "param_groups": optimizer.state_dict()["param_groups"]})
    named = dict(state.model.named_parameters())
    device = next(iter(named.values())).device
    extras = {
        name: parts_of(load_file(path / f"{name}.safetensors", device=str(device)), named)
        for name in ("average", "best")
        if (path / f"{name}.safetensors").exists()
    }
    state.put_back(json.loads((path / "state.json").read_text())["facts"], extras)
    return read_position(path)


def read_position(path: Path) -> Position:
    """Where the training of a checkpoint was."""
    return Position(**json.loads((path / "state.json").read_text())["position"])


def _optimizer_tensors(optimizers: Optimizers) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    for number, optimizer in enumerate(optimizers):
        for parameter, fields in optimizer.state_dict()["state"].items():
            for field, value in fields.items():
                tensors[f"{number}.{parameter}.{field}"] = torch.as_tensor(value)
    return tensors


def _write(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Tensors that share memory, such as tied weights, are written one by one; parts, put together."""
    whole = gathered(tensors, keep=True)
    save_file({name: tensor.contiguous().clone() for name, tensor in whole.items()}, path)


def _verifies(path: Path) -> bool:
    try:
        sums = json.loads((path / MANIFEST).read_text())
        there = {file.name for file in path.iterdir()} - {MANIFEST}
        return there >= NEEDED and there == set(sums) and all(_sha256(path / n) == sums[n] for n in there)
    except (OSError, ValueError, TypeError):
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
