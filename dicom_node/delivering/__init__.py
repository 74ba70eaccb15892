"""From a result to objects that stand in a PACS, and its word that they do."""
