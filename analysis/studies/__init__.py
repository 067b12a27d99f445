"""Whole studies: what is measured on which mini-batches, written so that a stopped one goes on."""
