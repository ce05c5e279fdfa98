"""Words replaced by others: of a thesaurus, or such as a masked language model fills the gap with."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from transformers import PreTrainedModel

from training.architectures import check_head
from training.pretrained import folder_of, load_saved, read_config, tokenizer_of
from training.rewriting import WORD, Rewriter, Rewriting, how_many, spliced
from training.words import Blanks

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LIKELIEST = 10  # words that a model may choose from; more change the meaning more often, by eye
BATCH_TOKENS = 2048  # at once, which bounds memory
MOST_CONTEXT = 512  # tokens that a model is shown around a gap; more tell it little

Thesaurus = dict[str, tuple[str, ...]]


class ThesaurusSynonyms(Rewriting):
    """Replaces words by synonyms from a file of yours (Wei and Zou 2019)."""

    kind: Literal["thesaurus_synonyms"] = "thesaurus_synonyms"
    thesaurus: str = Field(
        min_length=1,
        description="A UTF-8 text file; each line holds words that mean the same, with commas between: big, large."
        " Words that are in no line stay.",
        examples=["synonyms.txt"],
    )
    words: float = Field(
        default=0.1,  # alpha of Wei and Zou 2019
        gt=0,
        le=1,
        description="Share of a document's words replaced, one at least. Above about 0.3, labels stop fitting.",
    )

    def sources(self) -> tuple[str, ...]:
        """The file."""
        return (self.thesaurus,)

    def check(self) -> None:
        """Raises ValueError as `read_thesaurus` does."""
        read_thesaurus(Path(self.thesaurus).expanduser())

    def rewriter(self, device: str) -> Rewriter:
        """What replaces words."""
        return partial(_told_by, read_thesaurus(Path(self.thesaurus).expanduser()), self.words)


def read_thesaurus(path: Path) -> Thesaurus:
    """Each word's synonyms, of all its lines, in small letters.

    Raises ValueError, naming the line, where the file is not there, is no UTF-8, or holds a line of a single word.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as problem:
        raise ValueError(f"thesaurus {path} cannot be read: {problem}") from None
    found: dict[str, dict[str, None]] = {}
    for number, line in enumerate(lines, start=1):
        group = dict.fromkeys(word for part in line.split(",") if (word := " ".join(part.lower().split())))
        if len(group) == 1:
            raise ValueError(
                f"thesaurus {path}, line {number}: {next(iter(group))!r} stands alone; write words that mean the"
                " same on one line, with commas between"
            )
        for word in group:
            found.setdefault(word, {}).update(group)
    if not found:
        raise ValueError(f"thesaurus {path} is empty: write words that mean the same on one line")
    return {word: tuple(other for other in group if other != word) for word, group in found.items()}


def _told_by(
    thesaurus: Thesaurus, share: float, texts: Sequence[str], dice: np.random.Generator
) -> list[str]:
    told = []
    for text in texts:
        words = list(WORD.finditer(text))
        able = [word for word in words if word[0].lower() in thesaurus]
        chosen = sorted(dice.permutation(len(able))[: how_many(share, len(words), len(able))].tolist())
        known = [thesaurus[able[number][0].lower()] for number in chosen]
        others = [synonyms[int(dice.integers(len(synonyms)))] for synonyms in known]
        told.append(spliced(text, [able[number].span() for number in chosen], others))
    return told


class ModelSynonyms(Rewriting):
    """Replaces words by such as a masked language model puts there (Kobayashi 2018)."""

    kind: Literal["model_synonyms"] = "model_synonyms"
    model: str = Field(
        min_length=1,
        description="A masked model: a folder, such as `shoestring export` makes of one, or a name on the Hub. What it"
        " puts in fits the sentence, though not always the label: it may turn good into bad.",
        examples=["my-models/masked", "answerdotai/ModernBERT-base"],
    )
    words: float = Field(
        default=0.1,  # as of a thesaurus
        gt=0,
        le=0.5,
        description="Share of a document's words replaced, one at least. Above about 0.3, the model has too little"
        " left to go by.",
    )

    def sources(self) -> tuple[str, ...]:
        """The checkpoint."""
        return (self.model,)

    def check(self) -> None:
        """Raises ValueError where the checkpoint is not there, is refused, or fills no gaps."""
        check_head(read_config(folder_of(self.model, None)).model_type, "masked")

    def rewriter(self, device: str) -> Rewriter:
        """What replaces words. Raises ValueError too where the tokenizer has no mask token or is of the slow kind."""
        self.check()
        tokenizer = tokenizer_of(self.model)
        if tokenizer.mask_token_id is None or not tokenizer.is_fast:
            raise ValueError(f"{self.model} has no tokenizer of the fast kind with a mask token")
        model = load_saved(folder_of(self.model, None), "masked").to(device)
        return _Filler(model, tokenizer, self.words).told


class _Gap(NamedTuple):
    """A word to be replaced: its text's number, where it stands there, and its mask's place in the window."""

    text: int
    span: tuple[int, int]
    place: int


class _Filler:
    """A masked model at work."""

    def __init__(self, model: PreTrainedModel, tokenizer: "PreTrainedTokenizerBase", share: float) -> None:
        self._model, self._tokenizer, self._share = model, tokenizer, share
        known = getattr(model.config, "max_position_embeddings", MOST_CONTEXT)
        self._context = min(MOST_CONTEXT, known, tokenizer.model_max_length)
        starts = (tokenizer.bos_token_id, tokenizer.cls_token_id)
        self._opening = [token for token in starts if token is not None][:1]
        opens = Blanks.of(tokenizer.convert_ids_to_tokens(range(len(tokenizer)))).opens
        self._words = {
            token: word
            for token in np.flatnonzero(opens).tolist()
            if (word := tokenizer.decode([token]).strip()).isalpha()
        }

    def told(self, texts: Sequence[str], dice: np.random.Generator) -> list[str]:
        """A copy of each text."""
        windows = [
            window for number, text in enumerate(texts) for window in self._windows(number, text, dice)
        ]
        spans: list[list[tuple[int, int]]] = [[] for _ in texts]
        others: list[list[str]] = [[] for _ in texts]
        for gap, ranked in sorted(self._filled(windows), key=lambda pair: pair[0][:2]):
            start, stop = gap.span
            able = [pair for pair in ranked if pair[0].lower() != texts[gap.text][start:stop].lower()]
            if able:
                chances = np.cumsum([chance for _, chance in able])
                at = int(np.searchsorted(chances, dice.random() * chances[-1], side="right"))
                spans[gap.text].append(gap.span)
                others[gap.text].append(able[min(at, len(able) - 1)][0])
        return [spliced(*one) for one in zip(texts, spans, others, strict=True)]

    def _windows(
        self, number: int, text: str, dice: np.random.Generator
    ) -> Iterator[tuple[list[int], list[_Gap]]]:
        """The text's ids with a mask for each word to be replaced, cut to the model's context; only those with one."""
        encoded = self._tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, split_special_tokens=True
        )
        words = list(WORD.finditer(text))
        able = [(word.span(), tokens) for word, tokens in aligned(text, words, encoded["offset_mapping"])]
        chosen = dice.permutation(len(able))[: how_many(self._share, len(words), len(able))]
        ids, spans, end = list[int](), list[tuple[int, tuple[int, int]]](), 0
        for at in sorted(chosen.tolist()):
            span, (first, last) = able[at]
            ids += encoded["input_ids"][end:first]
            spans.append((len(ids), span))
            ids.append(self._tokenizer.mask_token_id)
            end = last
        ids += encoded["input_ids"][end:]
        length = self._context - len(self._opening)
        for start in sorted({place // length * length for place, _ in spans}):
            gaps = [
                _Gap(number, span, len(self._opening) + place - start)
                for place, span in spans
                if start <= place < start + length
            ]
            yield self._opening + ids[start : start + length], gaps

    @torch.inference_mode()
    def _filled(
        self, windows: list[tuple[list[int], list[_Gap]]]
    ) -> Iterator[tuple[_Gap, list[tuple[str, float]]]]:
        """Each gap with the likeliest words and their chances."""
        windows = sorted(windows, key=lambda window: len(window[0]))
        rows = max(1, BATCH_TOKENS // len(windows[-1][0])) if windows else 1
        barred = torch.ones(self._model.get_output_embeddings().weight.shape[0], dtype=torch.bool)
        barred[list(self._words)] = False
        for at in range(0, len(windows), rows):
            batch = windows[at : at + rows]
            width = max(len(ids) for ids, _ in batch)
            fill = self._tokenizer.pad_token_id or 0
            inputs_BT = torch.tensor([ids + [fill] * (width - len(ids)) for ids, _ in batch])
            mask_BT = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids, _ in batch])
            device = self._model.device
            logits_BTV = self._model(input_ids=inputs_BT.to(device), attention_mask=mask_BT.to(device)).logits
            for row, (_, gaps) in enumerate(batch):
                logits_GV = logits_BTV[row, [gap.place for gap in gaps]].float().cpu()
                chances, tokens = logits_GV.masked_fill(barred, -torch.inf).softmax(-1).topk(LIKELIEST + 1)
                for gap, of_gap, ids in zip(gaps, chances.tolist(), tokens.tolist(), strict=True):
                    yield (
                        gap,
                        [(self._words[i], c) for i, c in zip(ids, of_gap, strict=True) if i in self._words],
                    )


def aligned(
    text: str, words: Sequence[Any], offsets: Sequence[tuple[int, int]]
) -> Iterator[tuple[Any, tuple[int, int]]]:
    """The words that are whole tokens, each with its first token and the one after its last."""
    first, last = dict[int, int](), dict[int, int]()
    for number, (start, stop) in enumerate(offsets):
        blank = len(text[start:stop]) - len(text[start:stop].lstrip())
        first.setdefault(start + blank, number)
        last[stop] = number + 1
    for word in words:
        if word.start() in first and word.end() in last:
            yield word, (first[word.start()], last[word.end()])
