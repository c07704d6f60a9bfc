"""Token batches, the Keras loop, and what it writes down on its way."""
