"""Write the table of modules in jaxrec/README.md from the modules' docstrings.

    python docs/module_map.py

`tests/test_architecture.py` holds the committed table to what this script writes.
"""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "jaxrec" / "README.md"
BEGIN, END = "<!-- modules: begin -->", "<!-- modules: end -->"


def table() -> str:
    """Return the table: a row per module, with the first line of its docstring."""
    rows = ["| module | purpose |", "|---|---|"]
    for path in sorted(
        (ROOT / "jaxrec").rglob("*.py"), key=lambda p: (len(p.parts) > 1, str(p.parent), p.name)
    ):
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        if docstring:
            rows.append(f"| `{path.relative_to(ROOT / 'jaxrec')}` | {docstring.splitlines()[0]} |")
    return "\n".join(rows)


def with_table(text: str) -> str:
    """Return a README's text with today's table between the two markers."""
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    README.write_text(with_table(README.read_text(encoding="utf-8")), encoding="utf-8")
