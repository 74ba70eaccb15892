"""Many trainings side by side: folds, ingredients, seeds; each trained, measured and audited."""
