"""A template is staged for one Packer and one target, and its mistakes are found before Packer runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import hcl2
import pytest

from builder import packer_template
from builder.errors import BuilderError, ConfigError
from builder.packer import Packer
from tests.fakes import FakeTools

OLD = Packer(Path("packer"), "1.6.6")
SOURCE = 'source "qemu" "relay" {\n  vm_name = var.name\n}\n'
BUILD = 'build {\n  sources = ["source.qemu.relay", "source.amazon-ebs.relay"]\n}\n'


def write(folder: Path, **files: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / f"{name.replace('_', '.')}.pkr.hcl").write_text(text)
    return folder


def variable(name: str, kind: str = "string", default: str | None = None) -> str:
    line = f"  default = {default}\n" if default is not None else ""
    return f'variable "{name}" {{\n  type = {kind}\n{line}}}\n'


def problems(folder: Path, values: dict[str, Any]) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as error:
        packer_template.check(folder, values, packer=OLD, target="qemu")
    return error.value.problems


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "mine", variables=variable("name"), source_qemu=SOURCE, build=BUILD)


def test_right_values_pass(folder: Path) -> None:
    packer_template.check(folder, {"name": "ses"}, packer=OLD, target="qemu")


def test_all_mistakes_are_told_at_once(folder: Path) -> None:
    write(folder, more=variable("memory_mib", "number") + variable("seed_files", "list(string)"))
    write(folder, use="locals {\n  x = var.undeclared\n}\n")
    assert problems(folder, {"nmae": "ses", "memory_mib": "2048", "seed_files": "user-data"}) == (
        "variable `nmae` is set for this run, but the template does not declare it; did you mean `name`?",
        "variable `name` has no default and no value",
        "variable `memory_mib` is declared as number, but its value is a string",
        "variable `seed_files` is declared as list(string), but its value is a string",
        "`var.undeclared` is used in use.pkr.hcl, but no variable `undeclared` is declared",
    )


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("string", "x"), ("number", 2), ("number", 0.5), ("bool", True), ("list(string)", ["a"]),
        ("map(string)", {"a": "b"}), ("list(map(number))", [{"a": 1}]), ("any", [1, "a"]),
        ("object({a=string})", {"a": "x", "more": 1}), ("object({a=list(number)})", {"a": [1]}),
        ("tuple([string, number])", ["a", 1]), ("tuple([string])", [None]), ("list", [1]), ("map", {"a": 1}),
        ('"string"', "x"),
    ],
)  # fmt: skip
def test_value_of_the_declared_type_passes(folder: Path, kind: str, value: object) -> None:
    write(folder, more=variable("it", kind))
    packer_template.check(folder, {"name": "ses", "it": value}, packer=OLD, target="qemu")


@pytest.mark.parametrize(
    ("kind", "value", "found"),
    [
        ("string", 2, "a number"), ("number", True, "a bool"), ("bool", "true", "a string"),
        ("map(string)", ["a"], "a list"), ("string", {}, "a map"), ("object({})", [], "a list"),
        ("tuple([string])", "a", "a string"),
    ],
)  # fmt: skip
def test_value_of_another_type_is_a_mistake(folder: Path, kind: str, value: object, found: str) -> None:
    write(folder, more=variable("it", kind))
    assert problems(folder, {"name": "ses", "it": value}) == (
        f"variable `it` is declared as {kind}, but its value is {found}",
    )


@pytest.mark.parametrize(
    ("kind", "value", "wrong"),
    [
        ("list(string)", ["a", 1], "`2` of its value is a number"),
        ("map(string)", {"a": 1}, "`a` of its value is a number"),
        ("object({a=string})", {}, "its value lacks `a`"),
        ("object({a=string})", {"a": True}, "`a` of its value is a bool"),
        (
            "object({a=string,b=list(object({c=number}))})",
            {"a": "x", "b": [{"c": 1}, {}]},
            "`2` of `b` of its value lacks `c`",
        ),
        ("tuple([string, number])", ["a"], "its value has 1 items, not 2"),
        ("tuple([string, number])", [1, 1], "`1` of its value is a number"),
    ],
)
def test_mistake_inside_a_value_is_told_with_its_place(
    folder: Path, kind: str, value: object, wrong: str
) -> None:
    write(folder, more=variable("it", kind))
    (told,) = problems(folder, {"name": "ses", "it": value})
    assert told.startswith("variable `it` is declared as ")
    assert told.endswith(f", but {wrong}")


def test_label_without_quotes_declares_as_well(folder: Path) -> None:
    write(
        folder, more="variable plain {\n  type = string\n}\nsource amazon-ebs relay {\n  x = var.plain\n}\n"
    )
    packer_template.check(folder, {"name": "ses", "plain": "x"}, packer=OLD, target="qemu")
    packer_template.check(folder, {"name": "ses", "plain": "x"}, packer=OLD, target="ami")


def test_short_form_declares_with_defaults(folder: Path) -> None:
    write(folder, more='variables {\n  zone = "a"\n}\nlocals {\n  x = var.zone\n}\n')
    packer_template.check(folder, {"name": "ses"}, packer=OLD, target="qemu")


@pytest.mark.parametrize(
    "text",
    [
        '"$${var.gone}"', '"$${var.gone} of ${var.name}"', '"var.gone of ${var.name}"', '"%%{ if var.gone }"',
        '"${upper("var.gone $${var.gone}")}"', "<<EOT\n  $${var.gone} \"${var.name}\"\nEOT", 'other.var.gone',
    ],
)  # fmt: skip
def test_text_that_only_looks_like_a_reference_is_none(folder: Path, text: str) -> None:
    write(folder, more=f"locals {{\n  x = {text}\n}}\n")
    packer_template.check(folder, {"name": "ses"}, packer=OLD, target="qemu")


@pytest.mark.parametrize(
    "text",
    [
        "var.gone", '"a ${var.gone}"', '"$${var.name} ${var.gone}"', '"${"${var.gone}"}"', "[1, var.gone]",
        '"%{ if var.gone }a%{ endif }"', "{ a = var.gone }", "<<EOT\n  \"x\" ${var.gone}\nEOT",
        '"${merge({a = "}"}, {b = var.gone})}"', '"\\"${var.gone}\\""',
    ],
)  # fmt: skip
def test_reference_is_found_wherever_it_stands(folder: Path, text: str) -> None:
    write(folder, more=f"locals {{\n  x = {text}\n}}\n")
    assert problems(folder, {"name": "ses"}) == (
        "`var.gone` is used in more.pkr.hcl, but no variable `gone` is declared",
    )


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("deep.pkr.hcl", "locals {\n  x = " + "[" * 5000 + "]" * 5000 + "\n}\n"),
        ("deep.auto.pkrvars.json", '{"x": ' + "[" * 100_000 + "]" * 100_000 + "}"),
    ],
)
def test_text_that_is_nested_too_deeply_is_named(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    with pytest.raises(ConfigError, match=f"`{name}`: .* nested too deeply"):
        packer_template.check(folder, {"name": "ses"}, packer=OLD, target="qemu")


def test_files_of_the_other_target_are_not_looked_at(folder: Path) -> None:
    write(folder, source_ami='source "amazon-ebs" "relay" {\n  region = var.region\n}\n')
    (folder / "mine.ami.auto.pkrvars.json").write_text('{"region": "eu-west-1"}')
    packer_template.check(folder, {"name": "ses"}, target="qemu")


def test_default_makes_a_value_optional(folder: Path) -> None:
    write(folder, more=variable("cpus", "number", "2"))
    packer_template.check(folder, {"name": "ses"}, packer=OLD, target="qemu")


def test_values_of_the_users_folder_count(folder: Path) -> None:
    write(folder, more=variable("disk", "number") + variable("zone"))
    (folder / "mine.auto.pkrvars.json").write_text('{"disk": 20}')
    (folder / "mine.auto.pkrvars.hcl").write_text('zone = "a"\n')
    packer_template.check(folder, {"name": "ses"}, packer=OLD, target="qemu")


def test_comment_and_description_are_no_reference(folder: Path) -> None:
    write(folder, more='# var.gone\nvariable "x" {\n  default = ""\n  description = "like var.gone"\n}\n')
    packer_template.check(folder, {"name": "ses"}, packer=OLD, target="qemu")


def test_text_that_is_no_hcl_is_an_error_with_its_place(folder: Path) -> None:
    write(folder, variables='variable "name" {\n  type =\n}\n')
    with pytest.raises(ConfigError, match=r"`variables.pkr.hcl`: line 2, column \d+ cannot be read as HCL"):
        packer_template.check(folder, {"name": "ses"}, packer=OLD, target="qemu")


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("mine.auto.pkrvars.json", b"{", "this is not JSON"),
        ("mine.auto.pkrvars.json", b"[1]", "a JSON object of variables is expected"),
        ("mine.auto.pkrvars.hcl", b"zone = [", "cannot be read as HCL"),
        ("mine.pkr.hcl", b"\xff\xfe", "this is not UTF-8 text"),
    ],
)
def test_file_of_the_user_that_cannot_be_read_is_named(
    folder: Path, tmp_path: Path, name: str, content: bytes, complaint: str
) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(ConfigError, match=f"`{name}`: .*{complaint}"):
        packer_template.stage(folder, tmp_path / "staged", packer=OLD, target="qemu", values={"name": "ses"})


def test_block_of_newer_packers_is_named_on_an_old_one(folder: Path) -> None:
    write(folder, more='data "amazon-ami" "base" {\n}\n')
    assert problems(folder, {"name": "ses"}) == (
        "`data` in more.pkr.hcl needs Packer 1.7 or newer; this one is 1.6.6",
    )
    new = Packer(Path("packer"), "1.16.0")
    packer_template.check(folder, {"name": "ses"}, packer=new, target="qemu")


def test_target_without_a_source_is_an_error(folder: Path) -> None:
    with pytest.raises(ConfigError, match="no source `amazon-ebs` is there for target `ami`"):
        packer_template.check(folder, {"name": "ses"}, packer=OLD, target="ami")


def test_staged_template_has_one_target_and_the_values(folder: Path, tmp_path: Path) -> None:
    write(folder, source_ami='source "amazon-ebs" "relay" {\n}\n', plugins_qemu="packer {\n}\n")
    into = packer_template.stage(
        folder, tmp_path / "run", packer=OLD, target="qemu", values={"name": 'a "quoted" ${name}'}
    )
    assert sorted(path.name for path in into.iterdir()) == [
        "build.pkr.hcl", "run.auto.pkrvars.json", "source.qemu.pkr.hcl", "variables.pkr.hcl",
    ]  # fmt: skip
    assert 'sources = ["source.qemu.relay"]' in (into / "build.pkr.hcl").read_text()
    assert json.loads((into / "run.auto.pkrvars.json").read_text()) == {"name": 'a "quoted" ${name}'}
    assert "amazon-ebs" in (folder / "build.pkr.hcl").read_text()


BOTH = '"source.qemu.relay", "source.amazon-ebs.relay"'


@pytest.mark.parametrize(
    ("written", "staged"),
    [
        (f"sources = [{BOTH}]", 'sources = ["source.qemu.relay"]'),
        (
            'sources = [\n "source.qemu.relay" # only here\n]',
            'sources = [\n "source.qemu.relay" # only here\n]',
        ),
        (
            'sources = [\n  # "source.qemu.old",\n  "source.qemu.relay", // [this]\n  /* , */\n'
            '  "source.amazon-ebs.relay",\n]',
            'sources = ["source.qemu.relay"]',
        ),
        (
            f"# sources = [{BOTH},\nsources = [{BOTH}]",
            f'# sources = [{BOTH},\nsources = ["source.qemu.relay"]',
        ),
        (f'x = "sources = [{BOTH[1:-1]}]"', f'x = "sources = [{BOTH[1:-1]}]"'),
        (
            f'x = <<-END\n  sources = [{BOTH}] /* "\n  END\n',
            f'x = <<-END\n  sources = [{BOTH}] /* "\n  END\n',
        ),
        ('sources = ["source.amazon-ebs.relay"]', 'sources = ["source.amazon-ebs.relay"]'),
        ("sources = [", "sources = ["),
    ],
    ids=["both", "comment", "comments", "list in a comment", "in quotes", "heredoc", "other", "no end"],
)
def test_the_sources_of_the_other_target_are_left_out_and_nothing_else(written: str, staged: str) -> None:
    assert packer_template._narrow(written, "qemu") == staged


def test_what_is_staged_of_a_list_with_comments_can_be_read(folder: Path, tmp_path: Path) -> None:
    lines = ['# "source.qemu.old",', '"source.qemu.relay", # here', '"source.amazon-ebs.relay", // [there]']
    write(folder, build="build {\n  sources = [\n    " + "\n    ".join(lines) + "\n  ]\n}\n")
    into = packer_template.stage(folder, tmp_path / "run", packer=OLD, target="qemu", values={"name": "x"})
    assert hcl2.loads((into / "build.pkr.hcl").read_text())["build"][0]["sources"] == ['"source.qemu.relay"']


def test_plugin_that_is_installed_needs_no_init(folder: Path, tmp_path: Path, fake_tool: FakeTools) -> None:
    write(folder, plugins_qemu="packer {\n}\n")
    tool = fake_tool("packer", "echo /p/github.com/hashicorp/qemu/packer-plugin-qemu_v1.1.4_x5.0_linux_amd64")
    new = Packer(tool.path, "1.16.0")
    into = packer_template.stage(folder, tmp_path / "run", packer=new, target="qemu", values={"name": "x"})
    assert (into / "plugins.qemu.pkr.hcl").exists()
    assert tool.calls == [["plugins", "installed"]]


def test_plugin_that_is_missing_is_installed(folder: Path, tmp_path: Path, fake_tool: FakeTools) -> None:
    tool = fake_tool("packer")
    new = Packer(tool.path, "1.16.0")
    packer_template.stage(folder, tmp_path / "run", packer=new, target="qemu", values={"name": "x"})
    assert tool.calls == [["plugins", "installed"], ["init", "."]]


def test_packer_with_built_in_plugins_needs_no_network(
    folder: Path, tmp_path: Path, fake_tool: FakeTools
) -> None:
    write(folder, plugins_qemu="packer {\n}\n")
    tool = fake_tool("packer")
    middle = Packer(tool.path, "1.8.7")
    into = packer_template.stage(folder, tmp_path / "run", packer=middle, target="qemu", values={"name": "x"})
    assert not (into / "plugins.qemu.pkr.hcl").exists()
    assert tool.calls == [["plugins", "installed"]]


def test_folder_without_a_template_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BuilderError, match=r"holds no `\*\.pkr\.hcl` file"):
        packer_template.stage(tmp_path, tmp_path / "run", packer=OLD, target="qemu", values={})


def test_folders_and_hidden_files_are_no_part_of_a_template(folder: Path, tmp_path: Path) -> None:
    (folder / "old.pkr.hcl").mkdir()
    (folder / "old.auto.pkrvars.hcl").mkdir()
    # An editor's lock: a link that leads nowhere.
    (folder / ".#build.pkr.hcl").symlink_to("me@host.1234")
    into = packer_template.stage(folder, tmp_path / "run", packer=OLD, target="qemu", values={"name": "x"})
    assert sorted(path.name for path in into.glob("*.hcl")) == [
        "build.pkr.hcl", "source.qemu.pkr.hcl", "variables.pkr.hcl",
    ]  # fmt: skip


def test_our_own_template_declares_what_it_uses(repository: Path) -> None:
    template = packer_template.read(repository / "packer")
    assert set(template.references) <= set(template.variables)
    assert template.sources == {"qemu", "amazon-ebs"}
    assert template.too_new == []


def test_scripts_come_from_the_template_or_else_from_builder(repository: Path, tmp_path: Path) -> None:
    ours = packer_template.script_files(tmp_path)
    assert set(ours) >= {f"scripts/{name}" for name in packer_template.SCRIPTS}
    assert ours["scripts/install.sh"] == repository / "packer/scripts/install.sh"
    (tmp_path / "scripts").mkdir()
    with pytest.raises(BuilderError, match=r"has no `install.sh`, `configure.sh`"):
        packer_template.script_files(tmp_path)
