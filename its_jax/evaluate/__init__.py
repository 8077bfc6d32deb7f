"""Evaluates finished samples: scores, which are kept beside the samples, and tables of many samples."""
