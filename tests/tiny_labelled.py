"""A tiny labelled corpus with its sides and tokens: what augmenting needs, without the stages before it."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.packing import Packer, Texts, pack
from tasks.spelling import Spelling
from tests import tiny_run
from training.data import Shards
from training.model import Pretrained

LABELS = ("even", "odd")
SIDES = ("train", "train", "test", "train", "validation", None)


def words_of(number: int) -> list[str]:
    """Words that no other document has and that no token is, from none to 40; all that is before `w` is its name."""
    return [f"q{_spelt(number)}w{_spelt(word)}" for word in range(number % 41)]


def _spelt(number: int) -> str:
    return "".join("abcdefghij"[int(digit)] for digit in str(number))


def text_of(number: int) -> str:
    """The words in a line, or in two, the second with what is no word."""
    words = words_of(number)
    return " ".join(words[:20]) + "\n\n  " * (len(words) > 20) + ", \u00e9 ".join(words[20:])


def write_texts(folder: Path, texts: list[str]) -> Texts:
    """`documents.parquet` and `assignment.parquet`: three folds, labels in turn."""
    numbers = range(len(texts))
    corpus = {
        "id": [f"{number:016x}" for number in numbers],
        "label": [LABELS[number % 2] for number in numbers],
        "text": pa.array(texts, pa.large_string()),
        "bytes": [len(text.encode()) for text in texts],
    }
    sides = {
        "split": [SIDES[number % len(SIDES)] for number in numbers],
        "fold": [number // 2 % 3 for number in numbers],
    }
    folder.mkdir(parents=True, exist_ok=True)
    found = Texts(folder / "documents.parquet", folder / "assignment.parquet")
    pq.write_table(pa.table(corpus), found.corpus, row_group_size=100)
    pq.write_table(pa.table(sides), found.assignment)
    return found


def write_tokens(folder: Path, texts: Texts) -> Shards:
    """Shards as the stage before leaves them, by the tiny tokenizer."""
    tiny_run.tokenizer().save_pretrained(folder / "tokenizer")
    spelt = Spelling.of_checkpoint(Pretrained(name=str(folder / "tokenizer")), "masked")
    with Packer(folder, spelt.vocabulary, spelt.start_token, spelt.mask_token, LABELS) as packer:
        pack(texts, spelt.encoding(packer.dtype.name), packer, workers=1)
    return Shards(folder)
