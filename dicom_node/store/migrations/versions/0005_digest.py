"""The digest of an instance is not always SHA-256 any longer: `dicom_node.digests`. Those noted until now stay."""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.alter_column("instances", "sha256", new_column_name="digest")
