"""The steps of a call, a function each; their order is in `guard.py`."""
