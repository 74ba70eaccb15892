"""The worker process: it has slices read, runs the model on them, and ends jobs with a result."""
