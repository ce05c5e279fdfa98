"""Parquet is read in little memory, whatever its pages hold; how large they are is known beforehand."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks import formats, parquet, parquet_pages, unpacking
from tests.test_bad_inputs import read

MIB = 1024**2


@pytest.mark.parametrize("compression", ["none", "snappy", "gzip", "zstd"])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_a_page_of_parquet_that_is_too_large_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compression: str, version: str
) -> None:
    monkeypatch.setattr(parquet, "LARGEST_PAGE_BYTES", 2 * MIB)
    texts = [["one"], ["x" * 3 * MIB, "lost with it"], ["two"] * 5_000]
    schema = pa.schema({"id": pa.int64(), "text": pa.string()})
    with pq.ParquetWriter(
        tmp_path / "a.parquet", schema, compression=compression, data_page_version=version
    ) as writer:
        for group in texts:
            writer.write_table(pa.table({"id": range(len(group)), "text": group}, schema))
    read_texts, reasons = read(tmp_path)
    assert (len(read_texts), reasons) == (5_001, {parquet.TOO_LARGE_PAGE: 1})


def test_a_value_that_is_too_large_costs_its_row(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["one", "x" * 17 * MIB, None, "two"]}), tmp_path / "a.parquet")
    assert read(tmp_path) == (["one", "two"], {formats.TOO_LARGE: 1, formats.NO_TEXT: 1})


@pytest.mark.parametrize("case", ["nothing", "the same"])
def test_a_parquet_that_says_little_over_and_over_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.setattr(unpacking, "BOMB_FREE_BYTES", MIB)
    if case == "nothing":
        texts = pa.nulls(1_000_000, pa.string())
    else:
        indices = pa.array([0] * 100_000, pa.int32())
        texts = pa.DictionaryArray.from_arrays(indices, pa.array(["x" * 9_000]))
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet")
    kept, reasons = read(tmp_path)
    assert len(kept) < 500 and reasons.pop(unpacking.BOMB) == 1
    assert reasons.get(formats.NO_TEXT, 0) < 200_000


@pytest.mark.parametrize("compression", ["none", "zstd"])
@pytest.mark.parametrize("dictionary", [False, True])
def test_pages_are_found_where_arrow_says_they_are(
    tmp_path: Path, compression: str, dictionary: bool
) -> None:
    texts = [f"text {number} " * (number % 500) for number in range(5_000)]
    nested = [{"text": text[:9], "tags": [text[:4]] * (number % 3)} for number, text in enumerate(texts)]
    table = pa.table({"a.b": texts, "nested": nested, "flag": [True, False] * 2_500})
    path = tmp_path / "a.parquet"
    pq.write_table(
        table,
        path,
        row_group_size=2_000,
        compression=compression,
        use_dictionary=dictionary,
        write_page_index=True,
        store_decimal_as_integer=False,
    )
    known = pq.read_metadata(path)
    with path.open("rb") as file:
        groups = parquet_pages.row_groups(file)
        assert len(groups) == known.num_row_groups == 3
        for number, group in enumerate(groups):
            for at, chunk in enumerate(group):
                says = known.row_group(number).column(at)
                assert says.path_in_schema.startswith(chunk.column)
                assert chunk.size_bytes == says.total_compressed_size
                assert 0 < parquet_pages.largest_page_bytes(file, chunk) < says.total_uncompressed_size


def test_a_long_header_of_a_page_is_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pq.write_table(
        pa.table({"text": ["one" * 500, "two" * 500]}), tmp_path / "a.parquet", use_dictionary=False
    )
    with (tmp_path / "a.parquet").open("rb") as file:
        ((chunk,),) = parquet_pages.row_groups(file)
        expected = parquet_pages.largest_page_bytes(file, chunk)
        monkeypatch.setattr(parquet_pages, "HEADER_BYTES", 4)
        assert parquet_pages.largest_page_bytes(file, chunk) == expected == 3014


def test_a_footer_that_is_too_long_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_pages, "LARGEST_BYTES", 100)
    pq.write_table(pa.table({"text": ["one"]}), tmp_path / "a.parquet")
    assert read(tmp_path) == ([], {formats.BROKEN: 1})
