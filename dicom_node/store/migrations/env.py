"""How alembic reaches the database: always over a connection that the node hands in, in the node's own transaction."""

from alembic import context

from dicom_node.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite changes a column only by copying its table
    transactional_ddl=False,  # the transaction is the caller's
)
context.run_migrations()
