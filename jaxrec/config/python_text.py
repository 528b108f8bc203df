"""Python text of a config file: the fields that differ from their defaults, with reasons as comments."""

import dataclasses
import json
import textwrap
from typing import Any

from jaxrec.config.schema import Config
from jaxrec.config.tree import join

_LINE = 100


def python_text(config: Config, reasons: dict[str, str], title: str) -> str:
    """Return a config file whose get_config() returns `config`.

    Args:
        config: A checked config.
        reasons: Dotted key of a field -> comment.
        title: Docstring of the file.
    """
    classes: set[str] = set()
    body = _value(config, "", reasons, classes, 1)
    names = "".join(f"    {name},\n" for name in sorted(classes))
    quoted = title.replace("\\", "\\\\").replace('"""', "'''")
    return (
        f'"""{quoted}"""\n\nfrom jaxrec.config import (\n{names})\n\n\n'
        f'def get_config() -> Config:\n    """Return the config."""\n    return {body}\n'
    )


def _value(value: Any, key: str, reasons: dict[str, str], classes: set[str], depth: int) -> str:
    """Return the Python expression of a value."""
    indent = "    " * depth
    if isinstance(value, tuple) and any(dataclasses.is_dataclass(v) for v in value):
        names = [f"{key}[{i}]" for i in range(len(value))]
        items = [(k, _value(v, k, reasons, classes, depth + 1)) for k, v in zip(names, value, strict=True)]
        return f"({_lines(items, reasons, depth)}{indent})"
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return _literal(value)
    classes.add(type(value).__name__)
    arguments = []
    for field in dataclasses.fields(value):
        name, inner = join(key, field.name), getattr(value, field.name)
        # A field with a reason was inferred, and is worth a line even at its default.
        if _is_set(value, field) or any(k == name or k.startswith((f"{name}.", f"{name}[")) for k in reasons):
            arguments.append((name, f"{field.name}={_value(inner, name, reasons, classes, depth + 1)}"))
    short = f"{type(value).__name__}({', '.join(text for _, text in arguments)})"
    commented = any(name in reasons for name, _ in arguments)
    if not commented and "\n" not in short and len(indent) + len(short) <= _LINE:
        return short
    return f"{type(value).__name__}({_lines(arguments, reasons, depth)}{indent})"


def _lines(items: list[tuple[str, str]], reasons: dict[str, str], depth: int) -> str:
    """Return a line for each item, with the comment of its key above it."""
    inner = "    " * (depth + 1)
    return "\n" + "".join(f"{_comment(key, reasons, depth + 1)}{inner}{text},\n" for key, text in items)


def _literal(value: Any) -> str:
    """Return a number, a string or a tuple of them, with double quotes."""
    if isinstance(value, tuple):
        return f"({', '.join(map(_literal, value))}{',' if len(value) == 1 else ''})"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def _is_set(value: Any, field: dataclasses.Field) -> bool:
    """Return True for a field without a default, or with another value than its default."""
    if field.default_factory is not dataclasses.MISSING:
        return getattr(value, field.name) != field.default_factory()
    return field.default is dataclasses.MISSING or getattr(value, field.name) != field.default


def _comment(key: str, reasons: dict[str, str], depth: int) -> str:
    """Return the lines of a comment, or nothing."""
    if key not in reasons:
        return ""
    start = "    " * depth + "# "
    text = " ".join(reasons[key].split())
    return textwrap.fill(text, _LINE, initial_indent=start, subsequent_indent=start) + "\n"
