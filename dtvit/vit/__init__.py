"""A plain ViT computed otherwise, with the same result; and where it looked."""
