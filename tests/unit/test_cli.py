from __future__ import annotations

import errno
import importlib
import json
import os
import pkgutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest

import builder.cli
from builder.cli import cli, main
from builder.cli.verbs import VERBS, WithExample
from builder.errors import BuilderError

# Modules that cost more than the whole of `--help`.
HEAVY = {"rich", "pydantic", "boto3", "botocore", "yaml", "jinja2", "requests", "moto", "json"}
FailWith = Callable[[BaseException], None]
# Modules of builder.cli that are not a verb.
SHARED = {"options", "verbs"}


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Run builder in this process; returns exit code, stdout, stderr."""
    with pytest.raises(SystemExit) as caught:
        main(list(words))
    captured = capsys.readouterr()
    assert isinstance(caught.value.code, int)
    return caught.value.code, captured.out, captured.err


@pytest.fixture(autouse=True)
def _signals_as_before() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def fail_with(monkeypatch: pytest.MonkeyPatch) -> FailWith:
    """Make `builder presets` raise an error: `fail_with(error)`."""

    def use(error: BaseException) -> None:
        @click.command()
        def command() -> None:
            raise error

        monkeypatch.setattr(importlib.import_module("builder.cli.presets"), "command", command)

    return use


@pytest.mark.allow_programs("python", "python3", "python3.11")
def test_help_imports_nothing_heavy() -> None:
    script = "import sys; import builder.cli; builder.cli.cli.main(['--help'], standalone_mode=False);"
    script += "print(*sys.modules, file=sys.stderr)"

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    loaded = done.stderr.split()
    assert HEAVY & set(loaded) == set()
    assert [name for name in loaded if name.startswith("builder.") and "cli" not in name] == [
        "builder.errors"
    ]


def test_the_table_of_verbs_lists_the_modules_that_are_there() -> None:
    modules = {module.name for module in pkgutil.iter_modules(builder.cli.__path__)}

    assert set(VERBS) == modules - SHARED


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = importlib.import_module(f"builder.cli.{verb}").command

    for words, each in commands([verb], command):
        code, out, _err = run(capsys, *words, "--help")

        assert code == 0
        assert isinstance(each, WithExample)
        assert out.partition("Example:\n")[2].splitlines() == [
            f"  {line}" for line in each.example.splitlines()
        ]
        assert all(f"builder {' '.join(words)}" in line for line in each.example.splitlines())
        assert all(isinstance(p, click.Argument) or getattr(p, "help", None) for p in each.params)


def commands(words: list[str], command: click.Command) -> Iterator[tuple[list[str], click.Command]]:
    """Walk a command and its subcommands."""
    yield words, command
    if isinstance(command, click.Group):
        for name, each in command.commands.items():
            yield from commands([*words, name], each)


def test_help_lists_every_verb_with_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _err = run(capsys, "--help")

    text = " ".join(out.split())
    assert code == 0
    assert all(f"{verb} {what}" in text for verb, what in VERBS.items())


def test_without_a_verb_the_help_is_shown_and_the_usage_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    code, _out, err = run(capsys)

    assert code == 2
    assert "Commands:" in err


def test_a_mistyped_verb_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "pressets")

    assert (code, out) == (2, "")
    assert "There is no command `pressets`. Did you mean `presets`?" in err


def test_an_unknown_option_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    code, _out, err = run(capsys, "presets", "--colour")

    assert code == 2
    assert "--colour" in err


def test_an_error_ends_with_1_and_shows_no_traceback(
    fail_with: FailWith, capsys: pytest.CaptureFixture[str]
) -> None:
    fail_with(BuilderError("It broke", hint="Mend it"))

    code, out, err = run(capsys, "presets")

    assert (code, out, err) == (1, "", "error: It broke\n\nhint: Mend it\n")


def test_a_file_that_the_machine_refuses_is_an_error_without_a_traceback(
    fail_with: FailWith, capsys: pytest.CaptureFixture[str]
) -> None:
    fail_with(PermissionError(errno.EACCES, "Permission denied", "images/.locks"))

    code, out, err = run(capsys, "presets")

    assert (code, out) == (1, "")
    assert err.startswith("error: Cannot read or write `images/.locks`: Permission denied\n\nhint: ")


def test_where_the_bundle_of_a_refused_bake_lies_is_said(
    fail_with: FailWith, capsys: pytest.CaptureFixture[str]
) -> None:
    refused = PermissionError(errno.EACCES, "Permission denied", "payload.tar")
    refused.add_note("Everything that was seen: `bundle`")
    fail_with(refused)

    _code, _out, err = run(capsys, "presets")

    assert err.endswith("\nEverything that was seen: `bundle`\n")


@pytest.mark.parametrize("path", [None, "images/x"])
def test_a_full_disk_is_an_error_that_says_where_builder_writes(
    path: str | None, fail_with: FailWith, capsys: pytest.CaptureFixture[str]
) -> None:
    fail_with(OSError(errno.ENOSPC, "No space left on device", path))

    code, _out, err = run(capsys, "presets")

    assert code == 1
    assert err.startswith("error: The disk is full")
    assert "BUILDER_CACHE" in err
    assert (path or "") in err


def test_a_fault_of_our_own_still_crashes(fail_with: FailWith) -> None:
    fail_with(OSError(errno.EINVAL, "Invalid argument"))

    with pytest.raises(OSError, match="Invalid argument"):
        main(["presets"])


def test_a_file_where_a_folder_is_wanted_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()

    code, _out, err = run(capsys, "render", "--preset", "gmail", "--out", str(tmp_path / "file" / "out"))

    assert code == 1
    assert f"Cannot read or write `{tmp_path}/file/out" in err


def test_debug_shows_the_traceback_too(fail_with: FailWith, capsys: pytest.CaptureFixture[str]) -> None:
    fail_with(BuilderError("It broke"))

    code, _out, err = run(capsys, "--debug", "presets")

    assert code == 1
    assert err.startswith("Traceback (most recent call last)")
    assert err.endswith("error: It broke\n")


def test_ctrl_c_ends_with_130_and_one_line(fail_with: FailWith, capsys: pytest.CaptureFixture[str]) -> None:
    fail_with(KeyboardInterrupt())

    code, out, err = run(capsys, "presets")

    assert (code, out) == (130, "")
    assert err.split("\n") == ["", "stopped", ""]


@pytest.mark.allow_programs("python", "python3", "python3.11")
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_lets_every_with_block_clean_up(number: signal.Signals, code: int, tmp_path: Path) -> None:
    script = tmp_path / "stopped.py"
    script.write_text(
        "import signal, time, click, builder.cli, builder.cli.presets\n"
        # What `nohup` or a shell's `&` has switched off for the tests would stay so here.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
        "@click.command()\n"
        "def command():\n"
        "    try:\n"
        "        print('started', flush=True)\n"
        "        time.sleep(60)\n"
        "    finally:\n"
        "        print('cleaned up', flush=True)\n"
        "builder.cli.presets.command = command\n"
        "builder.cli.main(['presets'])\n"
    )

    with subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "started\n"
        running.send_signal(number)
        out, err = running.communicate(timeout=60)

    assert (running.returncode, out) == (code, "cleaned up\n")
    assert err.strip() == "stopped"


@pytest.mark.allow_programs("python", "python3", "python3.11")
def test_ctrl_c_during_the_imports_shows_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text("raise KeyboardInterrupt")
    early = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(builder.cli.__file__).parents[2]}"}

    command = [sys.executable, "-m", "builder", "presets"]
    done = subprocess.run(command, env=early, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.allow_programs("python", "python3", "python3.11")
def test_a_reader_that_leaves_early_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "builder", "presets", "ses", "--json"]

    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)

    assert done.stderr == ""


@pytest.mark.allow_programs("python", "python3", "python3.11")
def test_a_full_stdout_is_an_error_of_one_line() -> None:
    command = [sys.executable, "-m", "builder", "presets", "ses"]

    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)

    assert done.returncode == 1
    assert done.stderr.startswith("error: The disk is full")
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.allow_programs("sh")
def test_a_closed_stdout_is_no_error() -> None:
    command = ["sh", "-c", f"exec '{sys.executable}' -m builder presets >&-"]

    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.allow_programs("python", "python3", "python3.11")
def test_a_locale_without_the_character_does_not_end_the_output() -> None:
    script = "import builder.cli; builder.cli.main(['presets', 'ses'])"
    latin = {**os.environ, "PYTHONIOENCODING": "latin-1:strict"}

    done = subprocess.run([sys.executable, "-c", script], env=latin, capture_output=True, check=False)

    assert (done.returncode, done.stderr) == (0, b"")
    assert b"\\u2026" in done.stdout


@pytest.mark.parametrize("group", ["base", "instances", "secret"])
def test_a_mistyped_subcommand_names_those_there_are(group: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = importlib.import_module(f"builder.cli.{group}").command

    code, out, err = run(capsys, group, "frobnicate")

    assert (code, out) == (2, "")
    assert "There is no command `frobnicate`." in err
    assert all(name in err for name in command.commands)


@pytest.mark.parametrize("group", ["base", "instances", "secret"])
def test_the_help_of_a_group_cuts_no_sentence(group: str, capsys: pytest.CaptureFixture[str]) -> None:
    _code, out, _err = run(capsys, group, "--help")

    assert "..." not in out.partition("Commands:")[2]


@pytest.mark.allow_programs("bash")
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_printed_for_each_shell(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _err = run(capsys, "completion", shell)

    assert code == 0
    assert "_BUILDER_COMPLETE" in out


def test_completion_knows_verbs_and_presets() -> None:
    from click.shell_completion import ShellComplete

    complete = ShellComplete(cli, {}, "builder", "_BUILDER_COMPLETE")

    assert [item.value for item in complete.get_completions([], "rend")] == ["render"]
    assert [item.value for item in complete.get_completions(["render", "--preset"], "sendg")] == ["sendgrid"]
    assert "debian-12" in [item.value for item in complete.get_completions(["render", "--base"], "debian")]


@pytest.mark.parametrize(
    ("words", "begun", "expected"),
    [
        (["presets"], "gm", ["gmail", "gmail-workspace"]),
        (["base", "build"], "debian-1", ["debian-11", "debian-12", "debian-13"]),
        (["base", "build"], "ubuntu-2", ["ubuntu-20.04", "ubuntu-22.04", "ubuntu-24.04", "ubuntu-26.04"]),
        (["base", "fetch"], "ubuntu-24", ["ubuntu-24.04"]),
        (["base", "fetch"], "debian", []),
        *((["instances", verb], "i-0a", ["i-0a1", "i-0a2"]) for verb in ("stop", "start", "delete")),
        (["conformance"], "starttls-s", ["starttls-stripped"]),
        (["conformance", "starttls-stripped"], "starttls-s", []),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else value,
)
def test_names_are_completed(
    words: list[str],
    begun: str,
    expected: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from click.shell_completion import ShellComplete

    (tmp_path / ".instances").mkdir()
    for name in ("i-0a1.json", "i-0a2.json", "i-0b1.json", "i-0a3.log"):
        (tmp_path / ".instances" / name).write_text("{}")
    monkeypatch.setenv("BUILDER_IMAGES", str(tmp_path))

    complete = ShellComplete(cli, {}, "builder", "_BUILDER_COMPLETE")

    assert [item.value for item in complete.get_completions(words, begun)] == expected


def test_json_of_the_presets_is_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "presets", "--json")

    assert (code, err) == (0, "")
    assert "ses" in [row["preset"] for row in json.loads(out)]


def test_a_preset_is_shown_with_the_address_and_date_of_each_value(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, out, _err = run(capsys, "presets", "ses", "--sources")

    assert code == 0
    assert "How to get the credential" in out
    assert "https://docs.aws.amazon.com/ses/" in out


def test_an_unknown_preset_lists_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    code, _out, err = run(capsys, "presets", "sendgird")

    assert code == 1
    assert "Did you mean `sendgrid`?" in err
