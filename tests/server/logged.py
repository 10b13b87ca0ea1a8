"""The log of members that run in the test's own process."""

import logging


class Lines(logging.Handler):
    """What raftkv and the event loop logged."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def rejected(self) -> list[str]:
        """The reasons of rejected connections."""
        return [str(vars(one)["error"]) for one in self.records if "rejected" in one.getMessage()]

    def broken(self) -> list[str]:
        """What nobody handled."""
        return [one.getMessage() for one in self.records if one.exc_info or one.levelno >= 40]
