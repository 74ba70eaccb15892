"""Deadlines: times in rows, compared with a clock that may have been set back since they were written."""

from __future__ import annotations

import sqlalchemy as sa

SLACK_S = 1.0  # the clocks of two machines on one database differ a little


def passed(deadline: sa.Column[float], *, now: float, longest_s: float) -> sa.ColumnElement[bool]:
    """Whether the deadline has passed.

    One further away than `longest_s`, the longest ever set, is from before the clock was set back: it has passed, too.
    """
    return sa.or_(deadline <= now, deadline > now + longest_s + SLACK_S)
