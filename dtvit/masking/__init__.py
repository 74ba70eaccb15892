"""What `brace` removes the holder with: operations on masks, and the steps of the `robust` mode."""
