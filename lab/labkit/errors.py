"""The error that is shown to the user as one message, without a traceback."""


class LabError(Exception):
    """A lab operation cannot go on; the text says what is wrong and what to do."""


class BusyError(LabError):
    """Another labctl holds the lock."""
