"""How text is spelt in tokens: by a tokenizer learnt on it, or by the one that a checkpoint brings along."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from tasks.artifacts import InputError
from tasks.documents import below, digest
from tasks.encoding import Slow, engine_of
from tasks.packing import Encoding
from tasks.store import content_key
from training.budget import vocabulary_rule
from training.config import AnyOf, Choice
from training.model import Head, Pretrained
from training.pretrained import tokenizer_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

START = "<|endoftext|>"  # opens every document, and so ends the one before; its id is 0
MASK = "<|mask|>"  # hides a token, where a model fills gaps; its id is 1
BYTE_VOCABULARY = 257  # the bytes and the start token
TOKENIZER_FILES = {".json", ".txt", ".model"}


class BytePairs(Choice):
    """Byte-level byte-pair encoding, learnt on the train split: lossless for any text."""

    kind: Literal["byte_pairs"] = "byte_pairs"
    vocabulary: int | None = Field(
        default=None,
        ge=BYTE_VOCABULARY,
        le=262_144,
        description="Number of tokens. More say more bytes each, but each step costs more and rare ones are"
        " learnt badly. Empty: what suits the text and the budget.",
    )

    def size(self, corpus_bytes: int, seconds: float) -> int:
        """How many tokens to aim at; a small corpus may yield fewer."""
        return self.vocabulary or max(BYTE_VOCABULARY, vocabulary_rule(corpus_bytes, seconds))

    def learn(self, texts: Iterable[str], size: int, special: Sequence[str] = (START,)) -> Backend:
        """A tokenizer of at most `size` tokens, learnt from `texts`; the special ones have the first ids."""
        backend = _byte_level()
        trainer = trainers.BpeTrainer(
            vocab_size=size,
            min_frequency=2,
            special_tokens=list(special),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        backend.train_from_iterator(texts, trainer)
        return backend


class Bytes(Choice):
    """A token for each byte: nothing to learn, the smallest output layer, the longest sequences."""

    kind: Literal["bytes"] = "bytes"

    def size(self, corpus_bytes: int, seconds: float) -> int:
        """The bytes and the start token; a mask token comes on top."""
        return BYTE_VOCABULARY

    def learn(self, texts: Iterable[str], size: int, special: Sequence[str] = (START,)) -> Backend:
        """The same for all texts."""
        return BytePairs().learn([], BYTE_VOCABULARY, special)


Tokenizer = Annotated[
    BytePairs | Bytes,
    Field(
        discriminator="kind",
        description="How text is cut into tokens. A checkpoint brings its own, and this is not used.",
    ),
    AnyOf(),
]


@dataclass(frozen=True)
class Spelling:
    """A tokenizer, ready to encode: what is saved beside the model, and what each stage must know of it."""

    saved: "PreTrainedTokenizerBase"
    vocabulary: int
    start_token: int
    mask_token: int | None
    exact: bool  # ours: whatever it encodes, it gives back

    @classmethod
    def learnt(cls, tokenizer: Tokenizer, texts: Iterable[str], size: int, head: Head) -> Self:
        """The tokenizer learnt from `texts`, with a mask token where gaps are to be filled.

        Its folder loads with `AutoTokenizer`; called on a text, it puts the start token first.
        """
        from transformers import PreTrainedTokenizerFast  # takes a second

        masked = head == "masked"
        backend = tokenizer.learn(texts, size, (START, MASK) if masked else (START,))
        named = {"bos_token": START, "eos_token": START}
        if head != "causal":
            named |= {"cls_token": START, "pad_token": START}
        if masked:
            named |= {"mask_token": MASK}
        saved = PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False, **named)
        return cls(saved, backend.get_vocab_size(), 0, 1 if masked else None, exact=True)

    @classmethod
    def of_checkpoint(cls, model: Pretrained, head: Head) -> Self:
        """The tokenizer that a checkpoint was trained with; its start token is also its `bos_token`.

        Raises InputError where there is none, where it wants code of its own, or lacks a start or mask token.
        """
        try:
            saved = tokenizer_of(model.name, model.revision)
        except ValueError as problem:
            raise InputError(
                f"model.name: {model.name} has no tokenizer that can be read here: {problem}"
            ) from None
        start = saved.bos_token_id if saved.bos_token_id is not None else saved.cls_token_id
        lacks = "no tokenizer of the fast kind" if not saved.is_fast else None
        if len(saved) <= len(saved.all_special_ids):  # transformers makes an empty one where there is none
            lacks = "no tokenizer"
        elif start is None:
            lacks = "a tokenizer without a start token (bos_token or cls_token)"
        elif head == "masked" and saved.mask_token_id is None:
            lacks = "a tokenizer without a mask token, which filling gaps needs"
        if lacks:
            raise InputError(f"model.name: {model.name} has {lacks}. Choose another checkpoint.")
        saved.bos_token = saved.convert_ids_to_tokens(start)
        if saved.pad_token_id is None:
            saved.pad_token = saved.bos_token
        saved.backend_tokenizer.no_truncation()
        saved.backend_tokenizer.no_padding()
        mask = saved.mask_token_id if head == "masked" else None
        return cls(saved, len(saved), start, mask, exact=False)

    def encoding(self, dtype: str) -> Encoding:
        """What encodes texts as this does, in any process: ids of this dtype."""
        backend: Backend = self.saved.backend_tokenizer
        return Encoding(engine_of(backend) if self.exact else Slow(backend), self.start_token, dtype)

    def save(self, folder: Path) -> None:
        """Writes a folder that `AutoTokenizer.from_pretrained` loads."""
        self.saved.save_pretrained(str(folder))


def checkpoint_key(model: Pretrained) -> str:
    """Names a checkpoint's tokenizer by its coordinates, and by its files where it is a folder here."""
    place = Path(model.name).expanduser()
    files = below(place, TOKENIZER_FILES) if place.is_dir() else []
    return content_key(model.name, model.revision, [(path.name, digest(path)) for path in files])


def _byte_level() -> Backend:
    """Bytes before any merge, split into words as GPT-2 does; each text is opened by the start token."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.TemplateProcessing(
        single=f"{START} $A", pair=f"{START} $A {START} $B", special_tokens=[(START, 0)]
    )
    return backend
