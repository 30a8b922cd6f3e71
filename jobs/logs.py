"""The log: one line per record for people, or one JSON object per line for programs; secrets are taken out of both.

    {"time": "2026-05-01T12:00:00.123+00:00", "level": "warning", "logger": "jobs.session", "run": "demo-...", "stage":
     "teach sam2", "message": "...", "fields": {...}, "process": {"pid": 1, "node": "host", "role": "driver"}}

Each process sets up its own: the driver's command line does, and the processes that work for a stage take the
driver's settings with them.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import TextIO, cast

from pipelines.observer import current_observer
from storage.errors import UsageError
from storage.keys import Json
from storage.redaction import redact, redact_json

__all__ = [
    "OUTCOME_LOGGER",
    "PROGRESS_LOGGER",
    "HumanFormatter",
    "JsonFormatter",
    "LogFormat",
    "LogSettings",
    "adopt_loggers",
    "log_settings",
    "plain",
    "relay",
    "set_up_logging",
]

OUTCOME_LOGGER, PROGRESS_LOGGER = "jobs.outcome", "jobs.progress"
"""Of how a command ended, and of how far its stages are: the terminal shows both in another way."""

_PACKAGES = ("jobs", "model", "pipelines", "storage", "teachers")


class LogFormat(StrEnum):
    """What a line of the log is."""

    HUMAN = "human"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class LogSettings:
    """How this process, and those that work for it, write their log."""

    format: LogFormat = LogFormat.HUMAN
    level: int = logging.WARNING
    """Of our own packages; others are heard from `WARNING` on."""
    file: str | None = None
    """Of the driver: where the log goes in `format`, while standard error stays for people; None: to standard
    error."""

    @property
    def of_workers(self) -> LogSettings:
        """Those of a process that works for this one: its standard error is all it has."""
        return LogSettings(self.format, self.level)

    @property
    def json_on_stderr(self) -> bool:
        """Whether every line of standard error has to be a JSON object."""
        return self.format is LogFormat.JSON and self.file is None


_settings = LogSettings()


def log_settings() -> LogSettings:
    """Those that this process was set up with."""
    return _settings


def set_up_logging(settings: LogSettings, role: str = "driver", stream: TextIO | None = None) -> None:
    """Sets up the log of this process; again, if it was set up before.

    Args:
        settings: format, level and file.
        role: of the process, such as `driver`.
        stream: where lines go; None: standard error.

    Raises:
        UsageError: the file can't be written.
    """
    global _settings
    _settings = settings
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _StreamHandler | _FileHandler)]:
        root.removeHandler(handler)
        handler.close()
    formatter = JsonFormatter(role) if settings.format is LogFormat.JSON else HumanFormatter()
    handler = _StreamHandler(stream)
    handler.setFormatter(formatter if settings.file is None else HumanFormatter())
    if not settings.json_on_stderr:
        handler.addFilter(_is_for_people)
    root.addHandler(handler)
    if settings.file is not None:
        root.addHandler(_open_file(settings.file, formatter))
    root.setLevel(logging.WARNING)
    for package in _PACKAGES:
        logging.getLogger(package).setLevel(settings.level)
    logging.getLogger(PROGRESS_LOGGER).setLevel(logging.INFO)
    sys.excepthook = _log_uncaught
    logging.captureWarnings(settings.json_on_stderr)
    adopt_loggers()


def relay(line: Mapping[str, Json]) -> None:
    """Takes a line of another process' log into this one's, for programs; people see it as Ray shows it, if at all."""
    fields = ("time", "run", "stage", "process", "error")
    record = logging.makeLogRecord(
        {
            "name": line["logger"],
            "levelno": logging.getLevelNamesMapping()[str(line["level"]).upper()],
            "levelname": str(line["level"]).upper(),
            "msg": "%s",
            "args": (line["message"],),
            "fields": line["fields"],
            "origin": {name: line[name] for name in fields if name in line},
            "relayed": True,
        }
    )
    logging.getLogger(record.name).handle(record)


def _is_for_people(record: logging.LogRecord) -> bool:
    return record.name not in (OUTCOME_LOGGER, PROGRESS_LOGGER) and not getattr(record, "relayed", False)


def adopt_loggers() -> None:
    """Takes handlers off loggers of other libraries that write to the terminal, where all lines have to be JSON.

    Libraries set theirs up when they are imported, so that this is done again behind imports.
    """
    if not _settings.json_on_stderr:
        return
    for logger in list(logging.root.manager.loggerDict.values()):
        if not isinstance(logger, logging.Logger):
            continue
        for handler in [handler for handler in logger.handlers if _writes_to_terminal(handler)]:
            logger.removeHandler(handler)
            logger.propagate = True


def _writes_to_terminal(handler: logging.Handler) -> bool:
    return isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler)


class HumanFormatter(logging.Formatter):
    """Lines for people, without secrets."""

    def __init__(self) -> None:
        super().__init__("%(levelname)s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """The record as text; a traceback takes further lines."""
        return redact(super().format(record))


class JsonFormatter(logging.Formatter):
    """One JSON object per record, without secrets.

    Args:
        role: of the process.
    """

    def __init__(self, role: str) -> None:
        super().__init__()
        self._role = role

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        return json.dumps(self.as_json(record), ensure_ascii=False)

    def as_json(self, record: logging.LogRecord) -> dict[str, Json]:
        """The record as plain data.

        `extra={"fields": {...}}` of a call gives its fields. A record of another process brings `origin` with it:
        run, stage and process.
        """
        labels = current_observer().labels
        process = {"pid": os.getpid(), "node": platform.node(), "role": self._role}
        line: dict[str, Json] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "run": labels.get("run"),
            "stage": labels.get("stage"),
            "message": record.getMessage(),
            "fields": plain(getattr(record, "fields", {})),
            "process": process,
            **cast("Mapping[str, Json]", getattr(record, "origin", {})),
        }
        if record.exc_info and record.exc_info[0] is not None:
            kind, error, trace = record.exc_info
            line["error"] = {
                "class": kind.__name__,
                "message": str(error),
                "traceback": "".join(traceback.format_exception(kind, error, trace)),
            }
        return cast("dict[str, Json]", redact_json(line))


def plain(value: object) -> Json:
    """A value as JSON knows it; what it doesn't know becomes text."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if abs(value) < float("inf") else str(value)  # NaN compares as false
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in cast("Mapping[object, object]", value).items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in cast("list[object]", value)]
    return str(value)


class _StreamHandler(logging.StreamHandler[TextIO]):
    """Writes to a stream; without one, to whatever standard error is by then."""

    def __init__(self, stream: TextIO | None) -> None:
        super().__init__(stream)
        self._to_stderr = stream is None

    def emit(self, record: logging.LogRecord) -> None:
        if self._to_stderr:
            self.stream = sys.stderr
        super().emit(record)


class _FileHandler(logging.FileHandler):
    """Of ours, so that it can be told from others."""


def _open_file(path: str, formatter: logging.Formatter) -> logging.Handler:
    try:
        Path(path).expanduser().parent.mkdir(parents=True, exist_ok=True)
        handler = _FileHandler(Path(path).expanduser(), encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"--log-file {path}: expected a file that can be written: {error}; name another one"
        ) from error
    handler.setFormatter(formatter)
    return handler


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Errors that nobody expected, with their traceback and without secrets."""
    logging.getLogger("jobs").critical("%s: %s", kind.__name__, error, exc_info=(kind, error, trace))
