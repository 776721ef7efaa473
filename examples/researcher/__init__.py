"""The second process of `two_services.py`: an agent that works under tasks which others hand on to it."""
