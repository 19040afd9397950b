"""Counts and sizes as people write them."""

import pytest

from gns.utils.quantities import format_count, parse_count, parse_size


@pytest.mark.parametrize(
    ("text", "count"),
    [("0", 0), ("600000", 600_000), ("600_000", 600_000), ("600k", 600_000), ("1.2M", 1_200_000), ("-1", -1)],
)
def test_counts(text: str, count: int) -> None:
    assert parse_count(text) == count


@pytest.mark.parametrize(
    "text", ["", "k", "1.5", "1.2345k", "6K", "1e5", "0x10", "--5", "1 k", "nan", "٣", "5MB", "_5"]
)
def test_what_is_no_count(text: str) -> None:
    with pytest.raises(ValueError, match="is not a whole number"):
        parse_count(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [("20MB", 20_000_000), ("20 MB", 20_000_000), ("1.5GB", 1_500_000_000), ("1MiB", 1 << 20), ("3kB", 3000)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "20M", "20", "MB", "-3MB", "20Mb", "20TB"])
def test_what_is_no_size(text: str) -> None:
    assert parse_size(text) is None


@pytest.mark.parametrize("count", [0, 7, 999, 1000, 15_000, 123_456, 600_000, 1_200_000, 2_000_000])
def test_formatted_counts_are_read_back(count: int) -> None:
    assert parse_count(format_count(count)) == count
    assert len(format_count(count)) <= len(str(count))
