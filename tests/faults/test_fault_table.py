"""The table says what the tests said."""

import pytest
from catalogue import FAULTS
from fault_table import BEGIN, END, Results, circumstances, put_into, put_rows_into
from refusing import refused


def report(results, test, number, outcome, *, when="call", expected=False, measured=(), target="all"):
    properties = [("fault", [number, target]), *(("measured", value) for value in measured)]
    results.add(test, properties, when=when, outcome=outcome, expected=expected, seconds=1.5)


def test_a_row_joins_its_tests_and_shows_the_worst():
    results = Results()
    report(results, "one", "F1", "passed", measured=["3 kills"])
    report(results, "one", "F1", "passed", when="setup")
    assert results.rows["F1"].result == "passed"
    report(results, "two", "F1", "passed", measured=["20 kills | equal"], target="equal bytes")
    line = next(line for line in results.lines(complete=False) if line.startswith("| F1 "))
    assert line == f"| F1 | {FAULTS['F1']} | all; equal bytes | 3 kills; 20 kills \\| equal | passed | 4.5 |"
    report(results, "three", "F1", "failed")
    report(results, "three", "F1", "passed", when="teardown")
    assert results.rows["F1"].result == "FAILED"


@pytest.mark.parametrize(("outcomes", "result"), [
    (["skipped"], "skipped"), (["skipped", "passed"], "passed in part"), (["passed", "gap"], "gap"), (["gap", "failed"], "FAILED")
])
def test_what_did_not_run_is_not_passed(outcomes, result):
    results = Results()
    for index, outcome in enumerate(outcomes):
        report(results, str(index), "B9", "skipped" if outcome == "gap" else outcome, expected=outcome == "gap")
    assert results.rows["B9"].result == result


def test_an_error_before_the_test_fails_its_row():
    results = Results()
    report(results, "one", "F3", "failed", when="setup")
    assert results.rows["F3"].result == "FAILED"


def test_numbers_without_a_test_are_missing():
    results = Results()
    report(results, "one", "L8", "passed")
    assert results.missing == [number for number in FAULTS if number != "L8"]
    assert len(results.lines(complete=True)) == len(FAULTS) + 2 and len(results.lines(complete=False)) == 3
    assert "| MISSING |" in results.lines(complete=True)[2]


def test_the_table_takes_the_place_between_the_marks(tmp_path):
    path = tmp_path / "page.md"
    path.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    put_into(path, "new")
    assert path.read_text() == f"before\n{BEGIN}\nnew\n{END}\nafter\n"
    path.write_text("no marks\n")
    refused("needs one line", put_into, path, "new")


def test_some_rows_are_run_again(tmp_path):
    results, again, path = Results(), Results(), tmp_path / "page.md"
    for number in ("F1", "F2", "L9"):
        report(results, "one", number, "failed" if number == "L9" else "passed")
    path.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    put_into(path, "\n".join(["2026:", "", *results.lines(complete=False)]))
    report(again, "one", "L9", "passed", measured=["all of them"])
    put_rows_into(path, {"L9": again.line("L9")}, said="2027")
    text = path.read_text()
    lines = [results.line("F1"), results.line("F2"), again.line("L9"), "", "L9 again: 2027", END, "after", ""]
    assert text.endswith("\n".join(lines)) and text.startswith(f"before\n{BEGIN}\n2026:") and "FAILED" not in text
    refused("its table has no row B1; run all faults first", put_rows_into, path, {"B1": ""}, said="2027")


def test_the_table_says_where_it_was_made():
    assert "torch" in circumstances() and "commit" in circumstances()
