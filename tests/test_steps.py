"""Every step of the cleaning takes whatever text there is; presets are made of them."""

from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.clean import Cleaning
from tasks.contamination import Contamination
from tasks.filters import TooShort
from tasks.parts import applied
from tasks.personal import PersonalData
from tasks.steps import PRESETS, AnyStep, Kind, Preset
from tasks.text import ReadsFiles, Step, Text
from tasks.toxic import ToxicWords

FAMILY = get_args(get_args(AnyStep)[0])
FREE = [member for member in FAMILY if member not in (Contamination, ToxicWords)]  # of files


def test_kinds_are_those_of_the_steps() -> None:
    assert get_args(Kind) == tuple(member.model_fields["kind"].default for member in FAMILY)
    assert set(get_args(Preset)) == set(PRESETS)
    assert all(isinstance(step, FAMILY) for steps in PRESETS.values() for step in steps)


@pytest.mark.parametrize("member", FREE, ids=lambda member: member.__name__)
@given(text=st.text(st.characters(codec="utf-8"), max_size=500))
@settings(max_examples=50, deadline=None)
def test_a_step_takes_any_text_and_leaves_the_same_object_where_nothing_changes(
    member: Any, text: str
) -> None:
    step: Step = member()
    given_ = Text(text)
    outcome = step.apply(given_)
    assert bool(outcome.changes) == (outcome.text != given_) or outcome.reason is not None
    if outcome.text == given_:
        assert outcome.text is given_
    assert not isinstance(step, ReadsFiles)


@pytest.mark.parametrize("preset", get_args(Preset))
def test_a_preset_takes_empty_and_strange_texts(preset: Preset) -> None:
    for text in ("", " ", "\n\n", "x", "\u200b" * 10, "é" * 5000, "a b c\n" * 2000):
        outcome = applied(PRESETS[preset], text)
        assert outcome.reason if not text.strip() else outcome.reason or outcome.text.strip()


def test_steps_are_left_out_replaced_and_added() -> None:
    longer = TooShort(characters=99)
    steps = Cleaning(preset="any", without=("repetitive",), also=(PersonalData(), longer)).steps()
    kinds = [step.kind for step in steps]
    assert "repetitive" not in kinds and kinds[-1] == "personal_data"
    assert steps[kinds.index("too_short")] == longer and kinds.count("too_short") == 1
