"""From one image after another to a complete series and its job."""
