"""Which slices show brain, whether they show all of it, and what may hide part of it."""
