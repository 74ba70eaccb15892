"""Which job gives the scan's result in place of a series that was not chosen; until then only its reason named it."""

import re

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("series", sa.Column("passed_over_for", sa.Integer(), nullable=True))
    connection = op.get_bind()
    newest = sa.text(
        "UPDATE series SET passed_over_for = (SELECT max(id) FROM jobs WHERE series_id = :chosen) WHERE id = :id"
    )
    for one, reason in connection.execute(sa.text("SELECT id, reason FROM series WHERE state = 'not chosen'")).all():
        if chosen := re.match(r"series (\d+) gives", reason or ""):
            connection.execute(newest, {"chosen": int(chosen[1]), "id": one})
