"""Tables as text, Markdown and CSV."""

from gns.utils.tables import as_csv, as_markdown, as_text

ROWS = [["scene", "PSNR"], ["bicycle", "25.76"], ["a, b", "9.5"]]


def test_text_is_aligned() -> None:
    assert as_text(ROWS) == "scene     PSNR\n--------------\nbicycle  25.76\na, b       9.5\n"


def test_markdown() -> None:
    assert as_markdown(ROWS) == "| scene | PSNR |\n| --- | ---: |\n| bicycle | 25.76 |\n| a, b | 9.5 |\n"


def test_csv_quotes_commas() -> None:
    assert as_csv(ROWS) == 'scene,PSNR\nbicycle,25.76\n"a, b",9.5\n'
