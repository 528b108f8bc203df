"""Write `config-reference.md` from the dataclasses of the config schema.

    python docs/config_reference.py

The schema and its declarations are parsed, not imported. The text of a field is its comment: behind the
field, on the lines that follow it, or a string literal below it. `conf.py` writes the page at every build.
"""

import ast
import io
import re
import tokenize
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SCHEMA = ROOT / "jaxrec/config/schema.py"
# The schema, and the modules that it imports its other dataclasses from.
MODULES = (SCHEMA, ROOT / "jaxrec/config/sources.py", ROOT / "jaxrec/config/declarations.py")
PAGE = Path(__file__).with_name("config-reference.md")
TOP = "Config"  # the class of a whole config
HEAD = """\
# Config reference

A config is one `Config`. Each section below is one dataclass of `{schema}`, with its fields, their types and
their defaults. `--config.train.batch_size=512` sets a field on the command line. Fields of a tuple are set
with an index, as in `--config.model.experts[0].dropout=0.1`. `None` and booleans are written `None`, `true`
and `false`.

Presets that config files share:

{presets}
"""


@dataclass(frozen=True)
class Field:
    name: str
    type: str
    default: str  # "" where it has to be given
    text: str


@dataclass(frozen=True)
class Section:
    name: str  # of the dataclass
    doc: str
    fields: tuple[Field, ...]


def comments(source: str) -> dict[int, tuple[int, str]]:
    """Return line -> (column, text) of every comment."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {
        t.start[0]: (t.start[1], t.string.lstrip("# ").rstrip()) for t in tokens if t.type == tokenize.COMMENT
    }


def _field(
    node: ast.AnnAssign, following: ast.stmt | None, end: int, notes: dict[int, tuple[int, str]],
    unions: dict[str, str],
) -> Field:  # fmt: skip
    """Return the field of `node`; its comments end before line `end`. A name of a union is written out."""
    last = node.end_lineno or node.lineno
    lines = [notes[n][1] for n in range(node.lineno, last + 1) if n in notes]
    number = last + 1
    while number < end and number in notes and not notes[number][1].startswith("---"):
        lines.append(notes[number][1])
        number += 1
    if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
        lines.append(" ".join(str(following.value.value).split()))
    assert isinstance(node.target, ast.Name)
    kind = ast.unparse(node.annotation)
    return Field(node.target.id, unions.get(kind, kind), _default(node.value), " ".join(lines))


def _unions(body: list[ast.stmt]) -> dict[str, str]:
    """Return name -> members of the unions that a module names, such as `AnySource`."""
    return {
        ast.unparse(node.targets[0]): ast.unparse(node.value)
        for node in body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.BinOp)
    }


def _default(value: ast.expr | None) -> str:
    """Return a default as it is written in a config; of a factory, what it makes."""
    if value is None:
        return ""
    if isinstance(value, ast.Call) and ast.unparse(value.func).endswith("field"):
        for keyword in value.keywords:
            if keyword.arg == "default":
                return ast.unparse(keyword.value)
            if keyword.arg == "default_factory":
                made = keyword.value
                return ast.unparse(made.body) if isinstance(made, ast.Lambda) else f"{ast.unparse(made)}()"
    return ast.unparse(value)


def _is_dataclass(node: ast.stmt) -> bool:
    return isinstance(node, ast.ClassDef) and any("dataclass" in ast.unparse(d) for d in node.decorator_list)


def sections(source: str) -> list[Section]:
    """Return the dataclasses of a module, in its order."""
    notes, result, body = comments(source), [], ast.parse(source).body
    unions = _unions(body)
    for node in body:
        if not _is_dataclass(node):
            continue
        assert isinstance(node, ast.ClassDef)
        after = [*node.body[1:], None]
        fields = []
        for statement, following in zip(node.body, after, strict=True):
            if isinstance(statement, ast.AnnAssign) and "ClassVar" not in ast.unparse(statement.annotation):
                end = following.lineno if following else (node.end_lineno or node.lineno) + 100
                fields.append(_field(statement, following, end, notes, unions))
        doc = ast.get_docstring(node) or ""
        result.append(Section(node.name, "" if doc.startswith(f"{node.name}(") else doc, tuple(fields)))
    return result


def presets(source: str) -> list[tuple[str, str]]:
    """Return (name, value) of the module's public constants, such as the mixes of Table 2."""
    return [
        (node.targets[0].id, ast.unparse(node.value))
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and node.targets[0].id.isupper()
    ]


def prefixes(all_sections: list[Section]) -> dict[str, str]:
    """Return dataclass -> the dotted key of its fields, as seen from `Config`; "" of `Config` itself."""
    by_name = {s.name: s for s in all_sections}
    keys = {TOP: ""}
    waiting = [TOP]
    while waiting:
        name = waiting.pop(0)
        for field in by_name[name].fields:
            for inner in re.findall(r"\w+", field.type):
                if inner in by_name and inner not in keys:
                    index = "[i]" if "tuple" in field.type else ""
                    keys[inner] = f"{keys[name]}{field.name}{index}."
                    waiting.append(inner)
    return keys


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def _code(text: str) -> str:
    return f"`{text.replace('|', chr(92) + '|')}`" if text else ""


def read(*modules: Path) -> str:
    """Return the text of modules, one after the other."""
    return "\n".join(module.read_text(encoding="utf-8") for module in modules)


def page(schema: Path, *declarations: Path) -> str:
    """Return the page as Markdown."""
    source = read(schema, *declarations)
    every = sections(source)
    keys = prefixes(every)
    by_name = {s.name: s for s in every}
    order = [*keys, *(s.name for s in every if s.name not in keys)]  # `TOP` is the first of the keys
    named = "\n".join(f"- `{name}`: `{value}`" for name, value in presets(source))
    try:
        shown = schema.relative_to(ROOT).as_posix()
    except ValueError:
        shown = schema.name
    text = [HEAD.format(schema=shown, presets=named)]
    for name in order:
        section = by_name[name]
        text += [f"## {name}", "", section.doc, ""]
        text += ["| field | type | default | meaning |", "|---|---|---|---|"]
        for f in section.fields:
            key = keys.get(name, "") + f.name
            text.append(f"| {_code(key)} | {_code(f.type)} | {_code(f.default)} | {_cell(f.text)} |")
        text.append("")
    return "\n".join(text).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(*MODULES), encoding="utf-8")
