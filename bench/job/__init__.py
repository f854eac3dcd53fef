"""Inside the image: knows torch and tvm, never docker. A job is a pure function of its spec."""
