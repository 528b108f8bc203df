"""Draw `overview.svg`: the way of the data, and the model.

    python docs/diagrams/draw.py

The picture has no meaning that needs colour, and its smallest text is 11 pixels high at a width of 480. The
script has no dependency and writes the same bytes every time; `tests/test_docs.py` compares them with the
file.
"""

from html import escape
from pathlib import Path

OUTPUT = Path(__file__).with_name("overview.svg")
WIDTH, HEIGHT = 720, 910
INK, LINE, PALE, DARK = "#111111", "#333333", "#f1f4f8", "#4a5a70"
TITLE_SIZE, TEXT_SIZE, HEADING_SIZE = 19, 17, 22
CHARACTER_WIDTH = 0.6  # of the font size; DejaVu Sans, the widest of the usual fallbacks, has 0.59 on average
DESCRIPTION = (
    "Two parts. First, the way of the data: watch logs are prepared into a dataset, the dataset is used for "
    "training, training writes checkpoints, and checkpoints are evaluated. Second, the model: one expert "
    "reads the last 20 titles of a history and another the last 7; a gate weighs their vectors; the user "
    "vector and a candidate title go to three heads, which predict click, ranking score and completion."
)


def text(
    x: float, y: float, words: str, size: int = TEXT_SIZE, bold: bool = False, anchor: str = "middle"
) -> str:
    """Return one line of text; `y` is its baseline."""
    weight = ' font-weight="bold"' if bold else ""
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size}" text-anchor="{anchor}"{weight}>{escape(words)}</text>'
    )


def box(x: float, y: float, width: float, height: float, title: str, *lines: str) -> list[str]:
    """Return a box with a bold title and lines below it, all centred.

    Raises:
        ValueError: A line is too long for the box, or there are too many lines.
    """
    for words, size in ((title, TITLE_SIZE), *((line, TEXT_SIZE) for line in lines)):
        if len(words) * size * CHARACTER_WIDTH > width - 8:
            raise ValueError(f"{words!r} does not fit a box of width {width:g}")
    text_height = 24 * (1 + len(lines))
    if text_height > height - 8:
        raise ValueError(f"{title!r}: {1 + len(lines)} lines do not fit a height of {height:g}")
    parts = [
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="8" '
        f'fill="{PALE}" stroke="{LINE}" stroke-width="2"/>'
    ]
    baseline = y + (height - text_height) / 2 + 18
    parts.append(text(x + width / 2, baseline, title, TITLE_SIZE, bold=True))
    parts += [text(x + width / 2, baseline + 24 * (i + 1), line) for i, line in enumerate(lines)]
    return parts


def path(*points: tuple[float, float], arrow: bool = True) -> str:
    """Return a line through `points`, with an arrowhead at its end unless `arrow` is false."""
    steps = " ".join(f"{'L' if i else 'M'}{x:g} {y:g}" for i, (x, y) in enumerate(points))
    end = ' marker-end="url(#arrow)"' if arrow else ""
    return f'<path d="{steps}" fill="none" stroke="{LINE}" stroke-width="2.5"{end}/>'


def heading(y: float, words: str) -> str:
    return text(20, y, words, HEADING_SIZE, bold=True, anchor="start")


def data_part() -> list[str]:
    """Return the upper part: from watch logs to a report."""
    left, middle, right, width, height = 20, 262, 504, 196, 92
    first, second = 54, 190
    parts = [heading(34, "The data")]
    parts += box(left, first, width, height, "Watch logs", "CSV, Parquet,", "or the simulator")
    parts += box(middle, first, width, height, "Prepare", "events, histories,", "negative pools")
    parts += box(right, first, width, height, "Dataset", "example rows,", "candidate lists")
    parts += box(right, second, width, height, "Train", "one device,", "or many hosts")
    parts += box(middle, second, width, height, "Checkpoints", "the last one,", "and the best one")
    parts += box(left, second, width, height, "Evaluate", "metrics, tests,", "report")
    for start, end in ((left + width, middle), (middle + width, right)):
        parts.append(path((start + 3, first + height / 2), (end - 5, first + height / 2)))
    for start, end in ((right, middle + width), (middle, left + width)):
        parts.append(path((start - 3, second + height / 2), (end + 5, second + height / 2)))
    parts.append(path((right + width / 2, first + height + 3), (right + width / 2, second - 5)))
    return parts


def history(y: float) -> list[str]:
    """Return the strip of 20 titles, of which the last 7 are dark."""
    parts = [text(20, y, "History: titles played, oldest to newest", anchor="start")]
    for i in range(20):
        fill = DARK if i >= 13 else "#ffffff"
        parts.append(
            f'<rect x="{60 + 30 * i}" y="{y + 22:g}" width="24" height="24" '
            f'fill="{fill}" stroke="{LINE}" stroke-width="2"/>'
        )
    return parts


def model_part(top: float) -> list[str]:
    """Return the lower part: from a history to the heads."""
    parts = [heading(top, "The model"), *history(top + 36)]
    strip = top + 58  # the upper edge of the titles
    experts = strip + 82
    parts.append(path((654, strip - 4), (654, strip - 12), (60, strip - 12), (60, strip - 4), arrow=False))
    parts.append(path((60, strip - 12), (34, strip - 12), (34, experts + 34), (55, experts + 34)))
    parts.append(
        path((450, strip + 28), (450, strip + 36), (654, strip + 36), (654, strip + 28), arrow=False)
    )
    parts.append(path((552, strip + 36), (552, experts - 5)))
    parts += box(60, experts, 270, 68, "Expert: last 20 titles", "transformer, pooling")
    parts += box(417, experts, 270, 68, "Expert: last 7 titles", "transformer, pooling")

    bus, gate = experts + 96, experts + 126
    for x in (195, 552):
        parts.append(path((x, experts + 71), (x, bus), arrow=False))
    parts.append(path((195, bus), (572, bus), arrow=False))
    parts.append(path((310, bus), (310, gate - 5)))
    parts.append(path((572, bus), (572, gate - 5)))
    parts += box(20, gate, 166, 92, "User features", "segments,", "country, ...")
    parts += box(232, gate, 156, 92, "Gate", "a weight for", "each expert")
    parts += box(444, gate, 256, 92, "User vector", "weighted sum of", "experts, user features")
    parts.append(path((189, gate + 46), (227, gate + 46)))
    parts.append(path((391, gate + 46), (439, gate + 46)))

    heads = gate + 132
    parts += box(20, heads, 256, 68, "Candidate title", "and request context")
    parts += box(332, heads, 368, 68, "Heads", "one MLP for each task")
    parts.append(path((279, heads + 34), (327, heads + 34)))
    parts.append(path((572, gate + 95), (572, heads - 5)))
    tasks = heads + 108
    for task, x, width in (("Click", 332, 100), ("Ranking", 440, 112), ("Completion", 560, 140)):
        parts += box(x, tasks, width, 40, task)
        parts.append(path((x + width / 2, heads + 71), (x + width / 2, tasks - 5)))
    return parts


def draw() -> str:
    """Return the SVG document."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" height="{HEIGHT}" '
        'role="img" aria-labelledby="title description" '
        f'font-family="Helvetica, Arial, \'DejaVu Sans\', sans-serif" fill="{INK}">',
        '<title id="title">jaxrec: the way of the data, and the model</title>',
        f'<desc id="description">{escape(DESCRIPTION)}</desc>',
        '<defs><marker id="arrow" viewBox="0 0 10 10" refX="8" refY="5" markerWidth="6" markerHeight="6" '
        f'orient="auto"><path d="M0 0 L10 5 L0 10 z" fill="{LINE}"/></marker></defs>',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        *data_part(),
        *model_part(330),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    OUTPUT.write_text(draw(), encoding="utf-8")
