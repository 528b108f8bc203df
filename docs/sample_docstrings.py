"""Print a random sample of the public names of jaxrec with their docstrings, for review.

Example:
    python docs/sample_docstrings.py --count 40 --seed docstrings
"""

import argparse
import ast
import random
import textwrap
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def public_definitions(root: Path = ROOT) -> dict[str, str]:
    """Return the qualified names of public classes, functions and methods with their text.

    A name is public if no part of it starts with an underscore. Nothing is imported.
    """
    texts = {}
    for path in sorted((root / "jaxrec").rglob("*.py")):
        source = path.read_text()
        module = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        for node in ast.parse(source).body:
            texts.update({name: describe(name, d, source) for name, d in _definitions(module, node)})
    return texts


def _definitions(prefix: str, node: ast.stmt) -> Iterator[tuple[str, ast.ClassDef | ast.FunctionDef]]:
    """Yield the public definitions of a statement, methods included, with their qualified names."""
    if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
        name = f"{prefix}.{node.name}"
        yield name, node
        if isinstance(node, ast.ClassDef):
            for member in node.body:
                yield from _definitions(name, member)


def describe(name: str, node: ast.ClassDef | ast.FunctionDef, source: str) -> str:
    """Return the name, the signature and the docstring as text.

    Of a class, the text includes the fields with their comments, and the docstrings of `__init__` and
    `__call__`.
    """
    docstring = ast.get_docstring(node) or "(no docstring)"
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(ast.unparse(base) for base in node.bases)
        lines = [f"class {node.name}({bases})"]
        fields = [member for member in node.body if isinstance(member, ast.AnnAssign)]
        if fields:
            lines += source.splitlines()[fields[0].lineno - 1 : fields[-1].end_lineno]
        for member in node.body:
            text = ast.get_docstring(member) if isinstance(member, ast.FunctionDef) else None
            if text and member.name in ("__init__", "__call__"):
                docstring += f"\n\n{member.name}: {text}"
        signature = "\n".join(lines)
    else:
        returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
        signature = f"def {node.name}({ast.unparse(node.args)}){returns}"
    return f"{name}\n{signature}\n{textwrap.indent(docstring, '    ')}\n"


def main() -> None:
    """Print the sample that the options select."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--seed", default="docstrings", help="text that seeds random.Random")
    options = parser.parse_args()
    texts = public_definitions()
    for name in random.Random(options.seed).sample(sorted(texts), options.count):
        print(texts[name])


if __name__ == "__main__":
    main()
