"""Metrics, which are pure functions, and the report that they make."""
