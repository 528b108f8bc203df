"""Detection of the format of a text file: encoding, separator, quotes, header."""

import re
from collections import Counter
from typing import NamedTuple

from jaxrec.config.schema import FileFormat
from jaxrec.core.errors import InputError
from jaxrec.sources.columns import ISO_TIME
from jaxrec.sources.text import RECBOLE_SUFFIXES, TAB_SUFFIXES, open_text, readable, suffix_of

_SAMPLE_BYTES = 1 << 20
_LINES = 200  # lines whose fields are counted
# Groups of separators, the surest first; of one group, the separator of the most fields is taken.
_SEPARATORS = (("\t", "::"), (",", ";", "|"), (" ",))
_NAMES = {"\t": "tab", " ": "space"}
_AGREEING = 0.95  # fraction of lines that must have the same number of fields
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


class DetectedFormat(NamedTuple):
    """Format of a file, with the reasons.

    Attributes:
        form: The format; a field that need not be set has its default.
        reasons: Field of the format -> reason, for the fields that differ from their defaults.
    """

    form: FileFormat
    reasons: dict[str, str]


def detect_format(file: str) -> DetectedFormat:
    """Return the format of a text file, from its first MiB.

    Raises:
        InputError: The file is empty, damaged, or no separator splits its lines into equally many fields.
    """
    with readable(file, FileFormat()), open_text(file) as f:
        data = f.read(_SAMPLE_BYTES)
    encoding, reasons = _encoding(data)
    lines = data.decode(encoding, "ignore").splitlines()
    lines = [line for line in lines[: -1 if len(data) == _SAMPLE_BYTES else None] if line.strip()][:_LINES]
    if not lines:
        raise InputError(f"{file} is empty: the first line must name the columns")
    separator, fields, agreeing = _separator(file, lines)
    default = "\t" if suffix_of(file) in TAB_SUFFIXES else ","
    form = FileFormat(encoding=encoding)
    if separator != default:
        form.separator = separator
        name = _NAMES.get(separator, separator)
        reasons["separator"] = (
            f"{agreeing} of the first {len(lines)} lines have {fields} fields split by {name!r}"
        )
    odd = sum(line.count('"') % 2 for line in lines)
    if len(separator) == 1 and odd:
        form.quote = ""
        reasons["quote"] = f"{odd} of the first {len(lines)} lines have an odd number of quotes"
    first = [field.strip().strip('"') for field in lines[0].split(separator)]
    values = [field for field in first if _is_value(field)]
    if values and suffix_of(file) not in RECBOLE_SUFFIXES:
        form.header = tuple(f"c{i + 1}" for i in range(fields))
        reasons["header"] = f"the first line has the value {values[0]!r}, so it names no columns"
    return DetectedFormat(form, reasons)


def _is_value(field: str) -> bool:
    """Return True for a number or a time, which are no names of columns."""
    return bool(_NUMBER.fullmatch(field) or re.fullmatch(ISO_TIME, field))


def _encoding(data: bytes) -> tuple[str, dict[str, str]]:
    """Return the encoding of the first bytes of a file, and the reason if it is not UTF-8."""
    for marks, encoding in (((b"\xff\xfe", b"\xfe\xff"), "utf-16"), ((b"\xef\xbb\xbf",), "utf-8-sig")):
        if data.startswith(marks):
            return encoding, {"encoding": f"the file starts with the byte order mark of {encoding}"}
    for start, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):
        if len(data) > 1 and data[start::2].count(0) > 0.4 * len(data[start::2]):
            return encoding, {"encoding": "every other byte is 0"}
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        if len(data) < _SAMPLE_BYTES or error.start < len(data) - 4:
            line = data.count(b"\n", 0, error.start) + 1
            return "latin-1", {
                "encoding": f"line {line} has the byte 0x{data[error.start]:02x}, which is not UTF-8; "
                "latin-1 reads every byte: check that names look right"
            }
    return "utf-8", {}


def _separator(file: str, lines: list[str]) -> tuple[str, int, int]:
    """Return the separator, the number of fields, and the number of lines that have so many."""
    for group in _SEPARATORS:
        best = (1, 0, "")
        for separator in group:
            counts = Counter(len(re.sub(r'"[^"]*"', "", line).split(separator)) for line in lines)
            fields, agreeing = counts.most_common(1)[0]
            if fields > best[0] and agreeing >= _AGREEING * len(lines):
                best = (fields, agreeing, separator)
        if best[2]:
            return best[2], best[0], best[1]
    allowed = ", ".join(repr(_NAMES.get(s, s)) for group in _SEPARATORS for s in group)
    raise InputError(
        f"{file}: no separator splits its first lines into equally many fields; allowed: {allowed}, or "
        "another one in a config (source.interactions_format.separator)"
    )
