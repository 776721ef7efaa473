"""What leaves the process: sent by OpenTelemetry's exporter, decoded by its protobuf, held against what was done."""

from __future__ import annotations

import pytest

from tests.telemetry.everything import happen
from tests.telemetry.otlp_sink import arrived_whole, needed, sending, sink


def test_all_three_signals_are_otlp_as_a_receiver_decodes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    needed()
    with sink() as found:
        with sending(found.url, monkeypatch):
            happen()

        arrived_whole(found)


@pytest.mark.control("6 a credential is never seen")
def test_no_byte_that_leaves_the_process_is_of_a_credential_a_subject_or_an_exception(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    needed()
    with sink() as found:
        with sending(found.url, monkeypatch):
            happen()
    sent = b"".join(message.SerializeToString() for message in found.messages)

    assert len(sent) > 10_000
    for hidden in (b"canary-", b"alice", b"4711"):
        assert hidden not in sent
