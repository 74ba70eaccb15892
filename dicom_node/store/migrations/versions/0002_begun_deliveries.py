"""When a delivery was begun; what was tried before and not delivered counts as begun."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("deliveries", sa.Column("begun_at", sa.Float(), nullable=True))
    op.execute("UPDATE deliveries SET begun_at = next_at WHERE tries > 0 AND state IN ('waiting', 'cancelled')")
