"""Documents in other words: real thesauruses and models, of which nothing is kept but what must be."""

import json
import re
import shutil
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import sentencepiece
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    MarianConfig,
    MarianMTModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from tests import tiny_run
from training.augmentation import Writing, check_augmentation
from training.back_translation import MOST_WORDS, BackTranslation, in_pieces
from training.rewriting import WORD, Rewriting, cased_as
from training.synonyms import ModelSynonyms, ThesaurusSynonyms, aligned, read_thesaurus

TEXTS = [
    "Return the value,\n\n  for a LIST in (range) of items. Print it!",
    "",
    "Value",
    "12 + 34 = ?!",
    "na\u00efve value: don't print; return\tself. " * 30,
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A thesaurus, a masked model, and two translators of 2 layers by 16."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("models")
    (folder / "words.txt").write_text("value, worth, what it is\nprint, Write\n\nreturn, give back, print\n")
    tiny_run.write_model(folder / "masked", head="masked", merges=120)
    words = ["<pad>", "</s>", "<unk>", *sorted({word for text in TEXTS for word in re.findall(r"\w+", text)})]
    letters = [letter for letter in "abcdefghijklmnopqrstuvwxyz.,!" if letter not in words]
    for name, model in translators(len(words) + len(letters)).items():
        model.save_pretrained(folder / name)
        if name == "there":
            write_pieces(folder / name, [*words, *letters])
            continue
        backend = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words + letters)}, "<unk>"))
        backend.pre_tokenizer, backend.decoder = pre_tokenizers.Whitespace(), decoders.WordPiece()
        PreTrainedTokenizerFast(
            tokenizer_object=backend,
            pad_token="<pad>",
            eos_token="</s>",
            unk_token="<unk>",
            model_max_length=32,
        ).save_pretrained(folder / name)
    return folder


def write_pieces(folder: Path, words: list[str]) -> None:
    """What Helsinki-NLP's checkpoints have for a tokenizer: sentencepiece models and a list of pieces."""
    (folder / "text").write_text("\n".join(TEXTS * 5))
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text"), model_prefix=str(folder / "source"), vocab_size=45, minloglevel=2
    )
    (folder / "source.model").rename(folder / "source.spm")
    shutil.copy(folder / "source.spm", folder / "target.spm")
    known = sentencepiece.SentencePieceProcessor(model_file=str(folder / "source.spm"))
    found = [known.id_to_piece(at) for at in range(known.get_piece_size())]
    pieces = dict.fromkeys([*words[:3], *(piece for piece in found if piece[0] != "<"), *words])
    listed = {piece: at for at, piece in enumerate([*pieces][: len(words)])}
    (folder / "vocab.json").write_text(json.dumps(listed))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "MarianTokenizer", "model_max_length": 32})
    )


def translators(vocabulary: int) -> dict[str, PreTrainedModel]:
    torch.manual_seed(0)
    ends = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}
    marian = MarianConfig(
        vocab_size=vocabulary,
        d_model=16,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        max_position_embeddings=32,
        forced_eos_token_id=1,
        **ends,
    )
    t5 = T5Config(
        vocab_size=vocabulary,
        d_model=16,
        d_kv=8,
        d_ff=16,
        num_layers=2,
        num_decoder_layers=2,
        num_heads=2,
        **ends,
    )
    return {"there": MarianMTModel(marian), "back": T5ForConditionalGeneration(t5)}


def members(place: Path) -> list[Writing]:
    return [
        ThesaurusSynonyms(thesaurus=str(place / "words.txt"), words=0.3),
        ModelSynonyms(model=str(place / "masked"), words=0.3),
        BackTranslation(there=str(place / "there"), back=str(place / "back")),
    ]


def test_every_way_has_its_files_tells_every_text_and_hangs_on_the_dice_alone(place: Path) -> None:
    found = members(place)
    assert {type(member) for member in found} == set(get_args(Writing))
    check_augmentation(found, "classification")
    for member in found:
        rewriter = member.rewriter("cpu")
        once, again, other = (rewriter(TEXTS, np.random.default_rng(seed)) for seed in (1, 1, 2))
        assert once == again != other
        assert len(once) == len(TEXTS) and once[1] == ""
        assert once[0] != TEXTS[0] and once[4] != TEXTS[4]
        assert all(Path(source).exists() for source in member.sources())
        assert rewriter([], np.random.default_rng(0)) == []


def test_what_makes_copies_is_known_by_all_that_they_hang_on(place: Path) -> None:
    names = {member.maker() for member in members(place)}
    assert len(names) == 3
    one: Rewriting = ThesaurusSynonyms(thesaurus="words.txt")
    assert one.maker() == one.model_copy(update={"documents": 0.1}).maker()
    assert one.maker() != one.model_copy(update={"copies": 5}).maker()


@pytest.mark.parametrize("kind", [ThesaurusSynonyms, ModelSynonyms])
def test_synonyms_replace_the_share_of_words_and_leave_all_else(
    kind: type, place: Path, tmp_path: Path
) -> None:
    (tmp_path / "words.txt").write_text("value, worth\nprint, write\nreturn, yield\nself, me\n")
    (member,) = (member for member in members(place) if isinstance(member, kind))
    if isinstance(member, ThesaurusSynonyms):
        member = member.model_copy(update={"thesaurus": str(tmp_path / "words.txt")})
    rewriter, changed = member.rewriter("cpu"), 0
    for seed in range(10):
        for text, other in zip(TEXTS, rewriter(TEXTS, np.random.default_rng(seed)), strict=True):
            assert WORD.split(other) == WORD.split(text)
            pairs = zip(WORD.findall(text), WORD.findall(other), strict=True)
            differing = [pair for pair in pairs if pair[0] != pair[1]]
            most = max(1, round(0.3 * len(WORD.findall(text)))) if WORD.search(text) else 0
            assert len(differing) == most or (kind is ThesaurusSynonyms and len(differing) < most)
            assert all(a.lower() != b.lower() and a[0].isupper() == b[0].isupper() for a, b in differing)
            changed += len(differing)
    assert changed > 200


def test_a_thesaurus_knows_words_of_all_its_lines(place: Path) -> None:
    known = read_thesaurus(place / "words.txt")
    assert known["print"] == ("write", "return", "give back")
    assert known["value"] == ("worth", "what it is") and "what" not in known
    words = [["value", "VALUE", "Value", "x"], ["worth", "WORTH", "Worth", "y"]]
    assert [cased_as(old, "worth") for old in words[0][:3]] == words[1][:3]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"big, large\nsmall\n", r"words\.txt, line 2: 'small' stands alone; write words"),
        (b"big, big ,\n", r"line 1: 'big' stands alone"),
        (b" \n,\n", r"words\.txt is empty"),
        (b"b\xffg, large\n", r"words\.txt cannot be read"),
        (None, r"words\.txt cannot be read"),
    ],
)
def test_a_bad_thesaurus_is_refused_in_one_line(content: bytes | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "words.txt").write_bytes(content)
    member = ThesaurusSynonyms(thesaurus=str(tmp_path / "words.txt"))
    with pytest.raises(
        ValueError, match=rf"learning\.augmentation, thesaurus_synonyms: .*{message}"
    ) as caught:
        check_augmentation([member], "classification")
    assert "\n" not in str(caught.value)


def test_a_model_that_cannot_do_it_is_refused_before_anything_is_read(place: Path, tmp_path: Path) -> None:
    causal = tiny_run.write_model(tmp_path / "causal", head="causal")
    masked, there = str(place / "masked"), str(place / "there")
    refused: list[tuple[Writing, str]] = [
        (ModelSynonyms(model=str(causal)), "no masked head"),
        (ModelSynonyms(model=str(tmp_path / "nowhere")), "no folder"),
        (BackTranslation(there=there, back=masked), "modernbert, which does not translate"),
        (BackTranslation(there=str(tmp_path), back=there), r"no config\.json"),
    ]
    for member, message in refused:
        with pytest.raises(ValueError, match=message):
            check_augmentation([member], "classification")
    broken = BackTranslation(there=there, back=str(tmp_path / "broken"))
    (tmp_path / "broken").mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "broken" / name).write_bytes((place / "back" / name).read_bytes())
    (tmp_path / "broken" / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"the tokenizer of .*broken cannot be read"):
        broken.rewriter("cpu")


def test_a_word_that_shares_a_token_with_another_is_left_alone() -> None:
    text = "one two-three four."
    words = list(WORD.finditer(text))
    offsets = [(0, 2), (2, 3), (3, 6), (6, 13), (13, 19)]  # `four.` is one token
    assert [(word[0], tokens) for word, tokens in aligned(text, words, offsets)] == [
        ("one", (0, 2)),
        ("two-three", (2, 4)),
    ]


@pytest.mark.parametrize("text", [*TEXTS, "One. Two?  Three\n\n four\u3002five " + "word " * 250])
def test_pieces_are_the_text_and_none_is_long(text: str) -> None:
    pieces = in_pieces(text)
    assert "".join(pieces) == text
    assert all(not piece.strip() for piece in pieces[1::2])
    assert max(len(piece.split()) for piece in pieces) <= MOST_WORDS


def test_what_stands_between_sentences_is_kept_and_blank_documents_stay(place: Path) -> None:
    rewriter = members(place)[2].rewriter("cpu")
    text = "return the value.\n\n  print it!\n" + "value " * 150
    (told,) = rewriter([text], np.random.default_rng(0))
    assert re.search(r"\S\n\n  \S", told) and told.count("\n") == 3
    assert rewriter(["", " \n"], np.random.default_rng(0)) == ["", " \n"]
