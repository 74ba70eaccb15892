"""What the node remembers: files in the spool, rows in the database. All SQL of the node is in this folder.

The functions take an open connection, so that the flow above them decides what belongs in one transaction.
"""
