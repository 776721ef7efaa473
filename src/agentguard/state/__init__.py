"""Shared state: counters and suspensions; the embedded default is this process's memory."""
