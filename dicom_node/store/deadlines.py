"""Deadlines: times in rows, held against a clock that may have been put back since they were set."""

from __future__ import annotations

import sqlalchemy as sa

SLACK_S = 1.0  # the clocks of two machines on one database differ a little


def passed(deadline: sa.Column[float], *, now: float, longest_s: float) -> sa.ColumnElement[bool]:
    """Whether it has come.

    One further away than `longest_s`, the longest that is ever set, was set before the clock was put back, and has too.
    """
    return sa.or_(deadline <= now, deadline > now + longest_s + SLACK_S)
