"""Table of an evaluation with the session on, off and shuffled, by position in the session."""

from collections.abc import Mapping
from typing import Any

_METRIC = "ndcg@1"
_WIDTH, _LABEL = 18, 22  # characters


def session_lines(result: Mapping[str, Any]) -> list[str]:
    """Return the lines of a table; none where the sessions were not evaluated.

    Args:
        result: Result of an evaluation; its key "session" is of `evaluation.sessions.of_session`.
    """
    if "session" not in result:
        return []
    of = result["session"]
    names = [*of["queries"]]
    lines = [f"NDCG@1 on the {of['list']} list by position in the session, 95% intervals over users"]
    lines.append("position".ljust(_LABEL) + "".join(name.rjust(_WIDTH) for name in names))
    lines.append("queries".ljust(_LABEL) + "".join(f"{n:,}".rjust(_WIDTH) for n in of["queries"].values()))
    for values in (of["sessions"], of["differences"]):
        for label, by_position in values.items():
            cells = (_cell(*by_position[name][_METRIC]) for name in names)
            lines.append(
                label.replace("_", " ").ljust(_LABEL) + "".join(cell.rjust(_WIDTH) for cell in cells)
            )
    own = of["target_events"]
    shares = ", ".join(f"{name} {share:.1%}" for name, share in own.items() if name != "seconds" and share)
    if shares:
        lines.append(
            f"sessions with a signal about the target itself: {shares}; the newest is {own['seconds']:.0f} s "
            "before the request (median)"
        )
    return lines


def _cell(mean: float | None, half: float | None) -> str:
    return "-" if mean is None else f"{mean:.4f}" + ("" if half is None else f" ±{half:.4f}")
