"""Where credentials come from: issuers, and the leases that are held for a task.

`local.LocalIssuer` signs its own `at+jwt` tokens in the process: no server, revocable at once, gone within a minute.
"""
