"""What runs inside an image's build: standard library only, one step a module."""
