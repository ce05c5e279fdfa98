"""A batch's part: what is said of it hangs on its documents alone, and survives the disk."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.documents import Document, SetAside
from tasks.filters import TooShort
from tasks.parts import Counts, Part, Work, alike, batch_name, batches, pieces
from tasks.steps import PRESETS


def document(text: str, position: int = 0) -> Document:
    return Document("here", position, "group", None, text)


@pytest.mark.parametrize(
    ("text", "other", "near"),
    [
        ("Chapter 12: The  End\n", "chapter 13: the end", True),
        ("def f():\n    return 1\n", "def f():\n\treturn 2\n", True),
        ("The cat sat.", "The dog sat.", False),
        ("1, 2, 3, 4", "5, 6, 7, 8", False),
        ("2024", "2025", False),
    ],
)
def test_texts_that_differ_in_case_blanks_and_numbers_are_near(text: str, other: str, near: bool) -> None:
    assert (alike(text) == alike(other)) is near


@given(text=st.text(st.sampled_from("ab \n\u2028é"), max_size=3000), size=st.integers(256, 600))
@settings(max_examples=100, deadline=None)
def test_pieces_are_the_text_but_for_blanks_at_its_end(text: str, size: int) -> None:
    found = pieces(text, size)
    assert text.startswith("".join(found)) and not text.removeprefix("".join(found)).strip()


def test_a_part_is_read_as_it_was_saved_and_known_by_its_batch(tmp_path: Path) -> None:
    batch: list[Document | SetAside] = [
        document("some text that stays", 1),
        SetAside("there", 2, "not UTF-8"),
        document("no", 3),
    ]
    part = Work((TooShort(),))(batch)
    assert (part.counts.read, part.counts.kept) == (3, 1)
    part.save(tmp_path / "0.arrow", batch_name(batch))
    again = Part.load(tmp_path / "0.arrow")
    assert again.rows.equals(part.rows) and again.counts == part.counts
    assert Part.known(tmp_path / "0.arrow", batch_name(batch))
    assert not Part.known(tmp_path / "0.arrow", batch_name(batch[:2]))
    assert not Part.known(tmp_path / "1.arrow", batch_name(batch))
    data = (tmp_path / "0.arrow").read_bytes()
    (tmp_path / "0.arrow").write_bytes(data[: len(data) // 2])
    assert not Part.known(tmp_path / "0.arrow", batch_name(batch))


def test_counts_and_examples_do_not_hang_on_batches() -> None:
    work = Work(PRESETS["any"])
    documents = [document("x" * (number % 30) + "é" * (number % 3), number) for number in range(200)]
    whole = work(documents).counts
    parts = Counts()
    for start in range(0, 200, 7):
        parts.add(work(documents[start : start + 7]).counts)
    assert parts == whole
    assert all(1 <= len(shown) <= 3 for shown in whole.examples.values())


def test_batches_end_where_the_documents_say() -> None:
    documents = [document("x" * 100_000, number) for number in range(50)]
    found = list(batches(documents))
    assert [one for batch in found for one in batch] == documents and len(found) == 3
