"""Runnable examples; none of them needs a key or the network."""

import warnings

# Said once, on import; its tools are guarded here as an example of code that others wrote.
warnings.filterwarnings("ignore", "`langchain-community` is being sunset", DeprecationWarning)
