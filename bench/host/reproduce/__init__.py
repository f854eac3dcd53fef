"""Whether an image comes out the same again: what is in it file by file, and what differs why."""
