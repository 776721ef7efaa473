"""AgentDojo v1.2.2 without a model: its own ground truth is replayed through guarded tools, its own checks judge.

A **user task** is solved when the user's calls, made through the guard, still satisfy AgentDojo's utility check. An
**attack** is a pair of a user task and an injection task that has a ground truth: a fully hijacked agent makes the
user's calls and the attack's, with the attacker's exact arguments. It is completed when AgentDojo's security check
finds the attacker's goal reached. There are two moments:

    after   the user's calls, then the attack's
    mid     the attack's calls before the user's first call that is no plain read; where the user makes only reads,
            before the last of them. An attack there finds every budget of the intent unused.

A call that is denied never ran: it stays out of the trace that the checks read, and the agent goes on with the next. A
person who is asked agrees to the user's calls and refuses the attack's, so `completed` counts what works without a
person's mistake; `completed_if_approved` counts what works when the person agrees to everything.
"""
