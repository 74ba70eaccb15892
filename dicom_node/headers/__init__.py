"""What an image says of itself in its header, and whether its series may be looked at because of that."""
