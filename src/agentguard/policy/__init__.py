"""Decision points and how their decisions combine."""
