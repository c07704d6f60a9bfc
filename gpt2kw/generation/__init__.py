"""The decode loop and the generator around it."""
