"""HTML elements with escaped text, and the frame of a self-contained page."""

import html
import math
from collections.abc import Iterable, Sequence
from typing import Any

_STYLE = """
:root{color-scheme:light}
*{box-sizing:border-box}
body{font:16px/1.5 system-ui,sans-serif;color:#1a1a1a;max-width:76rem;margin:0 auto;padding:1rem}
h1{font-size:1.6rem;margin:.5rem 0;overflow-wrap:anywhere}
h2{font-size:1.25rem;margin:2.2rem 0 .5rem;padding-top:.6rem;border-top:1px solid #bbb}
h3{font-size:1rem;margin:1.2rem 0 .3rem}
p{margin:.4rem 0;max-width:48rem;overflow-wrap:anywhere}
a{color:#0050a0}
nav{display:flex;flex-wrap:wrap;gap:.2rem 1rem;margin:.6rem 0}
.note{color:#444;font-size:.9rem}
.cards,.figures,.users,.tables{display:grid;gap:1rem;margin:1rem 0}
.cards{grid-template-columns:repeat(auto-fit,minmax(9.5rem,1fr))}
.figures,.users,.tables{grid-template-columns:repeat(auto-fit,minmax(min(100%,27rem),1fr))}
.cards>div,.users>article{border:1px solid #bbb;border-radius:6px;padding:.6rem .8rem}
.cards b{display:block;font-size:1.5rem;line-height:1.3}
.cards span{display:block;font-size:.85rem;color:#444}
figure{margin:0;min-width:0}
figcaption{font-weight:600}
svg{display:block;width:100%;max-width:40rem;height:auto}
.scroll{overflow-x:auto;min-width:0}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums;margin:.3rem 0}
caption{text-align:left;font-weight:600;padding:.2rem .3rem}
th,td{padding:.25rem .5rem;text-align:right;vertical-align:top;border-bottom:1px solid #ddd}
th:first-child,td:first-child{text-align:left;overflow-wrap:anywhere}
tbody th{font-weight:400}
thead th{border-bottom:2px solid #888;vertical-align:bottom}
tr.own th,tr.own td{font-weight:700}
small{display:block;font-weight:400;color:#444;white-space:nowrap}
.words td,.words th{text-align:left;overflow-wrap:anywhere}
.words tbody th{overflow-wrap:break-word}
.users section{display:grid;grid-template-columns:1fr 1fr;gap:0 1rem}
.users h3,.users h4{margin:.2rem 0;font-size:.95rem}
.users ol,.users ul{margin:.2rem 0;padding-left:1.4rem;font-size:.9rem}
.users li{overflow-wrap:anywhere}
details{margin:.6rem 0}
summary{cursor:pointer;font-weight:600}
pre{white-space:pre-wrap;overflow-wrap:anywhere;font-size:.8rem;background:#f4f4f4;padding:.8rem}
@media(max-width:36rem){body{padding:.7rem;font-size:15px}th,td{padding:.2rem .25rem}table{font-size:.8rem}}
@media(max-width:30rem){.users section{grid-template-columns:1fr}}
"""


class Html(str):
    """Text that is HTML; other text is escaped where it enters an element."""

    __slots__ = ()


def escaped(value: Any) -> Html:
    """Return a value as HTML: `Html` unchanged, None as nothing, other values as escaped text."""
    if isinstance(value, Html):
        return value
    return Html("" if value is None else html.escape(str(value)))


def join(parts: Iterable[Any], between: str = "") -> Html:
    """Return parts in a row, each escaped unless it is `Html`."""
    return Html(between.join(escaped(part) for part in parts))


def tag(name: str, *children: Any, **attributes: Any) -> Html:
    """Return an element.

    Args:
        name: Name of the element.
        *children: Contents, escaped unless they are `Html`.
        **attributes: Attributes; a final "_" of a name is removed, and None leaves an attribute out.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{written}>{join(children)}</{name}>")


def number(value: float | None, half: float | None = None, form: str = ".4f") -> Html:
    """Return a number with the half of its 95% interval below it, if there is one; a dash for no number."""
    if value is None or not math.isfinite(value):
        return Html("–")
    text = escaped(format(value, form))
    if half is None or not math.isfinite(half):
        return text
    return join([text, tag("small", f"± {half:{form}}")])


def table(
    head: Sequence[Any], rows: Iterable[Sequence[Any]], caption: str = "", own: int | None = None,
    words: bool = False,
) -> Html:  # fmt: skip
    """Return a table; the first cell of a row is its heading.

    Args:
        head: Headings of the columns.
        rows: Cells of each row.
        caption: Heading of the table; empty for none.
        own: Index of the row that is emphasised.
        words: True for cells of text, which are aligned left.
    """
    body = [
        tag("tr", tag("th", row[0], scope="row"), *(tag("td", cell) for cell in row[1:]),
            class_="own" if i == own else None)
        for i, row in enumerate(rows)
    ]  # fmt: skip
    top = tag("tr", *(tag("th", cell, scope="col") for cell in head))
    title = tag("caption", caption) if caption else ""
    whole = tag("table", title, tag("thead", top), tag("tbody", *body), class_="words" if words else None)
    return tag("div", whole, class_="scroll")


def section(key: str, title: str, *parts: Any) -> Html:
    """Return a section with a heading, or nothing where all parts are empty.

    Args:
        key: Name of the section for links.
        title: Heading.
        *parts: Contents.
    """
    content = join(parts)
    return tag("section", tag("h2", title), content, id=key) if content else Html("")


def folded(title: str, *parts: Any) -> Html:
    """Return contents that the reader unfolds, or nothing where all parts are empty."""
    content = join(parts)
    return tag("details", tag("summary", title), content) if content else Html("")


def page(title: str, introduction: Any, sections: dict[str, Html]) -> str:
    """Return a page with links to its sections; empty sections are left out.

    Args:
        title: Title of the page.
        introduction: Contents above the links.
        sections: Title of each section -> its HTML, from `section`, whose key is the title in lower case
            with "-" for spaces.
    """
    shown = {name: content for name, content in sections.items() if content}
    links = [tag("a", name, href=f"#{section_key(name)}") for name in shown]
    head = [
        Html('<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'),
        tag("title", title),
        Html(f"<style>{_STYLE}</style>"),
    ]
    body = [tag("h1", title), introduction, tag("nav", *links, aria_label="sections"), *shown.values()]
    whole = tag("html", tag("head", *head), tag("body", *body), lang="en")
    return f"<!doctype html>\n{whole}\n"


def section_key(title: str) -> str:
    """Return the key of a section for links."""
    return title.lower().replace(" ", "-")
