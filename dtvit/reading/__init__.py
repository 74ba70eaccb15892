"""What `ct` reads with: from the bytes of an object to stored values that are what they seem."""
