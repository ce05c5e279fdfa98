"""A list of words drops what has too many of them, and a list that cannot be used is refused."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from tasks.artifacts import InputError
from tasks.text import Text
from tasks.toxic import ToxicWords


@pytest.fixture
def words(tmp_path: Path) -> Path:
    path = tmp_path / "bad.txt"
    path.write_text("\ufeffDamn\nutter fool\n\n馬鹿\n💩\nÜbel\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("DAMN it", 1),
        ("damn, utter\n Fool! damn", 3),
        ("damned goddamn foolish utter folly", 0),
        ("他是馬鹿だ 💩💩", 3),
        ("ÜBEL und übel", 2),
        ("", 0),
    ],
)
def test_a_list_counts_whole_words_in_any_case(words: Path, text: str, found: int) -> None:
    assert (ToxicWords(path=str(words)).reason(Text(text)) is not None) == (found > 0)
    if found:
        assert ToxicWords(path=str(words), most=found).reason(Text(text)) is None
        assert (
            ToxicWords(path=str(words), most=found - 1).reason(Text(text))
            == f"over {found - 1} words of bad.txt"
        )


def test_a_share_spares_long_texts(words: Path) -> None:
    step = ToxicWords(path=str(words), most=None, share=0.01)
    assert step.reason(Text("damn " + "good " * 50)) == "over 1.0% words of bad.txt"
    assert step.reason(Text("damn " + "good " * 200)) is None
    with pytest.raises(ValidationError, match="give most or share"):
        ToxicWords(path=str(words), most=None)


def test_a_list_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text(" \n\n")
    (tmp_path / "latin.txt").write_bytes("Übel".encode("latin-1"))
    for name, why in (
        ("missing.txt", "cannot be read"),
        ("empty.txt", "is empty"),
        ("latin.txt", "is not UTF-8"),
    ):
        with pytest.raises(InputError, match=why) as refusal:
            ToxicWords(path=str(tmp_path / name)).check()
        assert name in str(refusal.value)


def test_a_changed_list_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("one")
    step = ToxicWords(path=str(path))
    before = step.fingerprint()
    assert step.reason(Text("two words")) is None
    path.write_text("two\n")
    assert step.reason(Text("two words"))
    assert step.fingerprint() != before
