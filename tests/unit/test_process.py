from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from builder import process
from builder.errors import CommandError, ToolError
from tests.fakes import FakeTools
from tests.waiting import wait_until


def test_both_outputs_and_the_exit_code_are_returned(fake_tool: FakeTools) -> None:
    tool = fake_tool("speak", "echo said; echo muttered >&2; exit 3")

    finished = process.run(["speak", "a word", "--flag"], check=False)

    assert (finished.stdout, finished.stderr, finished.returncode) == ("said\n", "muttered\n", 3)
    assert tool.calls == [["a word", "--flag"]]


def test_a_failure_shows_the_command_ready_to_paste_and_its_last_lines(fake_tool: FakeTools) -> None:
    fake_tool("fail", "seq 1 40; exit 7")

    with pytest.raises(CommandError) as caught:
        process.run(["fail", "a word"], hint="Try again")

    lines = caught.value.message.splitlines()
    assert lines[0] == "`fail 'a word'` failed with exit code 7; its last lines:"
    assert lines[1:] == [f"    {number}" for number in range(26, 41)]
    assert (caught.value.returncode, caught.value.hint) == (7, "Try again")


def test_a_program_ended_by_a_signal_is_told_by_its_name(fake_tool: FakeTools) -> None:
    fake_tool("die", "kill -TERM $$")

    with pytest.raises(CommandError, match="was ended by SIGTERM"):
        process.run(["die"])


def test_a_program_that_hangs_is_stopped(fake_tool: FakeTools) -> None:
    fake_tool("hang", "echo started; exec sleep 60")

    with pytest.raises(CommandError, match="did not end within 1 s") as caught:
        process.run(["hang"], timeout_seconds=1)

    assert caught.value.output == "started\n"


def test_a_program_that_hangs_takes_its_children_along(fake_tool: FakeTools, tmp_path: Path) -> None:
    fake_tool("hang", f"sleep 60 & echo $! >'{tmp_path}/child'; wait")

    with pytest.raises(CommandError, match="did not end within 1 s"):
        process.run(["hang"], timeout_seconds=1)

    child = int((tmp_path / "child").read_text())
    wait_until(lambda: not _is_alive(child))


def test_a_program_that_hangs_may_tidy_up(fake_tool: FakeTools, tmp_path: Path) -> None:
    fake_tool("hang", f"trap 'echo tidied >\"{tmp_path}/said\"; exit 1' TERM; sleep 60 & wait")

    with pytest.raises(CommandError, match="did not end within 1 s"):
        process.run(["hang"], timeout_seconds=1)

    assert (tmp_path / "said").read_text() == "tidied\n"


def test_a_program_that_cannot_be_started_says_why(tmp_path: Path) -> None:
    page = tmp_path / "packer"
    page.write_text("not found")
    page.chmod(0o755)

    with pytest.raises(ToolError, match=f"`{page}` cannot be started: Exec format error"):
        process.run([page])


def test_a_missing_folder_is_not_taken_for_a_missing_program(fake_tool: FakeTools, tmp_path: Path) -> None:
    fake_tool("speak")

    with pytest.raises(ToolError, match=f"`speak` cannot be started in `{tmp_path}/gone`"):
        process.run(["speak"], cwd=tmp_path / "gone")


def test_output_is_read_as_utf_8_whatever_the_locale_is(fake_tool: FakeTools) -> None:
    fake_tool("speak", "printf '\\342\\200\\246'")

    assert process.run(["speak"]).stdout == "…"


def test_a_missing_program_is_named() -> None:
    with pytest.raises(ToolError, match="`no-such-program` is not installed") as caught:
        process.run(["no-such-program"])

    assert caught.value.hint == "Run `builder doctor`"


def test_a_missing_program_is_named_also_when_it_would_end_with_us(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="`no-such-program` is not installed"):
        process.Running(["no-such-program"], log=tmp_path / "log", when_we_die=signal.SIGKILL)


def test_a_program_sees_no_credential_and_speaks_english(
    fake_tool: FakeTools, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_tool("show", "env")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-for-you")
    monkeypatch.setenv("LANG", "de_DE.UTF-8")
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")

    seen = process.run(["show"], env={"PACKER_LOG": "1"}).stdout.splitlines()

    assert not [line for line in seen if line.startswith("AWS_")]
    assert {"LANG=C.UTF-8", "PACKER_LOG=1", "https_proxy=http://proxy.example:3128"} <= set(seen)


def test_stdin_is_empty_unless_given(fake_tool: FakeTools) -> None:
    fake_tool("read-all", "cat")

    assert process.run(["read-all"]).stdout == ""
    assert process.run(["read-all"], stdin="words").stdout == "words"


def test_stopping_ends_the_grandchildren_too(fake_tool: FakeTools, tmp_path: Path) -> None:
    child = tmp_path / "child"
    fake_tool("parent", f"sleep 60 & echo $! >{child}; wait")

    with process.Running(["parent"], log=tmp_path / "log") as running:
        wait_until(lambda: child.exists() and child.read_text() != "")

    assert running.poll() == -signal.SIGTERM
    wait_until(lambda: not _is_alive(int(child.read_text())))


def test_a_program_that_ignores_sigterm_is_killed(fake_tool: FakeTools, tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    fake_tool("stubborn", f"trap '' TERM; touch {ready}; while :; do sleep 0.1; done")
    running = process.Running(["stubborn"], log=tmp_path / "log")
    wait_until(ready.exists)

    assert running.stop(grace_seconds=0.3) == -signal.SIGKILL


def test_a_tool_that_is_missing_says_what_for_and_how_to_get_it(fake_tool: FakeTools) -> None:
    with pytest.raises(ToolError) as caught:
        process.find_tool("no-such-tool", to="bake", install="apt-get install no-such-tool")

    assert caught.value.message == "`no-such-tool` is not installed; it is needed to bake"
    assert caught.value.hint == "Run `apt-get install no-such-tool`"


def test_another_name_of_the_same_tool_will_do(fake_tool: FakeTools) -> None:
    tool = fake_tool("genisoimage")

    assert process.find_tool("no-such-tool", to="x", install="y", also=["genisoimage"]) == tool.path


def test_the_version_is_read_from_what_the_tool_prints(fake_tool: FakeTools) -> None:
    tool = fake_tool("packer", "echo 'Packer v1.6.6-dev'")

    assert process.tool_version(tool.path, ["version"]) == "1.6.6"
    assert tool.calls == [["version"]]


@pytest.mark.parametrize(
    ("script", "complaint"),
    [("exec sleep 60", "did not answer within 1 s"), ("echo hello", "printed no version")],
    ids=["hangs", "is another program"],
)
def test_a_tool_that_tells_no_version_is_an_error(fake_tool: FakeTools, script: str, complaint: str) -> None:
    tool = fake_tool("packer", script)

    with pytest.raises(ToolError, match=complaint) as caught:
        process.tool_version(tool.path, ["version"], timeout_seconds=1)

    assert "builder doctor" in (caught.value.hint or "")


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
