"""Experiments: each file holds `config()` and says which figure to expect."""
