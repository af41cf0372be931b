"""Logs as events with fields: one JSON object a line, on stderr."""

import json
import logging
import math
import sys
from datetime import UTC, datetime
from typing import Any, Final

_LONGEST: Final = 2000
# What a record has before anybody adds a field to it.
_OWN: Final = frozenset(vars(logging.makeLogRecord({}))) | {
    "message",
    "asctime",
    "taskName",
}


def configure(level: str | int = "INFO") -> None:
    """Send all logs of this process to stderr as JSON lines; for `__main__` only."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=level, handlers=[handler], force=True)


class JsonLines(logging.Formatter):
    """Formats a record as time, level, logger, message and its extra fields.

    Numbers and texts are written; of anything else (bytes, arrays, messages) only the
    type, so that no key or picture gets into a log by accident.
    """

    def format(self, record: logging.LogRecord) -> str:
        # What begins with an underscore is a library's own: Ray adds a time to each.
        extra = {
            name: value
            for name, value in vars(record).items()
            if name not in _OWN and not name.startswith("_")
        }
        line = {name: _safe(value) for name, value in extra.items()} | {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(
                timespec="milliseconds"
            ),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage()[:_LONGEST],
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=True)


def _safe(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, str):
        return value[:_LONGEST]
    return f"<{type(value).__name__}>"
