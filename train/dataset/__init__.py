"""What there is to learn from and to measure on: the manifest, its pictures, and who trains, validates and tests."""
