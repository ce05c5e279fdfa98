from pathlib import Path

from tasks.settle import compile_or_not, context_rule, scored_tokens
from tests.test_plan import some_tokens
from tests.tiny_shards import write_shards
from training.model import Scratch
from training.objectives import CausalLanguageModel, MaskedLanguageModel, SequenceClassification


def test_compiling_pays_on_a_gpu_in_a_long_run_only() -> None:
    assert compile_or_not("on", on_gpu=False, seconds=1) == ("on", "user")
    found = [compile_or_not("auto", gpu, seconds)[0] for gpu in (False, True) for seconds in (60, 3600)]
    assert found == ["off", "off", "off", "on"]


def test_documents_to_classify_get_no_longer_context_than_they_need(
    fresh_home: Path, corpus_texts: list[str]
) -> None:
    tokens = some_tokens()
    write_shards(tokens.folder, [text[: 40 + number % 50] for number, text in enumerate(corpus_texts)])
    context, reason = context_rule(SequenceClassification(), Scratch(), tokens, False, 300)
    assert context == 96  # of at most 90 bytes
    assert "100.0% of the documents" in reason
    contexts = [
        context_rule(CausalLanguageModel(), Scratch(), tokens, False, seconds)[0] for seconds in (300, 1e5)
    ]
    assert contexts == [256, 1024]


def test_scoring_a_masked_model_is_given_fewer_tokens_for_the_same_time() -> None:
    assert scored_tokens(7000, MaskedLanguageModel()) == 1000
    assert scored_tokens(7000, CausalLanguageModel()) == scored_tokens(7000, SequenceClassification()) == 7000
