from __future__ import annotations

import json

import pytest

from builder import console
from builder.errors import BuilderError


def test_data_goes_to_stdout_and_progress_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    console.say("working")
    console.out("data")

    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("data\n", "working\n")


def test_an_error_is_followed_by_a_blank_line_and_its_hint(capsys: pytest.CaptureFixture[str]) -> None:
    console.fail(BuilderError("`packer` is not installed", hint="Run `apt-get install packer`"))

    expected = "error: `packer` is not installed\n\nhint: Run `apt-get install packer`\n"
    assert capsys.readouterr().err == expected


def test_square_brackets_are_text_and_not_markup(capsys: pytest.CaptureFixture[str]) -> None:
    console.say("relayhost = [mail.example.com]:587")
    console.warn("[red]")
    console.out_table(["A"], [["[bold]x"]])

    captured = capsys.readouterr()
    assert captured.err == "relayhost = [mail.example.com]:587\nwarning: [red]\n"
    assert captured.out == "A\n[bold]x\n"


def test_json_is_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    console.out_json({"name": "größe", "list": [1, 2]})

    assert json.loads(capsys.readouterr().out) == {"name": "größe", "list": [1, 2]}


def test_a_table_without_a_terminal_breaks_no_cell(capsys: pytest.CaptureFixture[str]) -> None:
    long = "x" * 500

    console.out_table(["NAME", "VALUE"], [["a", long], ["b", "short"]])

    assert capsys.readouterr().out.splitlines() == ["NAME  VALUE", f"a     {long}", "b     short"]


def test_fields_stand_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    console.out_fields({"host": "smtp.example.com", "port": "587"})

    assert capsys.readouterr().out == "host  smtp.example.com\nport  587\n"


def test_nested_steps_are_indented_and_timed(capsys: pytest.CaptureFixture[str]) -> None:
    with console.step("bake"), console.step("boot") as inner:
        inner.note("waiting for SSH")
        inner.note("waiting for SSH")

    lines = capsys.readouterr().err.splitlines()
    assert [line.rstrip(" ().0123456789s") for line in lines if "✓" in line] == ["  ✓ boot", "✓ bake"]
    assert len([line for line in lines if "waiting for SSH" in line]) == 1


def test_a_failed_step_is_marked_and_the_error_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BuilderError), console.step("bake"):
        raise BuilderError("no")

    assert "✗ bake" in capsys.readouterr().err
    console.say("after")
    assert capsys.readouterr().err == "after\n"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.42, "0.4 s"), (41.4, "41 s"), (185, "3 min 05 s"), (3600, "60 min 00 s")]
)
def test_durations_are_written_as_people_read_them(seconds: float, text: str) -> None:
    assert console.format_seconds(seconds) == text
