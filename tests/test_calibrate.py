"""What is measured before the plan, on real workers, and who is refused at the door of a cluster."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tasks.artifacts import InputError
from tasks.calibrate import attentions, calibrate
from tasks.cluster import Compute
from tasks.generate import load
from tasks.ray_session import stop_ray
from tasks.telemetry import stage
from tasks.workers import release_workers, workers_of
from tests import tiny_run
from tests.test_plan import some_tokens
from tests.tiny_shards import tiny_blueprint, write_shards
from training.metrics import score_documents
from training.model import Scratch, autocast
from training.objectives import CausalLanguageModel, MaskedLanguageModel


def test_what_is_compared_depends_on_model_device_and_time() -> None:
    blueprint = tiny_blueprint()
    assert attentions(blueprint, "cpu", 600)[0] == ("blockwise", "eager", "sdpa")
    assert attentions(blueprint, "cuda", 600)[0] == ("sdpa", "eager")
    masked = {"model": Scratch(family="modernbert", depth=1), "objective": MaskedLanguageModel()}
    assert attentions(blueprint.model_copy(update=masked), "cpu", 600)[0] == ("eager", "sdpa")
    assert attentions(tiny_blueprint(attention="eager"), "cpu", 600) == (("eager",), "user")
    recurrent = blueprint.model_copy(update={"model": Scratch(family="mamba2", depth=1)})
    assert attentions(recurrent, "cpu", 600) == (("eager",), "the only one for this model")
    hurried, reason = attentions(blueprint, "cpu", 60)
    assert hurried == ("blockwise",) and "from a budget of 450 s" in reason


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_real_workers_are_measured_once_and_a_cluster_says_how_many_it_has(
    fresh_home: Path, corpus_texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = some_tokens()
    write_shards(tokens.folder, corpus_texts)
    (fresh_home / "other").mkdir()
    tiny_run.tokenizer().save_pretrained(tokens.folder / "tokenizer")
    try:
        with stage("Plan the budget") as shown:
            workers = workers_of(Compute(workers=1))
            found = calibrate(tiny_blueprint(), tokens, workers, fresh_home, 600, shown)
            assert f"{found.attention} {found.rates[1]:,.0f} tokens/s" in found.attention_reason
            assert found.attention_reason.count("tokens/s") == 3
            assert found.peak_flops is not None and found.peak_flops > 1e9
            assert found.memory_gb[1] > 0.1
            assert found.probe.tokens > 10_000 and 1 < found.probe.test_bits < 5
            assert found.probe.test_error == 0  # all of so small a split is scored
            release_workers()  # who asks again is told what was measured, without workers
            assert calibrate(tiny_blueprint(), tokens, workers, fresh_home, 600, shown) == found
            workers = workers_of(Compute(workers=2))
            known = calibrate(
                tiny_blueprint(),
                tokens,
                workers,
                fresh_home / "other",
                600,
                shown,
                True,
                ("eager", "prior run x"),
            )
            assert (known.attention, known.attention_reason) == ("eager", "prior run x")
            model = tiny_run.write_model(fresh_home / "model", steps=3)
            documents = [np.array([0, *range(40, 60 + 9 * size)]) for size in range(4)]
            scored = workers.score(model, CausalLanguageModel(), documents, 32, None)
            alone = score_documents(load(model)[0], documents, 32, autocast(torch.device("cpu")))
            assert scored == pytest.approx(alone, rel=1e-6)
            assert known.probe.tokens < found.probe.tokens
        monkeypatch.setenv("RAY_ADDRESS", "auto")
        with pytest.raises(InputError, match=r"the cluster at RAY_ADDRESS has \d+ cores: ask for at most"):
            Compute(workers=1000).count()
        with pytest.raises(InputError, match="has 0 GPUs: use"):
            Compute(workers=1, device="cuda").count()
        assert Compute().count() >= 1
    finally:
        release_workers()
        stop_ray()
