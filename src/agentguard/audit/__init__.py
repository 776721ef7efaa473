"""The audit log: hash-chained records, one RFC 8785 line each, written before anything is done.

`FileLog` writes files, `MemoryLog` keeps the last records in memory; both are an `AuditSink`. `verify` checks files,
`repair` takes care of what a killed process left. Import them from their modules: log, memory, verify, repair.

A chain shows every change, removal, repetition and reordering inside it. It does not show that records at its end were
removed, or that all of it was written anew: that takes signed checkpoints (`checkpoints`), kept elsewhere, which
`trusted` compares a log with and `proof` proves single records under.
"""
