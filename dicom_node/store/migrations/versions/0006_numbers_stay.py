"""SQLite gives no object, delivery or request for commitment the number of one that was deleted; PostgreSQL never did.

What still holds a number that it read before must not meet another patient's row under it.
"""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    if op.get_bind().dialect.name != "sqlite":
        return
    # SQLite must copy a table for this, and drop the old one: not while the rows of another refer to it.
    op.execute("CREATE TABLE kept_deliveries AS SELECT * FROM deliveries")
    op.execute("DELETE FROM deliveries")
    for name in ("commitments", "objects", "deliveries"):
        with op.batch_alter_table(name, recreate="always", table_kwargs={"sqlite_autoincrement": True}):
            pass
    op.execute("INSERT INTO deliveries SELECT * FROM kept_deliveries")
    op.execute("DROP TABLE kept_deliveries")
