"""What `tests.benchmarks.gpu` has done in a process of its own: `python -m tests.benchmarks.gpu_runs KIND JSON`.

Prints one line of JSON last. Imports `training` and what it needs, nothing else of the stack. Every kind also
runs on a CPU, at a size for that: so the script is tested where there is no GPU.
"""

import hashlib
import json
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from training.batch import model_inputs
from training.blueprint import Blueprint, Learning
from training.budget import TokenCount, matmul_peak_flops
from training.context import Context
from training.data import Shards, Slice
from training.journal import read_journal
from training.loop import train
from training.model import Scratch, count_parameters, flops_per_token

START = 0
SLOW_STEPS = 3  # at first: kernels are chosen and compiled
Result = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """One training, or one look at its model."""

    folder: str  # of the training; the shards lie in `data` beside it
    device: str = "cuda"
    depth: int = 14  # 704 wide; with the vocabulary below 124 M parameters
    vocabulary: int = 28_672
    context: int = 1024
    rows: int = 64
    steps: int = 60
    precision: str = "bf16"
    tf32: bool = False
    attention: str = "sdpa"
    packing: str = "blocks"
    compile: str = "on"
    seed: int = 0
    exact: bool = False  # only kernels that give the same sums in every run
    checkpoint_seconds: float | None = None

    @property
    def shards(self) -> Path:
        """Where the tokens are."""
        return Path(self.folder).parent / "data"

    def blueprint(self) -> Blueprint:
        """The training as `training` takes it."""
        learning = Learning.model_validate(
            {
                "context": self.context,
                "batch_tokens": self.rows * self.context,
                "short_context": 0.0,
                "precision": self.precision,
                "attention": self.attention,
                "packing": self.packing,
                "compile": self.compile,
            }
        )
        model = Scratch(family="nanochat", depth=self.depth)
        return Blueprint(
            model=model, learning=learning, vocabulary=self.vocabulary, start_token=START, seed=self.seed
        )


def set_up(run: Run) -> None:
    """The arithmetic of this process."""
    torch.set_float32_matmul_precision("high" if run.tf32 else "highest")
    if run.exact:
        torch.use_deterministic_algorithms(True)


def data(run: Run) -> Result:
    """Shards of made-up documents, 200 to 3,000 tokens each, whose tokens are as uneven as words."""
    dice = np.random.default_rng(0)
    wanted = max(4 * run.rows * run.context, 2_000_000 if run.device == "cuda" else 0)
    lengths = dice.integers(200, 3000, size=wanted // 1600 + 1)
    ids = dice.zipf(1.2, size=int(lengths.sum())) % (run.vocabulary - 1) + 1
    offsets = np.cumsum(lengths) - lengths
    ids[offsets] = START
    nothing = np.zeros_like(lengths)
    run.shards.mkdir(parents=True, exist_ok=True)
    for side, documents in (("train", len(lengths)), ("validation", 0), ("test", 0)):
        ids[: len(ids) if documents else 0].astype(np.uint16).tofile(run.shards / f"{side}.bin")
        rows = np.stack([offsets, lengths, lengths, nothing, nothing - 1], axis=1)
        np.save(run.shards / f"{side}.npy", rows[:documents])
    header = {
        "dtype": "uint16",
        "vocabulary": run.vocabulary,
        "start_token": START,
        "mask_token": None,
        "labels": [],
    }
    (run.shards / "shards.json").write_text(json.dumps(header))
    return {"tokens": len(ids)}


def peak(run: Run) -> Result:
    """FLOPs a second of products of large bf16 matrices."""
    name = torch.cuda.get_device_name() if run.device == "cuda" else "a CPU"
    return {
        "device": name,
        "peak_flops": matmul_peak_flops(run.device, "bf16"),
        "torch": torch.__version__,
    }


def training(run: Run) -> Result:
    """A training's speed once it has settled, how much longer its first steps took, and its weights' digest."""
    set_up(run)
    place = Path(run.folder)
    context = Context(
        folder=place, device=torch.device(run.device), checkpoint_seconds=run.checkpoint_seconds
    )
    tokens = run.rows * run.context
    blueprint = run.blueprint()
    clock = TokenCount(run.steps * tokens)
    _, model = train(blueprint, Slice(Shards(run.shards), "train"), clock, context)
    events = list(read_journal(place / "journal.jsonl"))
    steps = [event for event in events if event["event"] == "step"]
    times = [later["time"] - earlier["time"] for earlier, later in pairwise(steps)]
    settled = median(times[SLOW_STEPS:])
    first = steps[0]["seconds"] + sum(times[: SLOW_STEPS - 1])
    return {
        "parameters": count_parameters(model),
        "flops_per_token": flops_per_token(model, run.context),
        "tokens_per_second": tokens / settled,
        "compile_seconds": first - SLOW_STEPS * settled,
        "memory_gb": steps[-1]["memory_gb"],
        "first_loss": steps[0]["loss"],
        "last_loss": steps[-1]["loss"],
        "events": sorted({event["event"] for event in events}),
        "sha256": digest(model),
    }


def apart(run: Run) -> Result:
    """How far a document's logits depend on its neighbour in the row; with and without being kept apart."""
    set_up(run)
    blueprint = run.blueprint()
    model = blueprint.build(run.device).to(run.device).eval()
    dice = torch.Generator().manual_seed(0)
    with torch.no_grad():  # projections that start at zero would hide the attention
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.copy_(0.05 * torch.randn(weight.shape, generator=dice))
    one, other = torch.randint(1, run.vocabulary, (2, 1, run.context // 2), generator=dice)
    one[0, 0] = other[0, 0] = START
    row = torch.cat([one, other], dim=1)
    kept = {name: tensor.to(run.device) for name, tensor in model_inputs(row, blueprint.facts()).items()}
    with torch.no_grad(), torch.autocast(run.device, torch.bfloat16, enabled=run.precision == "bf16"):
        alone = logits(model, {"input_ids": other.to(run.device)})
        beside = logits(model, kept)[:, run.context // 2 :]
        mixed = logits(model, {"input_ids": row.to(run.device)})[:, run.context // 2 :]
    return {
        "scale": float(alone.std()),
        "apart": float((beside - alone).abs().max()),
        "mixed": float((mixed - alone).abs().max()),
    }


def logits(model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Float32 [1, T, V]."""
    found: torch.Tensor = model(**inputs, use_cache=False).logits.float()
    return found


def digest(model: PreTrainedModel) -> str:
    """The SHA-256 of all weights, in the order of their names."""
    sums = hashlib.sha256()
    for name, weight in sorted(model.named_parameters()):
        sums.update(name.encode())
        sums.update(weight.detach().cpu().numpy().tobytes())
    return sums.hexdigest()


KINDS = {"data": data, "peak": peak, "training": training, "apart": apart}


if __name__ == "__main__":
    print(json.dumps(KINDS[sys.argv[1]](Run(**json.loads(sys.argv[2])))))
