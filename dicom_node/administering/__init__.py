"""What an administrator is shown, and what only a person may decide."""
