"""Labelled texts for the benchmarks, as lists, as the shards that we train on, and for TF-IDF.

Without a file they come from the standard library: functions, and which package each comes from.
"""

import ast
import hashlib
import json
import sysconfig
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from tests.benchmarks.byte_level import LEFT_OUT
from training.data import Split

START, MASK = "<|start|>", "<|mask|>"  # ids 0 and 1
VOCABULARY = 8192  # of few texts, most words whole
DEV_SHARE = 0.1  # of a single file
WATCHED_SHARE = 0.05  # of the training texts, which ours keeps to look at; the others train on all
PACKAGES, FUNCTIONS_EACH, LEAST_FUNCTIONS = 10, 600, 100
FUNCTION_BYTES = (100, 2000)

MOST_FEATURES = 50_000  # of TF-IDF; more take minutes with ten labels

Example = tuple[str, str]  # text, label


@dataclass(frozen=True)
class Labelled:
    """Texts with labels to learn from, and others to be judged on."""

    name: str
    train: list[Example]
    dev: list[Example]

    @property
    def labels(self) -> list[str]:
        """The labels that can be learnt, in the order of their ids."""
        return sorted({label for _, label in self.train})

    @property
    def digest(self) -> str:
        """16 hexadecimal digits of the SHA-256 of all of it."""
        return hashlib.sha256(json.dumps([self.train, self.dev]).encode()).hexdigest()[:16]


def read_labelled(path: Path | None) -> Labelled:
    """A folder with train.tsv and dev.tsv, a file of which a tenth judges, or the library's functions.

    Lines are text<TAB>label. Raises SystemExit where that is not so.
    """
    if path is None:
        return Labelled("functions of the standard library", *divided(stdlib_functions()))
    if path.is_dir():
        return Labelled(path.name, read_lines(path / "train.tsv"), read_lines(path / "dev.tsv"))
    return Labelled(path.name, *divided(read_lines(path)))


def read_lines(path: Path) -> list[Example]:
    """The examples of a file, in its order."""
    if not path.is_file():
        raise SystemExit(f"--labelled: there is no file {path}")
    examples = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").split("\n"), start=1):
        text, tab, label = line.rstrip("\r").rpartition("\t")
        if tab:
            examples.append((text, label))
        elif line.strip():
            raise SystemExit(f"--labelled: line {number} of {path} is not text<TAB>label")
    if len({label for _, label in examples}) < 2:
        raise SystemExit(f"--labelled: {path} has fewer than two labels")
    return examples


def divided(examples: Sequence[Example]) -> tuple[list[Example], list[Example]]:
    """Train and dev: of each label the same share, chosen by the texts' hashes; a text is on one side only."""
    ordered = sorted(set(examples), key=lambda example: hashlib.sha256(example[0].encode()).digest())
    counts = Counter(label for _, label in ordered)
    seen: Counter[str] = Counter()
    sides: tuple[list[Example], list[Example]] = ([], [])
    for example in ordered:
        sides[seen[example[1]] < round(DEV_SHARE * counts[example[1]])].append(example)
        seen[example[1]] += 1
    return sides


def stdlib_functions() -> list[Example]:
    """Functions of this Python's own library, labelled with their top-level package; the largest packages."""
    library = Path(sysconfig.get_path("stdlib"))
    found: dict[str, list[str]] = {}
    for path in sorted(library.rglob("*.py")):
        parts = path.relative_to(library).parts
        if LEFT_OUT & set(parts):
            continue
        source = path.read_text(encoding="utf-8", errors="replace")
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                text = ast.get_source_segment(source, node) or ""
                if FUNCTION_BYTES[0] <= len(text) <= FUNCTION_BYTES[1]:
                    found.setdefault(parts[0].removesuffix(".py"), []).append(text)
    largest = sorted(found, key=lambda name: (-len(set(found[name])), name))[:PACKAGES]
    return [
        (text, name)
        for name in largest
        if len(set(found[name])) >= LEAST_FUNCTIONS
        for text in sorted(set(found[name]), key=lambda text: hashlib.sha256(text.encode()).digest())[
            :FUNCTIONS_EACH
        ]
    ]


def learn_tokenizer(texts: Sequence[str], vocabulary: int = VOCABULARY) -> Tokenizer:
    """Byte-level byte pairs of these texts; every encoding starts with START."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)  # the first word as any other
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[START, MASK],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    backend.post_processor = processors.TemplateProcessing(
        single=f"{START} $A", special_tokens=[(START, backend.token_to_id(START))]
    )
    return backend


def write_shards(
    folder: Path, backend: Tokenizer, sides: dict[Split, Sequence[Example]], labels: Sequence[str]
) -> None:
    """Shards as `training.data` reads them; a label that is not among `labels` becomes none."""
    folder.mkdir(parents=True, exist_ok=True)
    for side, examples in sides.items():
        encoded = [encoding.ids for encoding in backend.encode_batch_fast([text for text, _ in examples])]
        np.concatenate([np.zeros(0), *encoded]).astype(np.uint16).tofile(folder / f"{side}.bin")
        lengths = [len(ids) for ids in encoded]
        numbers = [labels.index(label) if label in labels else -1 for _, label in examples]
        sizes = [len(text.encode()) for text, _ in examples]
        rows = zip(np.cumsum([0, *lengths[:-1]]), lengths, sizes, [0] * len(sizes), numbers, strict=True)
        np.save(folder / f"{side}.npy", np.array(list(rows), np.int64).reshape(-1, 5))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=START,
        eos_token=START,
        cls_token=START,
        pad_token=START,
        mask_token=MASK,
    )
    tokenizer.save_pretrained(folder / "tokenizer")
    header = {
        "dtype": "uint16",
        "vocabulary": backend.get_vocab_size(),
        "start_token": backend.token_to_id(START),
        "mask_token": backend.token_to_id(MASK),
        "labels": list(labels),
    }
    (folder / "shards.json").write_text(json.dumps(header))


def sides_of(data: Labelled, texts: Sequence[str] = ()) -> dict[Split, Sequence[Example]]:
    """What ours trains on, looks at, and is judged on; `texts` without labels train, too."""
    kept = round(WATCHED_SHARE * len(data.train))
    order = np.random.default_rng(0).permutation(len(data.train)).tolist()
    watched, trained = [[data.train[n] for n in part] for part in (order[:kept], order[kept:])]
    return {"train": [*trained, *((text, "") for text in texts)], "validation": watched, "test": data.dev}


def tfidf(data: Labelled) -> list[str]:
    """What logistic regression over TF-IDF of words and pairs of words says of the dev texts.

    How strongly it is held back is chosen by three folds of the training texts.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline

    texts, labels = zip(*data.train, strict=True)
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, max_features=MOST_FEATURES)
    line = make_pipeline(words, LogisticRegression(max_iter=1000))
    chosen = GridSearchCV(line, {"logisticregression__C": [1, 10]}, cv=3).fit(texts, labels)
    return [str(label) for label in chosen.predict([text for text, _ in data.dev])]


def judged(said: Sequence[str], data: Labelled) -> dict[str, float]:
    """Accuracy and macro-F1 on the dev texts, in percent."""
    from sklearn.metrics import accuracy_score, f1_score

    right = [label for _, label in data.dev]
    return {
        "accuracy": 100 * float(accuracy_score(right, said)),
        "macro-F1": 100 * float(f1_score(right, said, average="macro")),
    }
