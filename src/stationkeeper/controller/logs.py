"""Logging of the controller: standard error always, and a file that log rotation can move away."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path

from stationkeeper.controller.schema import Logging

FORMAT = "%(levelname)s %(name)s: %(message)s"


class LogFiles:
    """The handlers in force."""

    def __init__(self) -> None:
        self._file: logging.FileHandler | None = None
        self._settings = Logging()

    def apply(self, settings: Logging) -> None:
        """Set level and file; a file that cannot be opened is told on standard error, and that is all."""
        root = logging.getLogger()
        root.setLevel(settings.level.upper())
        self._settings = settings
        if self._file is not None:
            root.removeHandler(self._file)
            self._file.close()
            self._file = None
        if settings.file is None:
            return
        formatter = logging.Formatter(f"%(asctime)s.%(msecs)03dZ {FORMAT}", "%Y-%m-%dT%H:%M:%S")
        formatter.converter = time.gmtime
        try:
            self._file = logging.FileHandler(Path(settings.file), encoding="utf-8")
        except OSError as error:
            logging.getLogger(__name__).error("%s: no log file: %s", settings.file, error.strerror)
            return
        self._file.setFormatter(formatter)
        root.addHandler(self._file)

    def reopen(self) -> None:
        """Open the file anew, after log rotation has moved it."""
        self.apply(self._settings)


def set_up_logging(settings: Logging) -> LogFiles:
    """Log to standard error (the journal adds the time) and to the configured file."""
    # A full disk must not print a traceback for every line.
    logging.raiseExceptions = False
    stream = logging.StreamHandler(sys.stderr)
    stream.setFormatter(logging.Formatter(FORMAT))
    logging.getLogger().addHandler(stream)
    files = LogFiles()
    files.apply(settings)
    return files
