"""Peers side by side in one run: what a guarded LangChain tool call costs under each, and what each does for it.

Every peer runs in a process and an environment of its own (`environments`), with the same tool and the same arguments.
The rounds are interleaved between the processes, on one CPU (`rounds`). What a peer does for one call is looked at
while it runs (`look`, and `of_*`, one module a peer, which calls that peer's public API only), and stands beside its
figure. Run as `python -m bench.peers [--json] [--env DIR] [--rounds N]`; once the environments are made, nothing leaves
the machine.
"""
