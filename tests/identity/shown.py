"""What an error shows of the code it passed: its text, its causes, and the locals that its traceback keeps alive."""

from __future__ import annotations


def shown_by(error: BaseException | None) -> str:
    """Everything but the first frame, which is the test's own."""
    texts: list[str] = []
    while error is not None:
        texts.append(repr(error))
        trace = error.__traceback__.tb_next if error.__traceback__ is not None else None
        while trace is not None:
            texts.append(repr(trace.tb_frame.f_locals))
            trace = trace.tb_next
        error = error.__cause__ or error.__context__
    return "\n".join(texts)
