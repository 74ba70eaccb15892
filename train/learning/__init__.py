"""From pictures in memory to a checkpoint: batches, steps, looks at the validation part, and what is kept."""
