"""What OpenTelemetry is told of a guarded call: its span, its parts, measurements, and copies of what was denied.

OpenTelemetry's API only; nothing here sets a provider, and nothing that fails here changes what happens to a call.
`emitter` is what the guard calls, by its `settings`. Spans: `spans`, with `attributes` for the values, `current` for
one span's life, `enclosing` to find the span to nest below, `links` to the trace a task comes from, and `watched` and
`phases` for the parts of a call. Measurements: `metrics`, and `counting` of what the audit log is told. Copies:
`events`. Names: `semconv`, which is made from semconv/agentguard.yaml. `sampling` is for the application's own SDK.
"""
