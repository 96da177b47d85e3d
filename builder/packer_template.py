"""Stage the Packer template for one run, and find its mistakes before Packer does."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from builder import assets
from builder import packer as packer_module
from builder.errors import BuilderError, ConfigError
from builder.packer import BUILDERS, PLUGINS, Packer, Target

VALUES_FILE = "run.auto.pkrvars.json"
SCRIPTS = ("install.sh", "configure.sh", "seal.sh", "finish.sh", "diag.sh")
# What may hold anything without meaning it: text in quotes or as a heredoc, and comments.
_QUOTED = r'"(?:[^"\\\n]|\\.)*"'
_COMMENT = r"#[^\n]*|//[^\n]*|/\*.*?\*/"
_HEREDOC = r"<<-?(?P<end>\w+)\n.*?^[ \t]*(?P=end)[ \t]*$"
_LIST = rf"(?P<head>\bsources\s*=\s*)\[(?P<list>(?>{_QUOTED}|{_COMMENT}|[^\]])*+)\]"
_SOURCES = re.compile(
    "|".join((_LIST, _QUOTED, _HEREDOC, _COMMENT)),
    re.DOTALL | re.MULTILINE,
)
_ITEM = re.compile(rf"(?P<quoted>{_QUOTED})|{_COMMENT}", re.DOTALL)
_REFERENCE = re.compile(r"(?<![\w.])var\.([A-Za-z_][\w-]*)")
# What begins, ends or escapes an expression in the text of a template (HCL's specification, "Templates").
_IN_TEXT = re.compile(r"(?P<escaped>\$\${|%%{|\\[\\\"])|(?P<code>[$%]{)|(?P<quote>\")", re.ASCII)
_IN_CODE = re.compile(r"(?P<quote>\")|(?P<open>{)|(?P<close>})", re.ASCII)
_TOO_DEEP = "lists or maps are nested too deeply in it to be read"
# Blocks that 1.6.6 refuses (facts: tried), and what came with 1.7.
_NEEDS_1_7 = ("local", "data", "hcp_packer_registry")


@dataclass
class Template:
    """What the files of a template declare and use; `variables` maps a name to its block."""

    variables: dict[str, dict[str, Any]] = field(default_factory=dict)
    references: dict[str, str] = field(default_factory=dict)
    sources: set[str] = field(default_factory=set)
    too_new: list[str] = field(default_factory=list)


def stage(folder: Path, into: Path, *, packer: Packer, target: Target, values: Mapping[str, Any]) -> Path:
    """Copy a template into a run's workspace, as this Packer and this target need it.

    `*.qemu.pkr.hcl` and `*.ami.pkr.hcl` go along only for their target, `plugins.*` only when this Packer
    takes plugins. `values` become `run.auto.pkrvars.json`. Returns `into`; nothing of `folder` is changed.
    Errors: ConfigError with every variable that is missing, unknown or of another type.
    """
    check(folder, values, target=target, packer=packer)
    installed = PLUGINS[target] in packer.plugins()
    with_plugins = installed or not packer.bundles_plugins
    into.mkdir(parents=True, exist_ok=True)
    for path in _files(folder, "*.pkr*"):
        if _is_wanted(path.name, target=target, with_plugins=with_plugins):
            text = _narrow(_text(path), BUILDERS[target])
            (into / _staged_name(path.name)).write_text(text, encoding="utf-8")
    (into / VALUES_FILE).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    if with_plugins and not installed:
        packer_module.install_plugin(packer, target, into)
    return into


def script_files(folder: Path) -> dict[str, Path]:
    """Find the scripts for the payload, the template's own or else builder's: `scripts/x.sh` to its file."""
    scripts = folder / "scripts"
    if not scripts.is_dir():
        scripts = assets.folder("packer") / "scripts"
    missing = [name for name in SCRIPTS if not (scripts / name).is_file()]
    if missing:
        raise BuilderError(
            f"`{scripts}` has no {', '.join(f'`{name}`' for name in missing)}",
            hint="Copy the folder `scripts` of builder's own template, then change it",
        )
    return {f"scripts/{path.name}": path for path in assets.files_below(scripts) if path.parent == scripts}


def check(
    folder: Path,
    values: Mapping[str, Any],
    *,
    target: Target,
    packer: Packer | None = None,
) -> None:
    """Compare a template with the values it will get.

    Errors: ConfigError naming every missing, unknown and mistyped variable, and every block that `packer`,
    where it is known already, is too old for.
    """
    _require_template(folder)
    template = read(folder, target=target)
    given = {**_user_values(folder, target), **values}
    problems = [
        *_unknown(template, given),
        *_missing(template, given),
        *_mistyped(template, given),
        *(
            f"`var.{name}` is used in {where}, but no variable `{name}` is declared"
            for name, where in sorted(template.references.items())
            if name not in template.variables
        ),
    ]
    if BUILDERS[target] not in template.sources:
        problems.append(f"no source `{BUILDERS[target]}` is there for target `{target}`")
    if packer is not None and not packer.knows_plugins:
        problems += [
            f"{block} needs Packer 1.7 or newer; this one is {packer.version}" for block in template.too_new
        ]
    if problems:
        raise ConfigError(f"Packer template `{folder}`", problems)


def read(folder: Path, *, target: Target | None = None) -> Template:
    """Read the `*.pkr.hcl` files of a folder, or those of one target.

    Errors: ConfigError with file, line and column.
    """
    template = Template()
    for path in _files(folder, "*.pkr.hcl"):
        if target is None or _is_wanted(path.name, target=target, with_plugins=True):
            _collect(template, _read_hcl(path), path.name)
    return template


def _files(folder: Path, pattern: str) -> list[Path]:
    """List the files of a template: no folders, which Packer passes over, and nothing that editors hide."""
    found = sorted(folder.glob(pattern))
    return [path for path in found if not path.is_dir() and not path.name.startswith(".")]


def _require_template(folder: Path) -> None:
    if not _files(folder, "*.pkr.hcl"):
        raise BuilderError(
            f"`{folder}` holds no `*.pkr.hcl` file",
            hint="Point `--packer-dir` at a folder with a Packer template",
        )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"Packer template `{path.name}`", ["this is not UTF-8 text"]) from None


def _read_hcl(path: Path) -> dict[str, Any]:
    import hcl2  # 0.2 s
    from lark.exceptions import UnexpectedInput

    try:
        content: dict[str, Any] = hcl2.loads(_text(path))
    except UnexpectedInput as error:
        raise ConfigError(
            f"Packer template `{path.name}`",
            [f"line {error.line}, column {error.column} cannot be read as HCL"],
            hint="Run `packer fmt` on the folder: it names the mistake",
        ) from error
    except RecursionError:
        raise ConfigError(f"Packer template `{path.name}`", [_TOO_DEEP]) from None
    return content


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(_text(path))
    except ValueError as error:
        raise ConfigError(f"Packer template `{path.name}`", [f"this is not JSON: {error}"]) from error
    except RecursionError:
        raise ConfigError(f"Packer template `{path.name}`", [_TOO_DEEP]) from None
    if not isinstance(content, dict):
        raise ConfigError(f"Packer template `{path.name}`", ["a JSON object of variables is expected"])
    return content


def _collect(template: Template, content: Mapping[str, Any], file: str) -> None:
    for block in content.get("variable", []):
        template.variables.update({_unquoted(label): body for label, body in _labels(block)})
    for block in content.get("variables", []):
        # A short form that Packer has besides: `variables { zone = "a" }` declares with defaults.
        template.variables.update({_unquoted(name): {"default": default} for name, default in _labels(block)})
    for block in content.get("source", []):
        template.sources.update(_unquoted(label) for label, _body in _labels(block))
    template.too_new += [f"`{kind}` in {file}" for kind in _NEEDS_1_7 if kind in content]
    for text in _strings(content):
        for name in _REFERENCE.findall(_code(text)):
            template.references.setdefault(name, file)


def _labels(block: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return what is in a block without python-hcl2's own marks; a label may stand without quotes."""
    return [(label, body) for label, body in block.items() if not label.startswith("__")]


def _unquoted(text: str) -> str:
    return text.strip('"')


def _code(text: str) -> str:
    """Return the expressions of a value as python-hcl2 gives it: text with `${…}` in it, or one `${…}`."""
    code: list[str] = []
    # What surrounds this place: text in quotes, or an expression with as many open braces.
    inside: list[int | None] = [None]
    at = 1 if text.startswith('"') else 0
    while inside:
        depth = inside[-1]
        mark = (_IN_TEXT if depth is None else _IN_CODE).search(text, at)
        end = len(text) if mark is None else mark.start()
        if depth is not None:
            code.append(text[at:end])
        if mark is None:
            break
        at = mark.end()
        kind = mark.lastgroup
        if depth is None and kind == "quote" and len(inside) > 1:
            inside.pop()
        elif depth is None and kind == "code":
            inside.append(0)
            code.append(" ")
        elif depth is not None and kind == "quote":
            inside.append(None)
        elif depth is not None and kind == "close" and depth == 0:
            inside.pop()
        elif depth is not None:
            inside[-1] = depth + (1 if kind == "open" else -1)
    return "".join(code)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if key != "__comments__":
                yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def _unknown(template: Template, given: Mapping[str, Any]) -> list[str]:
    problems = []
    for name in sorted(set(given) - set(template.variables)):
        near = difflib.get_close_matches(name, template.variables, n=1)
        hint = f"; did you mean `{near[0]}`?" if near else ""
        problems.append(f"variable `{name}` is set for this run, but the template does not declare it{hint}")
    return problems


def _missing(template: Template, given: Mapping[str, Any]) -> list[str]:
    return [
        f"variable `{name}` has no default and no value"
        for name, body in sorted(template.variables.items())
        if "default" not in body and name not in given
    ]


def _mistyped(template: Template, given: Mapping[str, Any]) -> list[str]:
    problems = []
    for name, value in sorted(given.items()):
        declared = _expression(template.variables.get(name, {}).get("type", "any"))
        wrong = _misfit(declared, value, "its value")
        if wrong:
            problems.append(f"variable `{name}` is declared as {declared}, but {wrong}")
    return problems


def _misfit(declared: str, value: Any, what: str) -> str | None:
    """Say how a value differs from a declared type, None when it does not; `what` is the value's name."""
    outer, _, rest = declared.partition("(")
    inner = rest.removesuffix(")").strip()
    expected = {"list": list, "set": list, "tuple": list, "map": Mapping, "object": Mapping}.get(outer)
    if value is None:
        return None
    if expected is None:
        scalar = {"string": "a string", "number": "a number", "bool": "a bool"}.get(outer)
        return None if scalar in (None, _kind(value)) else f"{what} is {_kind(value)}"
    if not isinstance(value, expected):
        return f"{what} is {_kind(value)}"
    if outer in ("object", "tuple") and inner:
        return _misfit_in_parts(inner, value, what)
    items = value.items() if isinstance(value, Mapping) else enumerate(value, 1)
    wrong = (_misfit(inner or "any", item, f"`{key}` of {what}") for key, item in items)
    return next((each for each in wrong if each), None)


def _misfit_in_parts(inner: str, value: Any, what: str) -> str | None:
    """Compare with `{name = type, …}` of an object or `[type, …]` of a tuple; more attributes are dropped."""
    import hcl2

    parts = hcl2.loads(f"parts = {inner}\n")["parts"]
    if isinstance(parts, Mapping):
        declared: dict[Any, str] = {_unquoted(name): _expression(part) for name, part in parts.items()}
        given = value
    else:
        declared = dict(enumerate(map(_expression, parts), 1))
        given = dict(enumerate(value, 1))
        if len(declared) != len(given):
            return f"{what} has {len(given)} items, not {len(declared)}"
    for key, part in declared.items():
        if key not in given:
            return f"{what} lacks `{key}`"
        wrong = _misfit(part, given[key], f"`{key}` of {what}")
        if wrong:
            return wrong
    return None


def _expression(text: Any) -> str:
    """Return an expression without what python-hcl2 puts around it; a type may stand in quotes."""
    return _unquoted(str(text).removeprefix("${").removesuffix("}"))


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "a bool"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "a string"
    return "a list" if isinstance(value, list) else "a map"


def _user_values(folder: Path, target: Target) -> dict[str, Any]:
    """Values that a user's own folder brings along; ours are read last and win."""
    values: dict[str, Any] = {}
    for path in _files(folder, "*.auto.pkrvars.*"):
        if not _is_wanted(path.name, target=target, with_plugins=True):
            continue
        if path.name.endswith(".json"):
            values.update(_read_json(path))
        elif path.name.endswith(".hcl"):
            values.update(_labels(_read_hcl(path)))
    return values


def _is_wanted(name: str, *, target: Target, with_plugins: bool) -> bool:
    other = ".ami." if target == "qemu" else ".qemu."
    return name != VALUES_FILE and other not in name and (with_plugins or not name.startswith("plugins."))


def _staged_name(name: str) -> str:
    """Let Packer, which reads value files by name (tried: 1.6.6, 1.16), read a template's own before ours."""
    return f"given.{name}" if ".auto.pkrvars." in name else name


def _narrow(text: str, builder: str) -> str:
    """Keep only the sources of one builder: a Packer without the other's plugin refuses the build."""

    def keep(match: re.Match[str]) -> str:
        if match["head"] is None:
            return match.group()
        listed = _ITEM.sub(lambda item: item["quoted"] or " ", match["list"])
        names = [item.strip() for item in listed.split(",") if item.strip()]
        kept = [item for item in names if f"source.{builder}." in item]
        return match.group() if kept in ([], names) else f"{match['head']}[{', '.join(kept)}]"

    return _SOURCES.sub(keep, text)
