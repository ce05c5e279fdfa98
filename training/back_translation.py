"""Documents translated to another language and back, by two checkpoints of the user's."""

import re
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES

from training.pretrained import family_of, folder_of, tokenizer_of
from training.rewriting import Rewriter, Rewriting

# What stays as it is between two pieces that are translated: the blank after a sentence's end, or a new line.
BETWEEN = re.compile(r"((?<=[.!?\u2026])\s+|(?<=[\u3002\uff01\uff1f])|\s*\n\s*)")
MOST_WORDS = 100  # of a piece; translation models have read sentences, by eye
ROWS = 32  # sentences at once, by eye
LONGER = 2, 16  # a translation has at most so many times the tokens, and so many more, by eye


class BackTranslation(Rewriting):
    """Tells documents as they come back from another language (Sennrich et al. 2016; Edunov et al. 2018)."""

    kind: Literal["back_translation"] = "back_translation"
    there: str = Field(
        min_length=1,
        description="A translation checkpoint that reads the documents' language: a folder, or a name on the Hub, with"
        " safetensors and without code of its own. On a CPU, count a second for each sentence of each copy.",
        examples=["Helsinki-NLP/opus-mt-en-fr"],
    )
    back: str = Field(
        min_length=1,
        description="A checkpoint that translates back.",
        examples=["Helsinki-NLP/opus-mt-fr-en"],
    )
    temperature: float = Field(
        default=0.8,  # by eye
        gt=0,
        le=2,
        description="How freely words are drawn. Below 0.5, copies are alike; above 1, some say something else.",
    )

    def sources(self) -> tuple[str, ...]:
        """Both checkpoints."""
        return self.there, self.back

    def check(self) -> None:
        """Raises ValueError where a checkpoint is not there, is refused, or does not translate."""
        for name in self.sources():
            family = family_of(folder_of(name, None))
            if family not in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES:
                raise ValueError(f"{name} is a {family}, which does not translate: take one such as marian")

    def rewriter(self, device: str) -> Rewriter:
        """What translates there and back. Raises ValueError too where a tokenizer cannot be read."""
        self.check()
        legs = [_Translator(name, device, self.temperature) for name in self.sources()]

        def told(texts: Sequence[str], dice: np.random.Generator) -> list[str]:
            parts = [in_pieces(text) for text in texts]
            pieces = [piece for part in parts for piece in part[::2]]
            for leg in legs:
                pieces = leg.translated(pieces, int(dice.integers(2**62)))
            rest = iter(pieces)
            return ["".join(next(rest) if at % 2 == 0 else p for at, p in enumerate(part)) for part in parts]

        return told


def in_pieces(text: str) -> list[str]:
    """Sentences, or so, at even places, and what stands between them at odd ones; joined, they are the text."""
    found: list[str] = []
    for at, part in enumerate(BETWEEN.split(text)):
        words = re.split(r"(\s+)", part) if at % 2 == 0 else []
        if len(words) // 2 < MOST_WORDS:
            found.append(part)
            continue
        for start in range(0, len(words), 2 * MOST_WORDS):
            found += ["".join(words[start : start + 2 * MOST_WORDS - 1])]
            found += words[start + 2 * MOST_WORDS - 1 : start + 2 * MOST_WORDS]
    return found


class _Translator:
    """One checkpoint at work."""

    def __init__(self, name: str, device: str, temperature: float) -> None:
        from transformers import AutoModelForSeq2SeqLM

        self._tokenizer, self._temperature = tokenizer_of(name), temperature
        self._model: Any = AutoModelForSeq2SeqLM.from_pretrained(
            folder_of(name, None),
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
        )
        self._model.to(device).eval()
        known = (
            getattr(self._model.config, "max_position_embeddings", None) or self._tokenizer.model_max_length
        )
        self._most = int(min(known, self._tokenizer.model_max_length))

    @torch.inference_mode()
    def translated(self, pieces: Sequence[str], seed: int) -> list[str]:
        """The pieces in the other language, drawn by this seed; one that comes out blank stays."""
        found, device = list(pieces), self._model.device
        order = sorted((n for n, piece in enumerate(pieces) if piece.strip()), key=lambda n: len(pieces[n]))
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            for start in range(0, len(order), ROWS):
                chosen = order[start : start + ROWS]
                batch = self._tokenizer(
                    [pieces[n] for n in chosen],
                    return_tensors="pt",
                    padding=True,
                    truncation=True,
                    max_length=self._most,
                    return_token_type_ids=False,
                ).to(device)
                times, more = LONGER
                ids = self._model.generate(
                    **batch,
                    do_sample=True,
                    num_beams=1,
                    temperature=self._temperature,
                    max_new_tokens=min(self._most - 1, times * batch["input_ids"].shape[1] + more),
                )
                told = self._tokenizer.batch_decode(ids, skip_special_tokens=True)
                for number, piece in zip(chosen, told, strict=True):
                    found[number] = piece.strip() or pieces[number]
        return found
