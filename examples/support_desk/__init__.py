"""The demo: an agent whose task is hijacked by the ticket it reads. `python -m examples.support_desk`."""
