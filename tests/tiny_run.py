"""A tiny finished training with everything around it, on real files: what judging and registering need."""

import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import (
    ModernBertConfig,
    ModernBertForMaskedLM,
    ModernBertForSequenceClassification,
    NanoChatConfig,
    NanoChatForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from tasks import home
from tasks.artifacts import Corpus, Folds, Report, Splits, Tokens, Trained
from tasks.evaluate import evaluate
from tasks.store import storing
from training.blueprint import Blueprint, Learning
from training.model import Head
from training.optimizers import Muon

torch.set_num_threads(1)  # faster for tiny tensors, and steadier on a busy machine

START, MASK = "<|start|>", "<|mask|>"
WORDS = [
    "def",
    "return",
    "self",
    "for",
    "value",
    "in",
    "range",
    "len",
    "key",
    "list",
    "item",
    "print",
    "None",
]
LABELS = ("loops", "objects", "values")  # each has a word that the others have not
SIGNS = {"loops": "while", "objects": "class", "values": "float"}
NO_FOLDS = Folds(
    key="none", scores=(), mean=None, low=None, high=None, seconds_each=0, reason="too short a budget"
)
OBJECTIVES: dict[Head, str] = {
    "causal": "causal_language_model",
    "masked": "masked_language_model",
    "classification": "sequence_classification",
}
BACKWARDS = "tiny words, backwards"
Work = tuple[Trained, Report]


def texts(count: int, seed: int = 0) -> list[str]:
    """Lines of Python-like words, of uneven lengths."""
    dice = random.Random(seed)
    return [" ".join(dice.choices(WORDS, k=dice.randint(3, 60))) + "\n\u00e9\n" for _ in range(count)]


def labelled(count: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """The same lines with a sign of their label somewhere near the start, and the labels; `loops` is commonest."""
    dice = random.Random(seed + 1000)
    labels = dice.choices(LABELS, weights=(2, 1, 1), k=count)
    signed = []
    for text, label in zip(texts(count, seed), labels, strict=True):
        words = text.split(" ")
        words.insert(dice.randint(0, min(3, len(words) - 1)), SIGNS[label])
        signed.append(" ".join(words))
    return signed, labels


def splits(count: int = 24, backwards: bool = False) -> Splits:
    """A corpus and its sides in the store, with labels but for one document; every third is a test document."""
    written, labels = labelled(count)
    written = [text[::-1] for text in written] if backwards else written
    ids = [f"{'b' if backwards else 'd'}{number}" for number in range(count)]
    sides = ["test" if number % 3 == 0 else "train" for number in range(count)]
    sizes = [len(text.encode()) for text in written]
    columns = {
        "id": ids,
        "text": written,
        "bytes": sizes,
        "label": pa.array([*labels[:-1], *[None] * (count > 0)]),
    }
    with storing("corpus", f"c{count}{'b' * backwards}") as folder:
        pq.write_table(pa.table(columns), folder / "documents.parquet")
    with storing("splits", f"s{count}{'b' * backwards}") as folder:
        pq.write_table(pa.table({"id": ids, "split": sides}), folder / "assignment.parquet")
    corpus = Corpus(
        key=f"c{count}{'b' * backwards}",
        source=BACKWARDS if backwards else "tiny words",
        documents_read=count + 1,
        documents=count,
        bytes=sum(sizes),
        dropped={"empty": 1},
        changed={},
    )
    documents = {"train": sides.count("train"), "validation": 0, "test": sides.count("test")}
    return Splits(
        key=f"s{count}{'b' * backwards}",
        corpus=corpus,
        documents=documents,
        bytes={"test": sum(sizes[::3])},
        folds=0,
        near_duplicates=0,
    )


def tokenizer(merges: int = 40) -> PreTrainedTokenizerFast:
    """Byte-level BPE, learned from the tiny texts; id 0 opens documents, id 1 hides a token."""
    learned = Tokenizer(models.BPE())
    learned.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    learned.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=258 + merges, special_tokens=[START, MASK], initial_alphabet=alphabet, show_progress=False
    )
    learned.train_from_iterator(labelled(50, seed=1)[0], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=learned, bos_token=START, eos_token=START, pad_token=START, mask_token=MASK
    )


def new_model(head: Head, vocabulary: int, context: int, labels: tuple[str, ...] = LABELS) -> PreTrainedModel:
    """2 layers by 32 of the family that goes with the head."""
    sizes = {
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": context,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 0,
    }
    if head == "causal":
        return NanoChatForCausalLM(NanoChatConfig(**sizes))
    both_sides = sizes | {"cls_token_id": 0, "sep_token_id": 0, "classifier_pooling": "mean"}
    if head == "masked":
        return ModernBertForMaskedLM(ModernBertConfig(**both_sides))
    names = dict(enumerate(labels))
    return ModernBertForSequenceClassification(
        ModernBertConfig(
            **both_sides, id2label=names, label2id={name: number for number, name in names.items()}
        )
    )


def write_model(
    folder: Path,
    steps: int = 0,
    seed: int = 0,
    context: int = 32,
    merges: int = 40,
    head: Head = "causal",
    labels: tuple[str, ...] = LABELS,
    backwards: bool = False,
) -> Path:
    """A tiny model after some steps on the tiny texts, or on these read backwards, as a Hugging Face folder."""
    spelling = tokenizer(merges)
    torch.manual_seed(seed)
    model = new_model(head, len(spelling), context, labels)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    written, names = labelled(200, seed=2)
    written = [text[::-1] for text in written] if backwards else written
    rows = [[0, *ids][:context] for ids in spelling(written, add_special_tokens=False).input_ids]
    inputs = nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
    there = nn.utils.rnn.pad_sequence([torch.ones(len(row)) for row in rows], batch_first=True).long()
    truth = torch.tensor([LABELS.index(name) for name in names])
    for step in range(steps):
        torch.manual_seed(step)
        batch = torch.randint(len(rows), (16,))
        given, said = inputs[batch], there[batch]
        targets = given.masked_fill(said == 0, -100)
        if head == "masked":
            hidden = (torch.rand(given.shape) < 0.2) & (said == 1) & (given > 1)
            targets, given = given.masked_fill(~hidden, -100), given.masked_fill(hidden, 1)
        if head == "classification":
            targets = truth[batch]
        optimizer.zero_grad()
        model(input_ids=given, attention_mask=said, labels=targets).loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    spelling.save_pretrained(folder)
    return folder


def judged(
    run_id: str, steps: int = 0, seed: int = 0, head: Head = "causal", split: Splits | None = None
) -> Work:
    """A finished run and the report on its model, on documents of another split if given."""
    done = trained(run_id, steps, seed, head, split)
    return done, evaluate(done, NO_FOLDS, done.tokens.splits)


def trained(
    run_id: str, steps: int = 0, seed: int = 0, head: Head = "causal", split: Splits | None = None
) -> Trained:
    """A finished run in its folder: model, journals, trials, blueprint, plan."""
    folder = home.run_folder(run_id)
    split = split or splits()
    backwards = split.corpus.source == BACKWARDS
    write_model(folder / "final" / "model", steps, seed, head=head, backwards=backwards)
    for path, length in (("final", 40), ("trials/0", 10)):
        (folder / path).mkdir(parents=True, exist_ok=True)
        events = []
        for step in range(1, length):
            events.append(
                {"event": "step", "step": step, "seconds": step / 5, "loss": 5 / step, "tokens": 9 * step}
            )
            if step % 5 == 0:
                events.append({"event": "validation", "step": step, "seconds": step / 5, "bits": 4 / step})
        (folder / path / "journal.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    (folder / "search.json").write_text(
        json.dumps(
            {
                "trials": [
                    {"number": 0, "state": "complete", "value": 2.0, "parameters": {"a.b": 0.1}},
                    {"number": 1, "state": "pruned", "value": 2.5, "parameters": {"a.b": 0.2}},
                ],
                "gain": 0.02,
                "settings": {"learning.optimizer.rate": 0.04},
            }
        )
    )
    blueprint = Blueprint(
        learning=Learning(optimizer=Muon(learning_rate=0.04)),
        vocabulary=298,
        data=f"{steps} steps",
        seed=seed,
    )
    (folder / "blueprint.json").write_text(blueprint.model_dump_json())
    planned = {"tokens_per_second": 9.0, "forecasts": {"this budget": [2.0, 1.9, 2.1]}, "trials": 2}
    (folder / "plan.json").write_text(json.dumps(planned))
    tokens = Tokens(
        key=f"t-{split.key}",
        splits=split,
        vocabulary=298,
        tokens={"train": 900, "validation": 0, "test": 400},
        bytes_per_token=2.4,
    )
    return Trained(
        key=f"trained-{run_id}",
        run_id=run_id,
        model="final/model",
        journal="final/journal.jsonl",
        objective=OBJECTIVES[head],
        parameters=30_000,
        steps=39,
        tokens_trained=9_000,
        training_seconds=8.0,
        final_seconds=9.0,
        workers=1,
        kept="last",
        validation_bits=2.2,
        tokens=tokens,
    )
