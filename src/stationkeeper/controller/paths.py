"""Where the controller's files are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stationkeeper.controller.config import Files


@dataclass(frozen=True)
class Paths:
    """Where the controller's files are."""

    config_dir: Path
    state_dir: Path
    runtime_dir: Path

    @property
    def files(self) -> Files:
        """The configuration files."""
        return Files.at(self.config_dir, self.state_dir)

    @property
    def buffer(self) -> Path:
        """The store."""
        return self.state_dir / "buffer.db"

    @property
    def orders(self) -> Path:
        """The directory of the orders to the controller."""
        return self.state_dir / "orders"

    @property
    def modes(self) -> Path:
        """What the controller remembers of holds over a restart."""
        return self.state_dir / "modes.json"

    @property
    def latches(self) -> tuple[Path, Path]:
        """The latch's directory and its fallback."""
        return self.state_dir / "latch", self.runtime_dir / "latch"
