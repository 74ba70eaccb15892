"""What leaves the node: the Structured Report (`sr`), its readable rendering (`text`) and the picture (`picture`).

Importing this package loads nothing heavy; highdicom is imported by the functions that build.
"""
