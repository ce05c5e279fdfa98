"""Several workers learn what one learns: real processes over gloo, through the loop that trains everything."""

import json
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch.multiprocessing.spawn import spawn
from transformers import AutoModelForCausalLM, PreTrainedModel

from tests.test_strategies import PLANNED
from tests.tiny_shards import tiny_blueprint, write_shards
from training.blueprint import Blueprint
from training.budget import TokenCount, Wall
from training.context import Context
from training.data import Shards, Slice
from training.journal import read_journal
from training.loop import Summary, train
from training.model import Scratch
from training.objectives import MaskedLanguageModel
from training.optimizers import LAMB
from training.parallel import DDP, FSDP, Shared, Single, TensorParallel
from training.parts import gathered
from training.watch import Watch, look_at
from training.worker import Assignment

STEP, STEPS = 256, 40  # tokens of a step, eight rows; and how many steps
ADAMW = {"kind": "adamw"}
MUON = {"kind": "muon"}
RELATIVE = {"adamw": 1e-5, "muon": 1e-4}


def blueprint_of(
    strategy: object, optimizer: dict[str, Any], family: str = "nanochat", depth: int = 2, **learning: object
) -> Blueprint:
    """Two layers of 128 in two heads of 64, where nothing else is said."""
    tiny = tiny_blueprint(batch_tokens=STEP, strategy=strategy, optimizer=optimizer, **learning)
    return tiny.model_copy(update={"model": Scratch.model_validate({"family": family, "depth": depth})})


def masked(strategy: object, family: str, **settings: Any) -> Blueprint:
    """The output layer sees hidden tokens alone, of which every worker has another number."""
    blueprint = blueprint_of(strategy, ADAMW, family, **settings)
    return blueprint.model_copy(update={"objective": MaskedLanguageModel()})


def strategy_cases() -> dict[str, Blueprint]:
    """What two workers do; each must end as one worker would."""
    fsdp, cut = {"kind": "fsdp"}, {"kind": "tensor_parallel"}
    return {
        "ddp_adamw": blueprint_of({"kind": "ddp"}, ADAMW, depth=1),
        "ddp_in_parts": blueprint_of({"kind": "ddp"}, ADAMW, depth=1, micro_batch_tokens=32),
        "fsdp_adamw": blueprint_of(fsdp, ADAMW, depth=1),
        "fsdp_in_parts": blueprint_of(fsdp, ADAMW, micro_batch_tokens=64),
        "tensor_adamw": blueprint_of(cut, ADAMW),
        "ddp_muon": blueprint_of({"kind": "ddp"}, MUON, depth=1),
        "fsdp_muon": blueprint_of(fsdp, MUON, depth=1),
        "tensor_muon": blueprint_of(cut, MUON),
        "ddp_masked": masked({"kind": "ddp"}, "bert", depth=1),
        "fsdp_masked": masked(fsdp, "bert", depth=1),
        "fsdp_masked_in_parts": masked(fsdp, "modernbert", depth=2, micro_batch_tokens=64),
    }


class StopsAfter:
    """Asks a training to end with its n-th step from here."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def __call__(self) -> bool:
        self.left -= 1
        return self.left == 0


def learn(
    blueprint: Blueprint, shards: Path, folder: Path, rank: int = 0, world_size: int = 1, steps: int = 0
) -> Summary:
    """Trains, or goes on; rank 0 leaves the weights in `weights.safetensors` and the score in `score.json`."""
    context = Context(
        folder, rank, world_size, checkpoint_seconds=60.0 if steps else None, stop_asked=StopsAfter(steps)
    )
    watch = Watch(Slice(Shards(shards), "validation"), tokens=1024, at=(0.6, 1.0))
    summary, model = train(blueprint, Slice(Shards(shards)), TokenCount(STEPS * STEP), context, watch)
    if rank == 0:
        save_file({name: t.clone() for name, t in model.state_dict().items()}, folder / "weights.safetensors")
        (folder / "score.json").write_text(json.dumps(summary.validation_bits))
    return summary


def losses(folder: Path) -> list[float]:
    return [event["loss"] for event in read_journal(folder / "journal.jsonl") if event["event"] == "step"]


def _meet(rank: int, folder: Path, world_size: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet{world_size}", rank=rank, world_size=world_size
    )


def _two(rank: int, folder: Path, shards: Path) -> None:
    _meet(rank, folder, 2)
    for name, blueprint in strategy_cases().items():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            learn(blueprint, shards, folder / name, rank, 2)
        if rank == 0:
            told = [str(warning.message) for warning in caught]
            (folder / name / "warnings.json").write_text(json.dumps(told))
    with pytest.raises(ValueError, match=r"lamb wants .* learning.strategy to ddp"):
        FSDP().share(perturbed("llama"), rank, 2).optimizers(LAMB())
    for strategy in ("fsdp", "tensor_parallel", "ddp"):
        summary = learn(relayed(strategy), shards, folder / "relay", rank, 2, steps=10)
        assert summary.stopped
    dist.destroy_process_group()


def perturbed(family: str) -> PreTrainedModel:
    """A model of which no gradient is zero."""
    model = blueprint_of({"kind": "single"}, ADAMW, family=family).build()
    dice = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=dice))
    return model


def gradients_of(shared: Shared) -> tuple[float, dict[str, torch.Tensor]]:
    """The norm and the clipped gradients, whole, of the mean loss over eight rows of noise."""
    ids_BT = torch.randint(0, 256, (8, 33), generator=torch.Generator().manual_seed(0))
    mine_BT = ids_BT[shared.share :: shared.shares]
    logits_BTV = shared.module(input_ids=mine_BT[:, :-1], use_cache=False).logits
    losses_BT = torch.nn.functional.cross_entropy(
        logits_BTV.flatten(0, 1), mine_BT[:, 1:].flatten(), reduction="none"
    )
    (losses_BT.sum() / (8 * 32) * shared.shares).backward()  # type: ignore[no-untyped-call]
    norm = float(shared.clip(0.5))
    named = {name: p.grad for name, p in shared.model.named_parameters() if p.grad is not None}
    return norm, gathered(named, keep=True)


def _four(rank: int, folder: Path, shards: Path) -> None:
    _meet(rank, folder, 4)
    for family in PLANNED:
        norm, expected = gradients_of(Single().share(perturbed(family)))
        for strategy in (DDP(), FSDP(), TensorParallel(degree=2)):
            found_norm, found = gradients_of(strategy.share(perturbed(family), rank, 4))
            assert found_norm == pytest.approx(norm, rel=1e-5), (family, strategy)
            assert found.keys() == expected.keys()
            for name, gradient in expected.items():
                off = (found[name] - gradient).norm() / gradient.norm()
                assert off < 1e-5, (family, strategy, name, off)
    squared = blueprint_of({"kind": "tensor_parallel", "degree": 2}, ADAMW)
    learn(squared, shards, folder / "squared", rank, 4)
    dist.destroy_process_group()


def relayed(strategy: str) -> Blueprint:
    """One training that changes its strategy on the way; it has an average and a best to carry, too."""
    return blueprint_of({"kind": strategy}, ADAMW, average=0.1, patience=5)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory, corpus_texts: list[str]) -> Path:
    torch.set_num_threads(1)
    return write_shards(tmp_path_factory.mktemp("shards"), corpus_texts[:60]).folder


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, shards: Path) -> Path:
    """The folder in which two workers have done all cases."""
    folder = tmp_path_factory.mktemp("two")
    spawn(_two, args=(folder, shards), nprocs=2)  # type: ignore[no-untyped-call]
    return folder


class Alone:
    """Single-process runs, each made once."""

    def __init__(self, folder: Path, shards: Path) -> None:
        self._folder, self._shards = folder, shards

    def folder(self, blueprint: Blueprint) -> Path:
        learning = blueprint.learning.model_copy(update={"strategy": Single(), "micro_batch_tokens": None})
        single = blueprint.model_copy(update={"learning": learning})
        folder = self._folder / single.fingerprint()
        if not folder.exists():
            learn(single, self._shards, folder)
        return folder


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, shards: Path) -> Alone:
    return Alone(tmp_path_factory.mktemp("alone"), shards)


def assert_equal_runs(one: Path, several: Path, relative: float) -> None:
    expected, found = losses(one), losses(several)
    assert len(expected) == len(found) == STEPS
    assert found == pytest.approx(expected, rel=relative)
    assert expected[-1] < 0.8 * expected[0]  # something was learned
    score = json.loads((one / "score.json").read_text())
    assert json.loads((several / "score.json").read_text()) == pytest.approx(score, rel=10 * relative)
    weights = load_file(one / "weights.safetensors")
    together = load_file(several / "weights.safetensors")
    assert weights.keys() == together.keys()
    for (
        name,
        weight,
    ) in weights.items():  # a bias of keys changes nothing, so it stays at what rounding leaves
        assert (together[name] - weight).norm() <= 100 * relative * weight.norm() + 1e-5, name


@pytest.mark.parametrize("name", strategy_cases())
def test_two_workers_learn_what_one_learns(name: str, two: Path, alone: Alone) -> None:
    blueprint = strategy_cases()[name]
    assert_equal_runs(alone.folder(blueprint), two / name, RELATIVE[str(blueprint.learning.optimizer.kind)])


@pytest.mark.slow
def test_four_workers_have_the_gradients_of_one_and_learn_the_same(
    tmp_path: Path, shards: Path, alone: Alone
) -> None:
    spawn(_four, args=(tmp_path, shards), nprocs=4)  # type: ignore[no-untyped-call]
    one = alone.folder(strategy_cases()["tensor_adamw"])
    assert_equal_runs(one, tmp_path / "squared", RELATIVE["adamw"])


def test_a_checkpoint_goes_on_under_any_strategy_and_number_of_workers(
    two: Path, shards: Path, alone: Alone
) -> None:
    assert len(losses(two / "relay")) == 30
    assert learn(relayed("single"), shards, two / "relay").steps == STEPS
    one = alone.folder(relayed("single"))
    assert_equal_runs(one, two / "relay", RELATIVE["adamw"])
    averages = [load_file(folder / "other.safetensors") for folder in (one, two / "relay")]
    for name, weight in averages[0].items():
        torch.testing.assert_close(averages[1][name], weight, rtol=1e-3, atol=1e-4)


def test_muon_over_cut_matrices_warns_that_it_is_slow(two: Path) -> None:
    def told(name: str) -> list[str]:
        texts: list[str] = json.loads((two / name / "warnings.json").read_text())
        return [text for text in texts if "Muon" in text]

    assert len(told("fsdp_muon")) == 1 == len(told("tensor_muon"))
    assert not told("fsdp_adamw") and not told("ddp_muon")


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp", "tensor_parallel"])
def test_ray_train_workers_leave_a_model_that_loads_anywhere(
    strategy: str, shards: Path, tmp_path: Path
) -> None:
    from tasks.cluster import Compute
    from tasks.ray_session import stop_ray
    from tasks.workers import release_workers, workers_of

    (shards / "tokenizer").mkdir(exist_ok=True)
    assignment = Assignment(
        folder=tmp_path / "final",
        blueprint=blueprint_of({"kind": strategy}, MUON),
        shards=shards,
        clock=Wall(0.0),  # late: the least seconds are left
        least_seconds=3.0,
        watched_tokens=1024,
        checkpoint_seconds=0.5,
        keep_model=True,
    )
    try:
        outcome = workers_of(Compute(workers=2, device="cpu")).carry_out_together(assignment)
    finally:
        release_workers()
        stop_ray()
    assert outcome.summary.steps > 3
    bits = outcome.summary.validation_bits
    model = AutoModelForCausalLM.from_pretrained(assignment.folder / "model")
    assert type(model).__name__ == "NanoChatForCausalLM" == model.config.architectures[0]
    sample = Watch(Slice(Shards(shards), "validation"), tokens=1024).sample(32, labelled=False)
    found = look_at(assignment.blueprint, model, sample, Context(tmp_path / "look"), nullcontext)
    assert found == pytest.approx(bits, rel=1e-4)
