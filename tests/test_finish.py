"""What a killed run leaves is found, the best of it taken, and made a model that loads."""

from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from tasks import alive
from tasks.alive import hold
from tasks.artifacts import InputError, Tokens
from tasks.finish import SALVAGED, refuse_running, salvage, trainings
from tasks.home import run_folder
from tests import tiny_run
from tests.test_plan import some_tokens
from tests.tiny_shards import tiny_blueprint, write_shards
from training.budget import TokenCount
from training.worker import Assignment, carry_out


@pytest.fixture
def tokens(fresh_home: Path, corpus_texts: list[str]) -> Tokens:
    tokens = some_tokens()
    write_shards(tokens.folder, corpus_texts)
    folder = run_folder("r")
    folder.mkdir(parents=True)
    (folder / "tokens.json").write_text(tokens.model_dump_json())
    (folder / "blueprint.json").write_text(tiny_blueprint().model_dump_json())
    return tokens


def train(tokens: Tokens, name: str, steps: int, pause_at: float = 1.0) -> None:
    """A real training of the run, kept whole or, where it pauses, as a checkpoint."""
    tiny_run.tokenizer().save_pretrained(tokens.folder / "tokenizer")
    carry_out(
        Assignment(
            folder=run_folder("r") / name,
            blueprint=tiny_blueprint(),
            shards=tokens.folder,
            clock=TokenCount(128 * steps),
            looks=(0.5, 1.0),
            watched_tokens=500,
            checkpoint_seconds=1e9,
            pause_at=pause_at,
            keep_model=pause_at == 1.0,
        )
    )


def test_the_model_that_looked_best_is_taken(tokens: Tokens) -> None:
    train(tokens, "probe/1", 2)
    train(tokens, "trials/0", 40)
    taken = salvage("r")
    assert taken.model == "trials/0/model"
    assert taken.steps == 40 and taken.tokens_trained == 40 * 128
    seen = {found.folder.name: found.bits for found in trainings(run_folder("r"))}
    assert taken.validation_bits == min(seen.values())


def test_a_checkpoint_of_the_final_run_becomes_a_model_that_loads(tokens: Tokens) -> None:
    train(tokens, "probe/1", 2)
    train(tokens, "final", 80, pause_at=0.6)
    taken = salvage("r")
    assert taken.model == f"{SALVAGED}/model"
    assert taken.steps == 48
    model = AutoModelForCausalLM.from_pretrained(taken.model_folder)
    assert sum(p.numel() for p in model.parameters()) == taken.parameters


def test_a_run_without_a_model_says_so(tokens: Tokens) -> None:
    with pytest.raises(InputError, match="before it had a model"):
        salvage("r")


def test_a_run_that_is_alive_is_left_alone(fresh_home: Path) -> None:
    assert hold("r")
    with pytest.raises(InputError, match="still running"):
        refuse_running("r")
    alive._held.pop("r").close()  # as its end would do
    refuse_running("r")
