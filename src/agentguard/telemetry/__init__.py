"""What tracing shows of a guarded call: one span a call, with the delegation chain, the decision and the credential.

OpenTelemetry's API only; nothing here sets a provider, and nothing that fails here changes what happens to a call.
`spans` is what the guard calls; `semconv` holds the names, `attributes` makes the values, `current` keeps one span's
life, and `enclosing` finds the span to nest below.
"""
