"""What is said of a policy that cannot be used."""

from __future__ import annotations


class PolicyError(ValueError):
    """A policy that cannot be used. Its text is one line: ``FILE:LINE:COLUMN: what is wrong; what to do``.

    ``line`` and ``column`` are counted from 1; both are 1 where the file as a whole is meant.
    """

    def __init__(self, where: str, line: int, column: int, problem: str, remedy: str) -> None:
        """Put the line together."""
        super().__init__(f"{where}:{line}:{column}: {problem}; {remedy}")
        self.where = where
        self.line = line
        self.column = column
        self.problem = problem
        self.remedy = remedy
