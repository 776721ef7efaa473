"""Who is there: what proves the workload, and what proves the user it works for.

`id_token.IdTokenVerifier` turns an OpenID Connect ID token into the Subject of a task.
"""
