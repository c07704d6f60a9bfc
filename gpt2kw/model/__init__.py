"""Tokenizer, weights, model folders, named models and run directories."""
