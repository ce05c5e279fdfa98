"""What a model of each head is called, counted in and used by: for the terminal, the card and the registry."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # they take seconds, and the command line reads this file
    from transformers import PreTrainedConfig

    from training.model import Head


@dataclass(frozen=True)
class Use:
    """The words and classes that go with one head."""

    noun: str
    unit: str  # of the deciding number, as the objective calls it
    auto_class: str  # of transformers
    pipeline: str  # as transformers and the Hub call what it is for
    command: str  # of `shoestring`

    @property
    def article_noun(self) -> str:
        return f"a {self.noun}"


USES: "dict[Head, Use]" = {
    "causal": Use(
        noun="causal language model",
        unit="bits per byte",
        auto_class="AutoModelForCausalLM",
        pipeline="text-generation",
        command="generate",
    ),
    "masked": Use(
        noun="masked language model",
        unit="pseudo-bits per byte",  # no probability of a text stands behind it: not comparable to causal
        auto_class="AutoModelForMaskedLM",
        pipeline="fill-mask",
        command="predict",
    ),
    "classification": Use(
        noun="classifier",
        unit="bits per label",
        auto_class="AutoModelForSequenceClassification",
        pipeline="text-classification",
        command="predict",
    ),
}


def head_of(config: "PreTrainedConfig") -> "Head":
    """What a model folder's config was saved for. Raises ValueError for anything but our three heads."""
    from transformers.models.auto import modeling_auto as names

    saved = (config.architectures or [""])[0]
    classes: dict[Head, dict[str, str]] = {
        "masked": names.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        "classification": names.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
        "causal": names.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    }
    for head, known in classes.items():
        if saved and saved in known.values():
            return head
    raise ValueError(
        f"its config names {saved or 'no class'}, which is neither a language model nor a classifier"
    )
