"""On the host: knows docker, never torch or tvm. Starts jobs and keeps what they give back."""
