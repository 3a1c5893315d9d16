"""Text that fits a screen: widths in cells, names cut in the middle, sentences wrapped, tables."""

from __future__ import annotations

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pmuconf.report import screen
from pmuconf.report.plain import printable
from pmuconf.report.screen import Column, cells, cut, lines_of, table_lines

TEXTS = st.text(max_size=60).map(printable)


def test_the_examples() -> None:
    assert doctest.testmod(screen).failed == 0


@pytest.mark.parametrize(
    ("text", "width"),
    [("", 0), ("web1", 4), ("日本", 4), ("e\u0301", 1), ("🚀", 2), ("☃\ufe0f", 2), ("\uff57", 2)],
)
def test_cells_are_counted_as_a_terminal_does(text: str, width: int) -> None:
    assert cells(text) == width


@given(TEXTS, st.integers(1, 80))
def test_a_text_that_is_cut_fits_and_keeps_both_ends(text: str, room: int) -> None:
    short = cut(text, room)
    assert cells(short) <= room
    assert short == text or cells(text) > room
    if "…" in short and short != text:
        head, tail = short.split("…", 1) if "…" not in text else ("", "")
        assert text.startswith(head)
        assert text.endswith(tail)


def test_names_that_begin_alike_stay_apart() -> None:
    names = [f"instance-{number:08x}" for number in range(300)]
    assert len({cut(name, 9) for name in names}) == 300


@given(st.lists(TEXTS, max_size=12).map(" ".join), st.integers(10, 100))
def test_lines_fit_and_lose_no_word(text: str, width: int) -> None:
    lines = lines_of(text, width)
    assert all(cells(line) <= width for line in lines)
    assert "".join("".join(lines).split()) == "".join(text.split())


def test_a_command_in_quotes_stays_on_one_line() -> None:
    lines = lines_of("48 domains' PMU: 'pmuconf apply --dry-run' shows what would be changed", 40)
    assert lines == ["48 domains' PMU:", "  'pmuconf apply --dry-run' shows what", "  would be changed"]
    assert lines_of("  a line that is indented", 12, "    ") == ["  a line", "    that is", "    indented"]


COLUMNS = (Column("name", cuts=True), Column("flavor", cuts=True), Column("cause"), Column("note", folds=True))


@given(st.lists(st.tuples(TEXTS, TEXTS, st.sampled_from(["drift", "pmu-unknown"]), TEXTS), max_size=5))
def test_a_table_has_no_line_that_is_too_long(rows: list[tuple[str, ...]]) -> None:
    for width in (30, 60, 80):
        assert all(cells(line) <= width for line in table_lines(COLUMNS, rows, width))


def test_what_gives_way_first() -> None:
    row = ("n" * 30, "f" * 30, "pending-power-cycle", "a sentence of forty cells, or about that")
    assert list(table_lines(COLUMNS, [row], None))[2] == "  ".join(row)
    folded = list(table_lines(COLUMNS, [row], 110))
    assert row[0] in folded[2]
    assert len(folded) == 4
    unusual = list(table_lines(COLUMNS, [row], 93))[2]
    assert [len(text) for text in unusual.split("  ")[:2]] == [24, 24]
    cut_too = list(table_lines(COLUMNS, [row], 88))[2]
    assert [len(text) for text in cut_too.split("  ")[:2]] == [24, 19]
    assert "pending-power-cycle" in list(table_lines(COLUMNS, [row], 70))[2]


def test_a_spare_column_goes_where_nothing_else_can_be_cut() -> None:
    columns = (Column("name", cuts=True), Column("flavor", cuts=True, spare=True), Column("cause"))
    row = ("instance-000001a0", "m1.small", "pending-power-cycle")
    assert "m1.small" in "".join(table_lines(columns, [row], 41))
    assert "m1.small" not in "".join(table_lines(columns, [row], 40))


def test_numbers_are_to_the_right_and_words_are_painted_without_a_change_of_width() -> None:
    columns = (Column("name", cuts=True), Column("status"), Column("VMs", right=True))
    rows = [("drift", "drift", "7"), ("b", "ok", "12")]
    lines = list(table_lines(columns, rows, None, paint=lambda text: f"<{text}>"))
    assert lines[2:] == ["drift  <drift>     <7>", "b      <ok>       <12>"]
