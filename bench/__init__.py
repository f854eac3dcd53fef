"""gpt-frontend: GPT models compiled with Apache TVM and measured before and after, reproducibly."""
