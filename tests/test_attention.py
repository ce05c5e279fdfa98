import pytest
import torch

from training import attention
from training.model import Scratch, Shape


def logits_and_gradient(kind: str, tokens: torch.Tensor, bf16: bool) -> tuple[torch.Tensor, torch.Tensor]:
    model = Scratch(family="nanochat", depth=2).build(
        Shape(vocabulary=97, context=320, attention=kind), seed=0
    )
    torch.manual_seed(1)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        logits = model(input_ids=tokens, use_cache=False).logits.float()
    logits.square().sum().backward()
    return logits.detach(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("length", [1, 7, attention.BLOCK, 2 * attention.BLOCK + 5])
def test_blocks_give_what_eager_attention_gives(length: int) -> None:
    tokens = torch.randint(97, (2, length), generator=torch.Generator().manual_seed(0))
    for ours, eager in zip(
        logits_and_gradient(attention.NAME, tokens, False),
        logits_and_gradient("eager", tokens, False),
        strict=True,
    ):
        torch.testing.assert_close(ours, eager, rtol=1e-4, atol=1e-5 * float(eager.abs().max()))


def test_blocks_in_bf16_are_as_near_to_fp32_as_eager_attention_is() -> None:
    tokens = torch.randint(97, (2, 200), generator=torch.Generator().manual_seed(0))
    exact = logits_and_gradient("eager", tokens, False)
    for place, truth in enumerate(exact):
        ours = (logits_and_gradient(attention.NAME, tokens, True)[place] - truth).norm()
        eager = (logits_and_gradient("eager", tokens, True)[place] - truth).norm()
        assert ours < 1.3 * eager < 0.1 * truth.norm()


def test_padding_and_documents_are_respected() -> None:
    """What is not plainly causal goes another way, with the same result."""
    tokens = torch.randint(97, (2, 40), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(tokens)
    mask[0, :9] = 0
    found = []
    for kind in (attention.NAME, "eager"):
        model = Scratch(family="qwen3", depth=1).build(
            Shape(vocabulary=97, context=64, attention=kind), seed=0
        )
        model.model.layers[0].self_attn.o_proj.weight.data.normal_(generator=torch.Generator().manual_seed(3))
        found.append(model(input_ids=tokens, attention_mask=mask, use_cache=False).logits[:, 9:])
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)
