"""The one kind of error that is the user's to mend: one line, exit code 2, nothing written."""

from __future__ import annotations


class UserError(ValueError):
    """Names the field, its value and what would be right."""


class MissingData(UserError):
    """A data set that is not on this machine; says what to do."""
