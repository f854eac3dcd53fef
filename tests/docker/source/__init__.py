"""The source path of docker/Dockerfile, tried on a small project laid out like TVM's."""
