"""Errors that are said in one line: what is the user's to mend (exit code 2, nothing written); the end of a driver."""

from __future__ import annotations


class UserError(ValueError):
    """Names the field, its value and what would be right."""


class MissingData(UserError):
    """A data set that is not on this machine; says what to do."""


class DriverEnded(RuntimeError):
    """The driver of a sweep cannot go on; its books are closed and the sweep can be resumed (exit code 1)."""


class UnfitCluster(DriverEnded):
    """Nodes of the cluster cannot run the sweep; names them. Nothing has begun (exit code 1)."""
