"""What an image is made of and where it is from, and how the very same one is had again."""
