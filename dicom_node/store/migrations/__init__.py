"""Migrations of the schema, by alembic; run at start by `store.database`."""
