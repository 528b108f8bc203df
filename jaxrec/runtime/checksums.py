"""Size and sha256 of files, written when a file is complete and compared when it is opened."""

import hashlib
from pathlib import Path
from typing import Any

from jaxrec.core.errors import InputError
from jaxrec.core.paths import AnyPath


class DamagedFileError(InputError):
    """A file of jaxrec's own that is not what was written."""


def checksum(path: AnyPath) -> dict[str, Any]:
    """Return the bytes and the sha256 of a file.

    Raises:
        OSError: The file cannot be read.
    """
    if not isinstance(path, Path):
        return checksum_of(path.read_bytes())
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def checksum_of(content: bytes) -> dict[str, Any]:
    """Return the checksum of a file with this content."""
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def verify(path: AnyPath, expected: dict[str, Any], what: str, advice: str) -> None:
    """Compare a file with its checksum.

    Args:
        path: The file.
        expected: From `checksum`.
        what: Name of the artifact that the file belongs to, for the message.
        advice: What the user may do.

    Raises:
        DamagedFileError: The file is missing or has another content.
    """
    try:
        actual = checksum(path)
    except OSError as error:
        raise DamagedFileError(f"{what}: {path.name} cannot be read: {error.strerror}; {advice}") from error
    if actual["bytes"] != expected["bytes"]:
        sizes = f"{actual['bytes']:,} bytes in place of {expected['bytes']:,}"
        raise DamagedFileError(f"{what}: {path.name} is damaged: {sizes}; {advice}")
    if actual != expected:
        digests = f"sha256 {actual['sha256'][:12]} in place of {expected['sha256'][:12]}"
        raise DamagedFileError(f"{what}: {path.name} is damaged: {digests}; {advice}")


def unreadable(what: str, error: Exception) -> DamagedFileError:
    """Return the error for a file that another library could not read, with the library's reason."""
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return DamagedFileError(f"{what}: cannot be read: {reason}")
