"""The format, records, sources, keywords, encoding and decoding. Knows no TensorFlow."""
