"""Pictures made or changed for training: augmentation, synthetic heads, counterfactuals, what only looks like blood."""
