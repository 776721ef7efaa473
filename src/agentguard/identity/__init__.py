"""Who is there: what proves the workload, and what proves the user it works for.

The workload: `static.StaticIdentity` (named in this process), `jwt_file.JwtFileIdentity` (a token that a platform
rotates in a file) and `spiffe.SpiffeIdentity` (a SPIFFE agent). The user: `id_token.IdTokenVerifier` turns an OpenID
Connect ID token into the Subject of a task.
"""
