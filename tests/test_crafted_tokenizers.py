"""A tokenizer that was made to do harm is refused in one sentence, also where it panics in Rust."""

import json
from pathlib import Path
from typing import Any

import pytest

from tasks.artifacts import InputError
from tasks.spelling import Spelling
from training.model import Pretrained

CRAFTED: dict[str, dict[str, Any]] = {
    "a panic in Rust": {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}},
    "no vocabulary": {"model": {"type": "Unigram", "unk_id": 5, "vocab": []}},
    "merges of unknown tokens": {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}},
    "a bad pattern": {
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": False}
    },
}


@pytest.mark.parametrize("case", CRAFTED)
def test_a_crafted_tokenizer_is_refused(tmp_path: Path, case: str) -> None:
    plain: dict[str, Any] = {"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(plain | CRAFTED[case]))
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(InputError, match="has no tokenizer that can be read here"):
        Spelling.of_checkpoint(Pretrained(name=str(tmp_path)), "causal")
