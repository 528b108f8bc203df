"""Log records of Orbax that a run does not show: warnings about intended uses, errors that are raised too."""

import logging as python_logging

from absl import logging

# Two intended uses: saves without metrics between validations, and read-only access.
_EXPECTED_WARNINGS = ("Requested `tracked_metric`", "Given directory is read only")
# Starts of the tracebacks of a failed save: of its arrays, and of its metadata.
_FAILED_SAVE = ("[process=", "Failed to write metadata", "Failed to update metadata")


def is_unexpected(record: python_logging.LogRecord) -> bool:
    """Return False for a warning about an intended use, and for the traceback of a failed save.

    The error of a failed save is raised by the next `save` or `wait`, or by `close`.
    """
    text = str(record.msg)
    is_raised = text.startswith(_FAILED_SAVE) and record.exc_info is not None
    return not (is_raised or text.startswith(_EXPECTED_WARNINGS))


def hide_expected_records() -> None:
    """Hide the records from the log of this process."""
    logging.get_absl_logger().addFilter(is_unexpected)
