"""Causal attention for CPUs: a block of queries at a time, and of the keys only those that it may see.

Shapes: N rows times heads, T positions, D a head's width.
"""

from functools import lru_cache
from typing import Any, Final

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME: Final = "blockwise"
BLOCK = 128  # queries; smaller blocks skip more keys, but their products are slower; see DECISIONS


class CausalBlocks(torch.autograd.Function):
    """softmax(scale * q k^T, causal) v, without the upper right of the scores."""

    @staticmethod
    def forward(
        ctx: Any, q_NTD: torch.Tensor, k_NTD: torch.Tensor, v_NTD: torch.Tensor, scale: float
    ) -> torch.Tensor:
        out_NTD, kept = torch.empty_like(q_NTD), []
        for start, end, mask in _blocks(q_NTD.shape[1], q_NTD.dtype):
            scores = torch.baddbmm(mask, q_NTD[:, start:end], k_NTD[:, :end].mT, alpha=scale)
            shares = scores.softmax(-1)
            torch.bmm(shares, v_NTD[:, :end], out=out_NTD[:, start:end])
            kept.append(shares)
        ctx.save_for_backward(q_NTD, k_NTD, v_NTD, *kept)
        ctx.scale = scale
        return out_NTD

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (do_NTD,) = upstream
        q_NTD, k_NTD, v_NTD, *kept = ctx.saved_tensors
        dq_NTD, dk_NTD, dv_NTD = torch.empty_like(q_NTD), torch.zeros_like(k_NTD), torch.zeros_like(v_NTD)
        for (start, end, _), shares in zip(_blocks(q_NTD.shape[1], q_NTD.dtype), kept, strict=True):
            own = do_NTD[:, start:end]
            dshares = torch.bmm(own, v_NTD[:, :end].mT)
            dscores = torch._softmax_backward_data(dshares, shares, -1, shares.dtype)
            dv_NTD[:, :end].baddbmm_(shares.mT, own)
            dk_NTD[:, :end].baddbmm_(dscores.mT, q_NTD[:, start:end], alpha=ctx.scale)
            torch.bmm(dscores, k_NTD[:, :end], out=dq_NTD[:, start:end])
        return dq_NTD.mul_(ctx.scale), dk_NTD, dv_NTD, None


@lru_cache(maxsize=8)
def _blocks(length: int, dtype: torch.dtype) -> list[tuple[int, int, torch.Tensor]]:
    """(first query, end, what to add to the block's scores: -inf where a key lies ahead)."""
    found = []
    for start in range(0, length, BLOCK):
        end = min(start + BLOCK, length)
        ahead = torch.ones(end - start, end, dtype=torch.bool).triu(start + 1)
        mask = torch.zeros(1, end - start, end, dtype=dtype).masked_fill(ahead, -torch.inf)
        found.append((start, end, mask))
    return found


def blockwise_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """As transformers' attention functions: [B, H, T, D] each, to [B, T, H, D].

    What is not plainly causal (a mask, a cache, dropout of shares) goes to sdpa.
    """
    plain = attention_mask is None and dropout == 0 and query.shape[2] == key.shape[2]
    if not plain or not getattr(module, "is_causal", False):
        out, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **others
        )
        return out, None
    groups = query.shape[1] // key.shape[1]
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    dtype = query.dtype
    if torch.is_autocast_enabled(query.device.type):
        dtype = torch.get_autocast_dtype(query.device.type)
    q, k, v = (tensor.to(dtype).flatten(0, 1).contiguous() for tensor in (query, key, value))
    out = CausalBlocks.apply(q, k, v, scaling).view(query.shape)  # type: ignore[no-untyped-call]
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, blockwise_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
