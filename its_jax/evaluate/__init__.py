"""What finished samples are worth: scores that are kept beside them, and tables over many of them."""
