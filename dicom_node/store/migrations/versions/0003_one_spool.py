"""Which spool the files lie in that a database names."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("node", sa.Column("spool_uid", sa.String(length=64), nullable=True))
