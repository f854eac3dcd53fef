"""Many runs together: listed, compared, exported, and the commit found that made one slower."""
