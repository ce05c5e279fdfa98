"""Copies lie beside the tokens, each with its document's fold and label, and go where their documents go."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from tasks import home
from tasks.artifacts import Corpus, InputError, Splits, Tokens
from tasks.augment import augment, copies_key, makers_of, with_copies, write_copies
from tasks.packing import Packer, Texts
from tasks.spelling import Spelling
from tasks.store import stored, storing
from tests.tiny_labelled import LABELS, text_of, words_of, write_texts, write_tokens
from tests.tiny_shards import tiny_blueprint
from training.augmentation import Augmented, RandomSwap
from training.budget import TokenCount
from training.copies import FOLDER, Copies
from training.data import BYTES, FOLD, LABEL, Documents, Ids, Shards, Slice
from training.model import Pretrained, Scratch
from training.objectives import SequenceClassification
from training.rewriting import WORD
from training.synonyms import ThesaurusSynonyms
from training.worker import Assignment, carry_out

COUNT = 400
CONTEXT = 512


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts, their tokens, and two thesauruses that know all words."""
    folder = tmp_path_factory.mktemp("data")
    texts = [text_of(number) for number in range(COUNT)]
    words = [word for number in range(COUNT) for word in words_of(number)]
    (folder / "words.txt").write_text("".join(f"{word}, {word}again\n" for word in words))
    (folder / "more.txt").write_text("".join(f"{word}, other{word}\n" for word in words))
    write_tokens(folder / "tokens", write_texts(folder, texts))
    return folder


def member(place: Path, name: str = "words", **settings: float) -> ThesaurusSynonyms:
    return ThesaurusSynonyms.model_validate({"thesaurus": str(place / f"{name}.txt"), **settings})


def texts_in(place: Path) -> Texts:
    return Texts(place / "documents.parquet", place / "assignment.parquet")


def augmented(
    place: Path,
    folder: Path,
    *members: ThesaurusSynonyms,
    progress: Callable[[float], None] = lambda share: None,
) -> Shards:
    """The copies alone, in a folder of their own."""
    spelt = Spelling.of_checkpoint(Pretrained(name=str(place / "tokens" / "tokenizer")), "classification")
    folder.mkdir(exist_ok=True)
    with Packer(folder, spelt.vocabulary, spelt.start_token, None, LABELS) as packer:
        augment(
            texts_in(place), makers_of(members), spelt.encoding(packer.dtype.name), packer, progress=progress
        )
    return Shards(folder)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def beside(place: Path) -> Shards:
    """The tokens with the copies of two makers beside them."""
    augmented(place, place / "tokens" / FOLDER, *two(place))
    return Shards(place / "tokens")


def two(place: Path) -> tuple[ThesaurusSynonyms, ThesaurusSynonyms]:
    return member(place, copies=3), member(place, "more", copies=2)


def test_every_copy_is_its_documents_in_other_words_with_its_fold_and_label(
    place: Path, beside: Shards
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(beside.folder / "tokenizer")
    documents, rows = Slice(beside).texts().documents, beside.documents("train")
    index = Shards(beside.folder / FOLDER).documents("train")
    makers = json.loads((beside.folder / FOLDER / "makers.json").read_text())
    assert len(index) == 5 * len(rows) and len(makers) == 2
    for maker, sign in zip(two(place), ("again", "other"), strict=True):
        copies, (first, each) = Copies(Slice(beside), maker.maker()), makers[maker.maker()]
        facts = index[first : first + each * len(rows)]
        assert np.array_equal(facts[:, [FOLD, LABEL]], np.repeat(rows[:, [FOLD, LABEL]], each, axis=0))
        for row, ids in enumerate(documents):
            words = WORD.findall(tokenizer.decode(ids[1:]))
            for number in range(each):
                text = tokenizer.decode(copies.read(row, number, CONTEXT)[1:])
                pairs = [(old, new) for old, new in zip(words, WORD.findall(text), strict=True) if old != new]
                assert len(pairs) == min(len(words), max(1, round(len(words) / 10)))
                assert all(new.replace(sign, "") == old for old, new in pairs)
                assert facts[each * row + number, BYTES] == len(text.encode())


def test_a_stage_that_is_killed_goes_on_to_the_same_bytes(
    place: Path, tmp_path: Path, beside: Shards
) -> None:
    whole, kills = contents(beside.folder / FOLDER), 0

    def die(share: float) -> None:
        raise KeyboardInterrupt

    while True:
        try:
            augmented(
                place, tmp_path, *reversed(two(place)), progress=die if kills < 5 else lambda share: None
            )
            break
        except KeyboardInterrupt:
            kills += 1
            with (tmp_path / "train.bin").open("ab") as file:
                file.write(b"what a kill may leave behind")
    assert kills == 5 and contents(tmp_path) == whole


def test_copies_of_a_fold_that_is_held_out_are_held_out(place: Path, beside: Shards) -> None:
    """Every word of a document names it, so that nothing of another one can come in unseen."""
    tokenizer = AutoTokenizer.from_pretrained(beside.folder / "tokenizer")

    def names(documents: list[Ids]) -> set[str]:
        words = (word for ids in documents for word in tokenizer.decode(ids[1:]).split())
        return {word.split("w")[0].removeprefix("other") for word in words if "q" in word}

    for fold in range(3):
        slice_ = Slice(beside, without_fold=fold)
        source = Documents(slice_, 0, CONTEXT, 2000)
        members = tuple(maker.model_copy(update={"documents": 0.9}) for maker in two(place))
        told = Augmented(source, slice_, members, seed=0)
        seen = told.rows(range(3 * len(source.labels)), 0, CONTEXT)
        plain = source.rows(range(3 * len(source.labels)), 0, CONTEXT)
        assert names(seen.documents) == names(plain.documents)
        assert not names(seen.documents) & names(Slice(beside, only_fold=fold).texts().documents)
        assert np.array_equal(seen.labels, plain.labels)
        for ids, other in zip(plain.documents, seen.documents, strict=True):
            assert names([ids]) == names([other])


def test_about_the_share_is_read_as_copies_all_of_them_and_cut_at_the_context(
    place: Path, beside: Shards
) -> None:
    source = Documents(Slice(beside), 0, CONTEXT, 2000)
    (maker, _), count = two(place), 20 * len(source.labels)
    told = Augmented(source, Slice(beside), [maker.model_copy(update={"documents": 0.4})], seed=0)
    plain, seen = (one.rows(range(count), 0, CONTEXT).documents for one in (source, told))
    replaced = [not np.array_equal(*pair) for pair in zip(plain, seen, strict=True) if len(pair[0]) > 10]
    assert 0.37 < np.mean(replaced) < 0.43
    longest = max({tuple(ids) for ids in plain}, key=len)
    forms = {tuple(new) for old, new in zip(plain, seen, strict=True) if tuple(old) == longest}
    assert len(forms) == 4
    short = told.rows(range(count), 0, 8).documents
    assert max(map(len, short)) == 8
    assert told.moved(0, 9, 8) == source.moved(0, 9, 8) and told.rows_in(600, 8) == source.rows_in(600, 8)


def test_copies_that_are_not_there_are_missed_before_the_training(place: Path, beside: Shards) -> None:
    with pytest.raises(ValueError, match="holds no copies of its train split"):
        Copies(Slice(beside), member(place, copies=7).maker())
    with pytest.raises(ValueError, match="holds no copies of its test split"):
        Copies(Slice(beside, "test"), two(place)[0].maker())


def stored_tokens(place: Path) -> Tokens:
    """The tokens and what they come from, in the store."""
    with storing("corpus", "c") as folder:
        shutil.copy(place / "documents.parquet", folder)
    with storing("splits", "s") as folder:
        shutil.copy(place / "assignment.parquet", folder)
    with storing("tokens", "t") as folder:
        shutil.copytree(place / "tokens", folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(FOLDER))
    counts = {"documents_read": COUNT, "documents": COUNT, "bytes": 1, "dropped": {}, "changed": {}}
    corpus = Corpus(key="c", source="numbered words", **counts)  # type: ignore[arg-type]
    documents = {"train": 200, "validation": 66, "test": 67}
    splits = Splits(key="s", corpus=corpus, documents=documents, bytes={}, folds=3, near_duplicates=0)
    return Tokens(key="t", splits=splits, vocabulary=298, tokens={}, bytes_per_token=2.0, labels=LABELS)


def test_the_store_has_the_tokens_again_with_the_copies(
    place: Path, beside: Shards, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(home.HOME_VARIABLE, str(tmp_path))
    tokens, makers = stored_tokens(place), makers_of(two(place))
    assert with_copies(tokens, [RandomSwap()]) is tokens
    made = write_copies.fn(tokens, makers, "cpu")
    assert made.key == copies_key(tokens, makers, "cpu") != tokens.key
    assert stored("tokens", made.key) and not list((tmp_path / "store" / "tokens").glob(".*"))
    assert contents(made.folder / FOLDER) == contents(beside.folder / FOLDER)
    for path in (path for path in tokens.folder.rglob("*") if path.is_file()):
        assert (made.folder / path.relative_to(tokens.folder)).read_bytes() == path.read_bytes()
    assert [row["split"] for row in made.rows()][-2:] == [
        f"{maker.copies} copies of each train document by thesaurus_synonyms {maker.maker()}"
        for maker in makers
    ]
    assert copies_key(tokens, makers_of(reversed(two(place))), "cpu") == made.key
    moved = member(place).model_copy(update={"thesaurus": str(tmp_path / "words.txt")})
    (tmp_path / "words.txt").write_text("a, b\n")
    before = copies_key(tokens, (moved,), "cpu")
    (tmp_path / "words.txt").write_text("a, c, b\n")
    assert copies_key(tokens, (moved,), "cpu") != before


def test_what_cannot_be_read_is_told_as_an_error_of_the_users(place: Path, tmp_path: Path) -> None:
    gone = ThesaurusSynonyms(thesaurus=str(tmp_path / "gone.txt"))
    with pytest.raises(InputError, match=r"learning\.augmentation, thesaurus_synonyms: .*gone\.txt cannot"):
        augmented(place, tmp_path / "copies", gone)


def test_a_training_reads_copies_and_scores_what_is_held_out_as_it_is(
    place: Path, beside: Shards, tmp_path: Path
) -> None:
    """The fold left out is scored on its documents: the same rows and weights, whatever the training reads."""
    found = []
    for members in ((), two(place)[:1]):
        made = tiny_blueprint(augmentation=members, context=64, batch_tokens=600, short_context=0)
        settings = {
            "model": Scratch(family="modernbert", depth=1),
            "objective": SequenceClassification(),
            "vocabulary": beside.vocabulary,
            "labels": LABELS,
            "start_token": 0,
        }
        assignment = Assignment(
            folder=tmp_path / str(len(members)),
            blueprint=made.model_copy(update=settings),
            shards=beside.folder,
            clock=TokenCount(1200),
            without_fold=1,
            held_out_tokens=100_000,
        )
        outcome = carry_out(assignment)
        scores = np.load(assignment.folder / "scores.npy")
        assert outcome.documents == len(Slice(beside, only_fold=1).rows())
        found.append(scores)
    assert np.array_equal(found[0][:, [0, 2]], found[1][:, [0, 2]])
    assert not np.array_equal(found[0][:, 1], found[1][:, 1])
