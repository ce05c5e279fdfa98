"""Many texts at once, from anywhere and to anywhere: each is answered, in order, as if it were alone."""

import csv
import gzip
import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.artifacts import InputError
from tasks.asked import AT_ONCE, texts_in
from tasks.documents import Document
from tasks.generate import load
from tasks.predict import answer as predict
from tasks.told import Request
from tasks.writing import Wish, answer, sample, write
from tests import tiny_run
from training.model import Scratch, Shape


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_run.write_model(tmp_path_factory.mktemp("writer"), steps=10)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_run.write_model(tmp_path_factory.mktemp("classifier"), head="classification")


def texts(*paths: Path | str, **options: str) -> list[str]:
    found = texts_in([str(path) for path in paths], **options)  # type: ignore[arg-type]
    return [one.text if isinstance(one, Document) else f"no: {one.reason}" for one in found]


def piped(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))


def test_a_text_file_holds_one_a_line_and_a_folder_one_a_file(tmp_path: Path) -> None:
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "b.txt").write_text("one\n\ntwo\r\n")
    (folder / "a.md").write_text("three\nfour\n")
    assert texts(folder / "b.txt") == ["one", "", "two"]
    assert texts(folder) == ["three\nfour\n", "one\n\ntwo\r\n"]
    assert texts(folder, each="line") == ["three", "four", "one", "", "two"]
    assert texts(folder / "b.txt", each="file") == ["one\n\ntwo\r\n"]
    assert texts(folder / "b.txt", folder / "a.md") == ["one", "", "two", "three", "four"]
    (folder / "c.txt.gz").write_bytes(gzip.compress(b"packed\nlines"))
    assert texts(folder / "c.txt.gz") == ["packed", "lines"]


def test_tables_hold_one_a_row_and_what_is_none_is_said_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\nbroken\n{"text": 3}\n{"text": "two"}\n')
    (tmp_path / "b.csv").write_text("n,text\n1,three\n2,\n")
    pq.write_table(pa.table({"text": ["four", None]}), tmp_path / "c.parquet")
    found = texts(tmp_path / "c.parquet", tmp_path / "a.jsonl", tmp_path / "b.csv")
    none = "no: no text in its column"
    assert found == ["four", none, "one", "no: malformed row", none, "two", "three", ""]
    with pytest.raises(InputError, match="has no column 'body'"):
        texts(tmp_path / "b.csv", column="body")
    assert texts(tmp_path / "b.csv", column="n") == ["1", "2"]
    with pytest.raises(InputError, match="does not exist"):
        texts(tmp_path / "no.txt")


def test_a_pipe_holds_lines_or_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    for data, piped_as, expected in (
        (b"one\n\xff\ntwo", "txt", ["one", "no: not UTF-8", "two"]),
        (b'{"text": "one"}\n{"text": "two"}\n', "jsonl", ["one", "two"]),
        (b"text,x\none,1\n", "csv", ["one"]),
    ):
        piped(monkeypatch, data)
        assert texts("-", piped=piped_as) == expected
    piped(monkeypatch, b"one\ntwo\n")
    assert texts("-", each="file") == ["one\ntwo\n"]


@pytest.mark.parametrize("family", ["lfm2", "nanochat", "llama", "gpt2", "mamba2", "qwen3"])
def test_many_at_once_are_written_as_each_is_alone(family: str) -> None:
    """Prompts of all lengths, some beyond the context, so that windows move on at different steps."""
    tokenizer = tiny_run.tokenizer()
    model = Scratch(family=family, depth=2).build(Shape(vocabulary=len(tokenizer), context=32), seed=1).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1 and not parameter.any():
            parameter.data.normal_(std=0.2)  # zeroed projections would write the same whatever stands before
    prompts = ["", "def", "for value in range len key", "return self " * 30, "x", *tiny_run.texts(6)]
    wish = Wish(tokens=40, temperature=0.0)
    together = write(model, tokenizer, prompts, range(len(prompts)), wish)
    alone = ["".join(sample(model, tokenizer, prompt, wish)) for prompt in prompts]
    assert together == alone
    assert len(set(together)) > 3


def test_drawn_texts_hang_on_their_place_not_on_their_company(writer: Path) -> None:
    model, tokenizer = load(writer)
    prompts = ["def"] * 3 + ["return value"]
    together = write(model, tokenizer, prompts, range(4), Wish(20, 1.0, 50, seed=7))
    assert len(set(together)) == 4
    alone = [
        "".join(sample(model, tokenizer, p, Wish(20, 1.0, 50, seed=7 + n))) for n, p in enumerate(prompts)
    ]
    assert together == alone


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".parquet"])
def test_answers_go_to_a_file_in_order_with_what_went_wrong(
    ending: str, classifier: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    count = AT_ONCE + 20
    rows = [json.dumps({"text": f"def value {number}"}) for number in range(count)]
    rows[5] = "broken"
    (tmp_path / "in.jsonl").write_text("\n".join(rows))
    out = tmp_path / f"answers{ending}"
    assert predict(classifier, None, Request((str(tmp_path / "in.jsonl"),), out=out))
    if ending == ".parquet":
        found = pq.read_table(out).to_pylist()
        assert found[0]["labels"][0]["text"] == found[0]["label"]
    elif ending == ".csv":
        with out.open(newline="") as file:
            found = list(csv.DictReader(file))
        assert json.loads(found[0]["labels"])[0][0] == found[0]["label"]
    else:
        found = [json.loads(line) for line in out.read_text().splitlines()]
        assert found[0]["labels"][0][0] == found[0]["label"]
    assert [int(row["position"]) for row in found] == list(range(count))
    assert [row["text"] for row in found][6:] == [f"def value {number}" for number in range(6, count)]
    assert found[5]["error"] == "malformed row"
    said = capfd.readouterr()
    assert said.out == ""
    assert said.err.splitlines() == [
        f"1 of {count} texts have no answer; the first is {tmp_path / 'in.jsonl'}, text 6: malformed row"
    ]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    with pytest.raises(InputError, match="is there already"):
        predict(classifier, None, Request((str(tmp_path / "in.jsonl"),), out=out))


def test_what_cannot_be_written_is_said(classifier: Path, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("def\n")
    with pytest.raises(InputError, match=r"name a file that ends in \.jsonl, \.csv, \.parquet"):
        predict(classifier, None, Request((str(tmp_path / "in.txt"),), out=tmp_path / "out.xlsx"))
    with pytest.raises(InputError, match="give a text or --file"):
        predict(classifier, "def", Request((str(tmp_path / "in.txt"),)))
    (tmp_path / "bad.jsonl").write_text("broken\n")
    assert not predict(classifier, None, Request((str(tmp_path / "bad.jsonl"),)))


def test_prompts_are_written_under_headings_or_as_json(
    writer: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "prompts.txt").write_text("def\nreturn\n")
    request = Request((str(tmp_path / "prompts.txt"),))
    assert answer(writer, None, Wish(4, seed=0), request)
    lines = capfd.readouterr().out
    assert lines.startswith(f"==> {tmp_path / 'prompts.txt'}, text 1 <==\ndef")
    assert f"==> {tmp_path / 'prompts.txt'}, text 2 <==\nreturn" in lines
    assert answer(writer, None, Wish(4, seed=0), Request(request.files, as_json=True))
    first, second = map(json.loads, capfd.readouterr().out.splitlines())
    assert (first["prompt"], second["prompt"], second["position"]) == ("def", "return", 1)
    assert answer(writer, "def", Wish(4, seed=0), Request(as_json=True))
    assert json.loads(capfd.readouterr().out) == {"prompt": "def", "completion": first["completion"]}
