"""Tokenizers lose nothing, shards hold what `training.data` reads, and a second run reads the store."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import pre_tokenizers
from transformers import AutoTokenizer

from tasks import packing
from tasks import tokens as tokens_module
from tasks.artifacts import InputError, Splits, Tokens
from tasks.clean import Cleaning, clean_corpus
from tasks.packing import Packer, Texts
from tasks.sides import Validation
from tasks.source import Files
from tasks.spelling import MASK, START, BytePairs, Bytes, Spelling, Tokenizer
from tasks.split import split_corpus
from tasks.store import stored
from tasks.tokens import tokenize_corpus, tokens_key
from training.config import Choice
from training.data import BYTES, FOLD, LABEL, LENGTH, Shards, Slice, Split, Stream
from training.model import Pretrained, Scratch
from training.objectives import CausalLanguageModel, MaskedLanguageModel, Objective, SequenceClassification

CLOCK = SimpleNamespace(like_seconds=60.0)
CAUSAL, MASKED, CLASSIFY = CausalLanguageModel(), MaskedLanguageModel(), SequenceClassification()
FAMILY = get_args(get_args(Tokenizer)[0])
PLACES = ["Ghent", "Łódź", "東京", "Reykjavík", "Bamako 🌍"]


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> Splits:
    folder = tmp_path_factory.mktemp("tokens")
    weather = "it's   raining\t{} times <|endoftext|>\n"
    rows = [
        {
            "text": f"{'a' * (n % 97)} Letter {n} from {PLACES[n % 5]}:\n\n    {weather.format(n * n)}" * 4,
            "place": PLACES[n % 5],
        }
        for n in range(600)
    ]
    (folder / "letters.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHOESTRING_HOME", str(folder / "home"))
        source = Files(paths=(str(folder / "letters.jsonl"),), label_column="place")
        corpus = clean_corpus.fn(source, Cleaning(preset="none", duplicates="equal"))
        return split_corpus.fn(corpus, Validation(test_share=0.2, validation_share=0.1), CLASSIFY)


@pytest.fixture(autouse=True)
def home(splits: Splits, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = next(tmp_path_factory.getbasetemp().glob("tokens*/home"))
    monkeypatch.setenv("SHOESTRING_HOME", str(folder))


@pytest.fixture(scope="module")
def tokens(splits: Splits, tmp_path_factory: pytest.TempPathFactory) -> Tokens:
    folder = next(tmp_path_factory.getbasetemp().glob("tokens*/home"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHOESTRING_HOME", str(folder))
        patch.setattr(packing, "BATCH_BYTES", 5000)
        return tokenize_corpus.fn(splits, BytePairs(vocabulary=400), CAUSAL, Scratch(), CLOCK)


def texts_of(splits: Splits, side: str) -> list[str]:
    rows = pq.read_table(splits.corpus.folder / "documents.parquet")["text"].to_pylist()
    sides = pq.read_table(splits.folder / "assignment.parquet")["split"].to_pylist()
    return [text for text, at in zip(rows, sides, strict=True) if at == side]


def test_shards_give_back_every_document_of_every_split(tokens: Tokens, splits: Splits) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tokens.folder / "tokenizer")
    shards = Shards(tokens.folder)
    side: Split
    for side in get_args(Split):
        documents, _, sizes = Slice(shards, side).texts()
        texts = texts_of(splits, side)
        assert [tokenizer.decode(ids[1:]) for ids in documents] == texts
        assert {int(ids[0]) for ids in documents} == {shards.start_token}
        assert [len(text.encode()) for text in texts] == sizes.tolist()
        assert len(documents) == splits.documents[side] > 0
        assert tokens.tokens[side] == len(shards.ids(side)) == sum(map(len, documents))
        assert splits.bytes[side] == shards.documents(side)[:, BYTES].sum()


def test_a_text_that_spells_the_start_token_does_not_start_a_document(tokens: Tokens) -> None:
    shards = Shards(tokens.folder)
    assert np.sum(shards.ids("train") == shards.start_token) == len(shards.documents("train"))


def test_the_table_of_documents_matches_the_shards(tokens: Tokens, splits: Splits) -> None:
    rows = pq.read_table(tokens.folder / "documents.parquet").to_pylist()
    assert len(rows) == splits.corpus.documents
    assert "text" not in rows[0]
    for side, index in ((s, Shards(tokens.folder).documents(s)) for s in get_args(Split)):
        listed = [(r["offset"], r["tokens"], r["bytes"], r["fold"]) for r in rows if r["split"] == side]
        assert listed == [tuple(row[:LABEL]) for row in index.tolist()]
    assert [r["tokens"] for r in rows if r["split"] is None] == [None] * splits.near_duplicates


def test_folds_cover_train_and_streams_read_it(tokens: Tokens, splits: Splits) -> None:
    shards = Shards(tokens.folder)
    folds = shards.documents("train")[:, FOLD]
    assert set(folds.tolist()) == set(range(splits.folds))
    held_in = sum(Slice(shards, "train", only_fold=fold).tokens() for fold in range(splits.folds))
    assert held_in == tokens.tokens["train"] == shards.documents("train")[:, LENGTH].sum()
    rows = Stream(Slice(shards), seed=0, block=16).rows(range(2), 0, 16).documents
    assert [row.shape for row in rows] == [(16,), (16,)] and max(map(max, rows)) < tokens.vocabulary


@given(text=st.text(st.characters(codec="utf-8")))
@settings(max_examples=150, deadline=None)
def test_any_text_survives_the_saved_tokenizer(tokens: Tokens, text: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tokens.folder / "tokenizer")
    ids = tokenizer(text, split_special_tokens=True).input_ids
    assert ids[0] == tokenizer.bos_token_id == tokenizer.eos_token_id == 0
    assert tokenizer.decode(ids[1:]) == text


@pytest.mark.parametrize("member", FAMILY)
def test_a_tokenizer_of_the_family_is_lossless_and_within_its_size(member: type[BytePairs]) -> None:
    size = member().size(1_000_000, 60)
    backend = member().learn(["some text, some more text"], size)
    assert backend.get_vocab_size() <= size
    assert backend.token_to_id(START) == 0
    text = "  naïve 東京 🌍\r\n\t"
    assert backend.decode(backend.encode(text).ids[1:]) == text
    assert issubclass(member, Choice)


def test_bytes_are_a_token_each() -> None:
    backend = Bytes().learn([], Bytes().size(0, 0))
    assert backend.get_vocab_size() == 257
    assert len(backend.encode("東京 🌍").ids) == 1 + len("東京 🌍".encode())


def test_learning_twice_gives_the_same_tokenizer(splits: Splits) -> None:
    texts = texts_of(splits, "train")
    assert BytePairs().learn(texts, 500).to_str() == BytePairs().learn(texts, 500).to_str()


def test_only_train_is_learnt_from(splits: Splits) -> None:
    texts = Texts(splits.corpus.folder / "documents.parquet", splits.folder / "assignment.parquet")
    assert list(texts.sample(1.0)) == texts_of(splits, "train")
    assert 0 < len(list(texts.sample(0.3))) < 0.5 * splits.documents["train"]


@pytest.mark.parametrize(("vocabulary", "dtype"), [(65_536, "uint16"), (65_537, "uint32")])
def test_ids_take_the_smallest_type_that_holds_them(tmp_path: Path, vocabulary: int, dtype: str) -> None:
    with Packer(tmp_path, vocabulary) as packer:
        packer.add("train", [0, vocabulary - 1], size_bytes=1, fold=0)
        packer.finish()
    shards = Shards(tmp_path)
    assert shards.ids("train").dtype.name == dtype
    assert shards.ids("train").tolist() == [0, vocabulary - 1]
    assert len(shards.ids("test")) == len(shards.documents("test")) == 0


@pytest.mark.parametrize("objective", [CAUSAL, MASKED, CLASSIFY], ids=lambda one: one.head)
def test_each_objective_has_the_tokens_and_labels_that_it_needs(splits: Splits, objective: Objective) -> None:
    found = tokenize_corpus.fn(splits, BytePairs(vocabulary=400), objective, Scratch(), CLOCK)
    header, tokenizer = Shards(found.folder).header, AutoTokenizer.from_pretrained(found.folder / "tokenizer")
    assert (header["mask_token"], header["labels"]) == (found.mask_token, list(found.labels))
    assert tokenizer.mask_token_id == found.mask_token == (1 if objective is MASKED else None)
    assert tokenizer.bos_token_id == found.start_token == header["start_token"] == 0
    if objective is not CAUSAL:
        assert tokenizer.pad_token_id == tokenizer.cls_token_id == 0
    labels = Shards(found.folder).documents("train")[:, LABEL]
    if objective is not CLASSIFY:
        assert found.labels == () and set(labels.tolist()) == {-1}
        return
    assert found.labels == tuple(sorted(PLACES))
    texts = [tokenizer.decode(ids[1:]) for ids in Slice(Shards(found.folder)).texts().documents]
    assert all(found.labels[label] in text for label, text in zip(labels, texts, strict=True))


def test_a_mask_token_in_a_text_hides_nothing() -> None:
    spelt = Spelling.learnt(Bytes(), [], 0, "masked")
    encoded = spelt.encoding("uint16")([f"a{MASK}"])
    assert encoded.ids.tolist() == [0, *(2 + at for at in map(byte_at, f"a{MASK}"))]
    assert spelt.vocabulary == 258


def byte_at(character: str) -> int:
    return sorted(pre_tokenizers.ByteLevel.alphabet()).index(character)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A checkpoint's tokenizer of the lower-casing kind, with no `bos_token`."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz", "letter", "from"]
    words += [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz0123456789"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    settings_ = {"tokenizer_class": "BertTokenizer", "do_lower_case": True}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings_))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", "vocab_size": len(words)}))
    return tmp_path


def test_a_checkpoint_is_fed_by_its_own_tokenizer(splits: Splits, checkpoint: Path) -> None:
    model = Pretrained(name=str(checkpoint))
    found = tokenize_corpus.fn(splits, BytePairs(), CLASSIFY, model, CLOCK)
    tokenizer = AutoTokenizer.from_pretrained(found.folder / "tokenizer")
    assert tokenizer.bos_token_id == tokenizer.cls_token_id == found.start_token == 2
    assert found.vocabulary == len(tokenizer)
    documents = Slice(Shards(found.folder), "test").texts().documents
    ids = tokenizer(texts_of(splits, "test"), add_special_tokens=False, split_special_tokens=True).input_ids
    assert [row.tolist() for row in documents] == [[2, *row] for row in ids]
    assert found.changed_share == 1.0  # it lower-cases, which is counted, not refused
    assert tokenize_corpus.fn(splits, BytePairs(), MASKED, model, CLOCK).mask_token == 4


def test_another_tokenizer_in_the_same_folder_makes_other_tokens(splits: Splits, checkpoint: Path) -> None:
    model = Pretrained(name=str(checkpoint))
    first = tokens_key(splits, BytePairs(), CLASSIFY, model, CLOCK)
    assert first == tokens_key(splits, Bytes(), CLASSIFY, model, CLOCK)
    with (checkpoint / "vocab.txt").open("a") as file:
        file.write("\nmore")
    assert first != tokens_key(splits, BytePairs(), CLASSIFY, model, CLOCK)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "has no tokenizer"),
        ({"tokenizer.json": "{"}, "has no tokenizer that can be read"),
        (
            {
                "tokenizer.json": Bytes().learn([], 0, ("<unk>",)).to_str(),
                "tokenizer_config.json": '{"tokenizer_class": "PreTrainedTokenizerFast"}',
            },
            "without a start token",
        ),
        (
            {
                "tokenizer.json": Bytes().learn([], 0).to_str(),
                "tokenizer_config.json": json.dumps(
                    {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": START}
                ),
            },
            "without a mask token",
        ),
    ],
)
def test_a_checkpoint_without_a_tokenizer_that_serves_is_refused(
    splits: Splits, tmp_path: Path, files: dict[str, str], words: str
) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=words):
        tokenize_corpus.fn(splits, BytePairs(), MASKED, Pretrained(name=str(tmp_path)), CLOCK)


def test_the_key_follows_the_vocabulary_and_not_the_clock(splits: Splits) -> None:
    def clock(seconds: float) -> SimpleNamespace:
        return SimpleNamespace(like_seconds=seconds)

    def key(tokenizer: Tokenizer, at: SimpleNamespace, objective: Objective = CAUSAL) -> str:
        return tokens_key(splits, tokenizer, objective, Scratch(), at)

    fixed = BytePairs(vocabulary=400)
    assert key(fixed, clock(60)) == key(fixed, clock(6000))
    assert key(fixed, CLOCK) != key(BytePairs(vocabulary=401), CLOCK)
    assert key(BytePairs(), clock(300)) == key(BytePairs(), clock(301))
    assert key(fixed, CLOCK) != key(fixed, CLOCK, MASKED)


def test_too_little_text_is_refused_with_how_much_is_needed(
    splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens_module, "MINIMUM_TRAIN_TOKENS", 10_000_000)
    tokenizer = BytePairs(vocabulary=300)
    with pytest.raises(InputError, match=r"at least 10,000,000.* Give about [\d,]+ kB"):
        tokenize_corpus.fn(splits, tokenizer, CAUSAL, Scratch(), CLOCK)
    assert not stored(Tokens.kind, tokens_key(splits, tokenizer, CAUSAL, Scratch(), CLOCK))
