"""A tiny finished training with everything around it, on real files: what judging and registering need."""

import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import NanoChatConfig, NanoChatForCausalLM, PreTrainedTokenizerFast

from tasks import home
from tasks.artifacts import Corpus, Folds, Splits, Tokens, Trained, storing

torch.set_num_threads(1)  # faster for tiny tensors, and steadier on a busy machine

START = "<|start|>"
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
NO_FOLDS = Folds(
    key="none", scores=(), mean=None, low=None, high=None, seconds_each=0, reason="too short a budget"
)


def texts(count: int, seed: int = 0) -> list[str]:
    """Lines of Python-like words, of uneven lengths."""
    dice = random.Random(seed)
    return [" ".join(dice.choices(WORDS, k=dice.randint(3, 60))) + "\n\u00e9\n" for _ in range(count)]


def splits(count: int = 24) -> Splits:
    """A corpus and its sides in the store; every third document is a test document."""
    written = texts(count)
    ids = [f"d{number}" for number in range(count)]
    sides = ["test" if number % 3 == 0 else "train" for number in range(count)]
    sizes = [len(text.encode()) for text in written]
    with storing("corpus", f"c{count}") as folder:
        pq.write_table(pa.table({"id": ids, "text": written, "bytes": sizes}), folder / "documents.parquet")
    with storing("splits", f"s{count}") as folder:
        pq.write_table(pa.table({"id": ids, "split": sides}), folder / "assignment.parquet")
    corpus = Corpus(
        key=f"c{count}",
        source="tiny words",
        documents_read=count + 1,
        documents=count,
        bytes=sum(sizes),
        dropped={"empty": 1},
        changed={},
    )
    documents = {"train": sides.count("train"), "validation": 0, "test": sides.count("test")}
    return Splits(
        key=f"s{count}",
        corpus=corpus,
        documents=documents,
        bytes={"test": sum(sizes[::3])},
        folds=0,
        near_duplicates=0,
    )


def tokenizer(merges: int = 40) -> PreTrainedTokenizerFast:
    """Byte-level BPE, learned from the tiny texts."""
    learned = Tokenizer(models.BPE())
    learned.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    learned.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=257 + merges, special_tokens=[START], initial_alphabet=alphabet, show_progress=False
    )
    learned.train_from_iterator(texts(50, seed=1), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=learned, bos_token=START, eos_token=START, pad_token=START
    )


def write_model(folder: Path, steps: int = 0, seed: int = 0, context: int = 32, merges: int = 40) -> Path:
    """A model of 2 layers by 32 after some steps on the tiny texts, as a Hugging Face folder."""
    spelling = tokenizer(merges)
    torch.manual_seed(seed)
    config = NanoChatConfig(
        vocab_size=len(spelling),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=context,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    model = NanoChatForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    ids = torch.tensor(spelling("".join(texts(60, seed=2)), add_special_tokens=False).input_ids)
    for step in range(steps):
        torch.manual_seed(step)
        starts = torch.randint(len(ids) - context, (8,))
        batch = torch.stack(
            [torch.cat([torch.tensor([0]), ids[at : at + context - 1]]) for at in starts.tolist()]
        )
        optimizer.zero_grad()
        model(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    spelling.save_pretrained(folder)
    return folder


def trained(run_id: str, steps: int = 0, seed: int = 0) -> Trained:
    """A finished run in its folder: model, journals, trials, blueprint, plan."""
    folder = home.run_folder(run_id)
    write_model(folder / "final" / "model", steps, seed)
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
    (folder / "trials.json").write_text(
        json.dumps(
            [
                {"number": 0, "state": "COMPLETE", "value": 2.0, "seconds": 2.0, "parameters": {"a.b": 0.1}},
                {"number": 1, "state": "PRUNED", "value": 2.5, "seconds": 1.0, "parameters": {"a.b": 0.2}},
            ]
        )
    )
    (folder / "blueprint.json").write_text(
        json.dumps({"learning": {"optimizer": {"kind": "muon", "rate": 0.04}}})
    )
    (folder / "plan.json").write_text(json.dumps({"trials": 2}))
    tokens = Tokens(
        key="t",
        splits=splits(),
        vocabulary=297,
        tokens={"train": 900, "validation": 0, "test": 400},
        bytes_per_token=2.4,
    )
    return Trained(
        key=f"trained-{run_id}",
        run_id=run_id,
        model="final/model",
        journal="final/journal.jsonl",
        objective="causal_language_model",
        parameters=30_000,
        steps=39,
        tokens_trained=9_000,
        training_seconds=8.0,
        final_seconds=9.0,
        workers=1,
        validation_bits_per_byte=2.2,
        tokens=tokens,
    )
