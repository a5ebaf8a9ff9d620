"""What a check found, for the terminal, the report and scripts alike."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

__all__ = ["Finding", "Severity"]

Severity = Literal["good", "note", "warning", "distrust"]


@dataclass(frozen=True)
class Finding:
    """One thing that a check looked at.

    Attributes
    ----------
    name : the check, as in "psf-too-wide"; the same in every run, for scripts
    severity : "good" (looked at, and in order), "note" (worth knowing), "warning" (a common mistake, likely
        made) or "distrust" (the result should not be used as it is)
    sentence : what was found, in plain words, with the value and the limit it was held against
    remedy : what to do about it; empty where there is nothing to do
    """

    name: str
    severity: Severity
    sentence: str
    remedy: str = ""

    @property
    def needs_attention(self) -> bool:
        """Whether somebody should be told without having asked."""
        return self.severity in ("warning", "distrust")

    def as_json(self) -> dict[str, Any]:
        """Give the finding as JSON takes it."""
        return asdict(self)
