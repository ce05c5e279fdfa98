import json
import subprocess
import sys
from pathlib import Path
from typing import Literal, get_args

import pytest
import torch

from training.model import Scratch, Shape, autocast, count_parameters, hidden_parameters, width_of

FAMILIES = get_args(Scratch.model_fields["family"].annotation)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_model_gives_the_same_logits_in_a_bare_process(
    family: Literal["nanochat", "llama", "qwen3", "gpt2"], tmp_path: Path
) -> None:
    model = Scratch(family=family, depth=1).build(Shape(vocabulary=97, context=32), seed=1).eval()
    for parameter in model.parameters():  # zeroed projections would hide differences
        torch.nn.init.normal_(parameter, std=0.05)
    model.save_pretrained(tmp_path)
    tokens = [[1, 2, 3, 4, 5]]
    code = (
        "import json, sys, torch; from transformers import AutoModelForCausalLM as A;"
        "m = A.from_pretrained(sys.argv[1], attn_implementation='eager').eval();"
        f"print(json.dumps(m(torch.tensor({tokens})).logits.tolist()))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    elsewhere = torch.tensor(json.loads(out.stdout.splitlines()[-1]))
    torch.testing.assert_close(elsewhere, model(torch.tensor(tokens)).logits, rtol=0, atol=1e-6)


def test_a_new_model_predicts_every_token_alike() -> None:
    model = Scratch(depth=3).build(Shape(vocabulary=257, context=32), seed=0)
    residual = model.model(torch.tensor([[5, 6, 7]])).last_hidden_state
    alone = model.model(torch.tensor([[5]])).last_hidden_state
    torch.testing.assert_close(residual[:, :1], alone)  # zeroed projections: no token sees another
    torch.testing.assert_close(
        model.model(torch.tensor([[9, 5]])).last_hidden_state[:, 1], alone[:, 0], rtol=1e-5, atol=1e-6
    )


def test_depth_is_the_one_dial() -> None:
    assert [width_of(depth) for depth in (1, 4, 6, 12)] == [64, 192, 320, 576]
    model = Scratch(depth=4).build(Shape(vocabulary=257, context=32), seed=0)
    assert count_parameters(model) == hidden_parameters(4) + 2 * 257 * 192


def test_an_unsettled_depth_is_refused() -> None:
    with pytest.raises(ValueError, match=r"model\.depth"):
        Scratch().config(Shape(vocabulary=257, context=32))


def test_bf16_products_only_where_asked_for() -> None:
    a = torch.ones(2, 2)
    with autocast(torch.device("cpu"), "bf16")():
        assert (a @ a).dtype == torch.bfloat16
    with autocast(torch.device("cpu"), "fp32")():
        assert (a @ a).dtype == torch.float32
