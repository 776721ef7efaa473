"""People who approve; the embedded default refuses."""
