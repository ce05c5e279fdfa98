"""Having a model write: prompts side by side, each as if it were alone.

Shapes: B rows written at once, T tokens of the longest, V vocabulary.
"""

import itertools
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from tokenizers.decoders import DecodeStream
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tasks.artifacts import InputError
from tasks.generate import context_of, load, start_token
from tasks.heads import USES, head_of
from tasks.told import Request, answer_all
from training.architectures import PRESETS

SMALL_PARAMETERS = 30_000_000  # by eye
ROWS, TOKENS = 32, 4096  # written at once, at most; of the longest times the rows


@dataclass(frozen=True)
class Wish:
    """How much to write, and how freely; temperature 0 always takes the likeliest token."""

    tokens: int = 200
    temperature: float = 0.8
    top_k: int | None = None
    seed: int | None = None


@dataclass
class _Row:
    """One text on its way; the model sees it from `start` on."""

    ids: list[int]
    start: int
    left: int
    dice: torch.Generator
    stream: DecodeStream
    pieces: list[str] = field(default_factory=list)

    @property
    def window(self) -> list[int]:
        return self.ids[self.start :]


def complete(model_folder: Path, prompt: str, wish: Wish) -> Iterator[str]:
    """The completion of `prompt`, piece by piece, as it is sampled; see `sample`.

    Raises InputError for a model that does not write.
    """
    model, tokenizer = load_writer(model_folder)
    return sample(model, tokenizer, prompt, wish)


def answer(model_folder: Path, prompt: str | None, wish: Wish, request: Request) -> bool:
    """Prints or writes how the model goes on with one prompt, or with all that the request names; whether it did.

    Of many, the n-th is drawn with the n-th seed from `wish.seed`. Raises InputError where there is no prompt.
    """
    if prompt is None or request.files or request.out:
        if prompt is not None:
            raise InputError("give a prompt or --file, and --out with --file or a pipe")
        model, tokenizer = load_writer(model_folder)
        done = itertools.count()

        def ask(prompts: Sequence[str]) -> list[dict[str, Any]]:
            made = write(model, tokenizer, prompts, [next(done) for _ in prompts], wish)
            return [{"prompt": p, "completion": c} for p, c in zip(prompts, made, strict=True)]

        return answer_all(request, "generate", "causal", ask, _headed)
    pieces = complete(model_folder, prompt, wish)
    if request.as_json:
        print(json.dumps({"prompt": prompt, "completion": "".join(pieces)}))
        return True
    print(prompt, end="", flush=True)
    for piece in pieces:
        print(piece, end="", flush=True)
    print()
    return True


def _headed(said: dict[str, Any]) -> str:
    """A text with its completion, under a line that says where it stands, as `head` has it."""
    text = f"no answer: {said['error']}" if "error" in said else said["prompt"] + said["completion"]
    return f"==> {said['source']}, text {said['position'] + 1} <==\n{text}"


def load_writer(model_folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model that writes, and its tokenizer. Raises InputError for any other."""
    model, tokenizer = load(model_folder)
    head = head_of(model.config)
    if head != "causal":
        raise InputError(
            f"the model is {USES[head].article_noun} and does not write: use `shoestring {USES[head].command}`"
        )
    return model, tokenizer


def sample(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: str, wish: Wish
) -> Iterator[str]:
    """The completion of `prompt`, piece by piece.

    Ends after `wish.tokens`, or where the model ends the document. The prompt opens a document; of a
    long text only the last context counts.
    """
    row = _row(model, tokenizer, prompt, wish, 0)
    told = 0
    while row.left:
        for _ in _advance(model, tokenizer, [row], wish):
            yield from row.pieces[told:]
            told = len(row.pieces)


def write(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    numbers: Sequence[int],
    wish: Wish,
) -> list[str]:
    """The completion of each prompt, as `sample` would write it with `wish.seed` and its number added.

    Equal but for rounding: a product of many rows may round another way than that of one.
    """
    rows = [_row(model, tokenizer, prompt, wish, n) for prompt, n in zip(prompts, numbers, strict=True)]
    side_by_side = ROWS if model.config.model_type in PRESETS else 1  # others may not know what padding is
    while waiting := sorted((row for row in rows if row.left), key=lambda row: -len(row.window)):
        chosen = waiting[: max(1, min(side_by_side, TOKENS // len(waiting[0].window)))]
        for _ in _advance(model, tokenizer, chosen, wish):
            pass
    return ["".join(row.pieces) for row in rows]


def _row(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: str, wish: Wish, number: int
) -> _Row:
    dice = torch.Generator()
    dice.manual_seed(wish.seed + number) if wish.seed is not None else dice.seed()
    spelt = tokenizer(prompt, add_special_tokens=False, split_special_tokens=True, verbose=False).input_ids
    ids = [start_token(tokenizer), *spelt]
    start = max(0, len(ids) - context_of(model, tokenizer))
    return _Row(ids, start, wish.tokens, dice, DecodeStream(ids=list(ids), skip_special_tokens=True))


@torch.inference_mode()
def _advance(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[_Row], wish: Wish
) -> Iterator[None]:
    """Writes on in all rows, token by token, until most have ended or one has filled the context.

    In fp32, as bf16 took twice as long a token on a CPU.
    """
    context, known = context_of(model, tokenizer), signature(model.forward).parameters
    ends = {start_token(tokenizer), tokenizer.eos_token_id}
    recurrent = "cache_params" in known
    memory = "cache_params" if recurrent else "past_key_values"
    inputs_BT, mask_BT = _padded(rows, start_token(tokenizer), model.device)
    padded, cache = bool((mask_BT == 0).any()), None
    options: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in known else {}
    with one_thread_if_small(model):
        while True:
            if padded and not (recurrent and cache is not None):
                options["attention_mask"] = mask_BT
            if padded and "position_ids" in known:
                places_BT = (mask_BT.cumsum(-1) - 1).clamp(min=0)
                options["position_ids"] = places_BT[:, -inputs_BT.shape[1] :]
            seen = model(input_ids=inputs_BT, use_cache=True, **{memory: cache}, **options)
            options.pop("attention_mask", None)
            cache = seen[memory]
            logits_BV = seen.logits[:, -1].float().cpu()
            for row, logits_V in zip(rows, logits_BV, strict=True):
                if row.left:
                    _take(row, choose(logits_V, wish.temperature, wish.top_k, row.dice), ends, tokenizer)
            yield
            alive = [row for row in rows if row.left]
            full = [row for row in alive if len(row.window) > context]
            for row in full:  # positions end here: go on from the last half
                row.start = len(row.ids) - context // 2
            if full or 2 * len(alive) <= len(rows):
                return
            inputs_BT = torch.tensor([[row.ids[-1]] for row in rows], device=model.device)
            mask_BT = torch.cat([mask_BT, torch.ones_like(inputs_BT)], dim=1)


def _padded(rows: Sequence[_Row], padding: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """int64 [B, T] each: what the rows show, moved to the right, and 1 where that is theirs."""
    width = max(len(row.window) for row in rows)
    lacking = [width - len(row.window) for row in rows]
    inputs_BT = torch.tensor(
        [[padding] * lack + row.window for row, lack in zip(rows, lacking, strict=True)], device=device
    )
    mask_BT = torch.ones_like(inputs_BT)
    for number, lack in enumerate(lacking):
        mask_BT[number, :lack] = 0
    return inputs_BT, mask_BT


def _take(row: _Row, token: int, ends: set[int | None], tokenizer: PreTrainedTokenizerBase) -> None:
    if token in ends:
        row.left = 0
        return
    row.ids.append(token)
    row.left -= 1
    if piece := row.stream.step(tokenizer.backend_tokenizer, token):
        row.pieces.append(piece)


@contextmanager
def one_thread_if_small(model: PreTrainedModel) -> Iterator[None]:
    """Keeps single-token steps of a small model on one core: 2 ms a token, and 50 with two on a busy machine."""
    threads = torch.get_num_threads()
    if model.num_parameters() < SMALL_PARAMETERS:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def choose(logits_V: torch.Tensor, temperature: float, top_k: int | None, dice: torch.Generator) -> int:
    """One token, drawn from the `top_k` likeliest at this temperature."""
    if temperature <= 0:
        return int(logits_V.argmax())
    if top_k:
        logits_V = logits_V.masked_fill(
            logits_V < logits_V.topk(min(top_k, len(logits_V))).values[-1], -torch.inf
        )
    return int(torch.multinomial(torch.softmax(logits_V / temperature, dim=-1), 1, generator=dice))
