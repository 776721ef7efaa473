"""Free text: what counts as a link, which characters hide something, and that no text takes long."""

from __future__ import annotations

import time

import pytest

from agentguard.errors import ConfigurationError
from agentguard.intent import Constraint, Facts, Truth, find_link, text
from agentguard.intent.links import _fold
from agentguard.intent.tlds import FILE_EXTENSIONS, top_level_domains
from tests.intent.calls import call_of

LINKS = [
    "http://evil.test/x",
    "HTTPS://EVIL.TEST",
    "https:evil",
    "custom+app://open",
    "ftp://x",
    "mailto:ann@acme.com",
    "tel:+491234",
    "data:text/html,x",
    "javascript: alert(1)",
    "www.evil",
    "see WWW.Evil.test now",
    "evil.com",
    "Visit evil.com.",
    "(evil.com)",
    "evil.com/path",
    "evil.com?x=1",
    "evil.co.uk",
    "a-b.evil.io:8080",
    "evil.com\u201d",
    "ann@acme.com/evil",
    "ann@acme.com:8080",
    "@evil.com",
    "hxxp example",
    "hXXps example",
    "evil[.]com",
    "x [.] y",
    "evil(.)com",
    "evil[dot]com",
    "evil(dot)com",
    "evil%2Ecom",
    "https%3A//evil",
    "\uff45\uff56\uff49\uff4c\uff0e\uff43\uff4f\uff4d",  # full-width letters
    "evil\u2024com",  # one dot leader
    "evil\u3002com",  # ideographic full stop
    "\u0435xample.com",  # a Cyrillic letter
    "xn--e1afmkfd",
    "\u043f\u0440\u0438\u043c\u0435\u0440.\u0440\u0444",
    "\u0909\u0926\u093e\u0939\u0930\u0923.\u092d\u093e\u0930\u0924",
    "\u4f8b\u5b50.\u4e2d\u56fd",
    "evil\u200d.com",
    "evil\u034f.com",
    "evil\ufe0f.com",
    "e" + "\u0301" * 40,
    # what Markdown and HTML make a link of
    r"![x](https\://evil\.com/?q=1)",
    r"[x](//evil\.com)",
    r"[x](\/\/evil\.com)",
    "![x](https&colon;//evil&period;com/?q=1)",
    "[x](https&#58;//evil&#x2e;com)",
    "[x](//evil&#00000046;com)",
    "[x](//evil&#46com)",
    "[x](https&Tab;://evil)",
    "[x](//evil.c&#10;om)",
    "![x](//a@secret.evil.com)",
    "[x](//a:b@secret.evil.com)",
    r"<a href='\\a@evil.com'>x</a>",
    r"<a href='/\a@evil.com'>x</a>",
    '<img src="h\tttps:/\t/evil.c\tom/x">',
    '<a\nhref="//ev\nil.c\nom">x</a>',
    "i\u2764.ws",
    "\u2764\ufe0f.ws/login",
    "\U0001f468\u200d\U0001f4bb.to",
    "1\ufe0f\u20e3.ws",
    "\u1019\u103c\u1014\u103a.com",
    "\u178f\u17c1.com",
    "\u0787\u07a6.com",
]
PLAIN = [
    "",
    "Refund for ticket 4711: 49.99 EUR, as agreed.",
    "report.pdf and notes.md, setup.py, archive.zip",
    "Dr.Smith called",
    "ann@acme.com",
    "Write to ann.lee@mail.acme.com, bo@acme.com.",
    "version 1.2.3 at 12:30",
    "e.g. this, i.e. that, U.S.",
    "http is a protocol",
    "100% sure, 50%",
    "a/b and c\\d",
    "first line\nsecond\tline",
    "caf\u00e9 \u4f60\u597d \U0001f469\u200d\U0001f469\u200d\U0001f467 \u0928\u092e\u0938\u094d\u0924\u0947",
    "data: see below; tel: later",
    "x.y",
    "node.js",
    "AT&T, Q&A; fish & chips &amp; tea, R&D",
    "C:\\docs\\new and \\*not bold\\*",
    "a < b.\nNet income rose",
    "see a/b: ann@acme.com, a//b and ann@acme.com",
    "Great \U0001f600. It was \u2764. Me too",
    "It costs 5 \u20ac.It is \u201cfine\u201d.Me too",
]
HIDDEN = [
    "a\rb",
    "a\x00b",
    "a\x1bb",
    "a\x7fb",
    "a\x85b",
    "a\u202eb",
    "a\u2066b",
    "a\u200bb",
    "a\ufeffb",
    "a\u00adb",
    "a\U000e0041b",
]


def judge(said: Constraint, value: object) -> Truth:
    return said.test("x")(value, call_of(), Facts())


@pytest.mark.parametrize("value", LINKS)
def test_link_is_found(value: str) -> None:
    assert find_link(value)
    assert find_link(f"Dear Ann, {value} is it")


@pytest.mark.parametrize("value", PLAIN)
def test_plain_text_holds_no_link(value: str) -> None:
    assert find_link(value) == ""
    assert judge(text(), value) is Truth.HOLD


@pytest.mark.parametrize("value", HIDDEN)
def test_hidden_characters_fail(value: str) -> None:
    assert judge(text(), value) is Truth.FAIL


ALLOWED = [
    "https://acme.com",
    "see https://acme.com/a?b=c#d.",
    "(https://acme.com), HTTPS://ACME.COM/x",
    "https://acme.com?",
]
NOT_ALLOWED = [
    "http://acme.com",
    "https://www.acme.com",
    "https://acme.com.evil.test",
    "https://acme.com@evil.test",
    "https://acme.com;@evil.test",
    "https://acme.com,x@evil.com",
    "https://acme.com:8443/",
    "https://acme.com\\@evil.test",
    "https://acme.com%2f.evil.test",
    "https://acme.com%20.evil.com",
    "https://acme.com\uff0f.evil.test",
    "https://acme.com/?to=https://evil.test",
    "https://acme.com,https://evil.test",
    "https://acme.com evil.com",
    "nothttps://acme.com",
    "view-source:https://acme.com",
    "acme.com",
    "https://acme.com./",
    "https://\u0430cme.com",
]


@pytest.mark.parametrize("value", ALLOWED)
def test_https_link_to_a_named_host_may_stand(value: str) -> None:
    assert judge(text(hosts=["acme.com"]), value) is Truth.HOLD
    assert judge(text(), value) is Truth.FAIL


@pytest.mark.parametrize("value", NOT_ALLOWED)
def test_anything_but_https_to_exactly_the_named_host_fails(value: str) -> None:
    assert judge(text(hosts=["acme.com"]), value) is Truth.FAIL


def test_length_is_counted_in_characters() -> None:
    assert judge(text(max=3), "\U0001f600\U0001f600\U0001f600") is Truth.HOLD
    assert judge(text(max=3), "abcd") is Truth.FAIL


@pytest.mark.parametrize("bad", [0, -1, True, "5", 1.5])
def test_max_of_text_is_a_count(bad: int) -> None:
    with pytest.raises(ConfigurationError, match="at least 1"):
        text(max=bad)


@pytest.mark.parametrize(
    "bad", ["acme.com", ["https://acme.com"], ["*.acme.com"], ["ACME.com"], ["acme"], [5], ["a.com "]]
)
def test_hosts_of_text_are_exact(bad: list[str]) -> None:
    with pytest.raises(ConfigurationError, match="host"):
        text(hosts=bad)


def test_urls_has_no_other_choice_than_none() -> None:
    assert text(urls="none") == text(urls=None) == text()
    with pytest.raises(ConfigurationError, match="hosts"):
        text(urls="any")


def test_top_level_domains_are_known_in_both_forms_and_file_extensions_are_not() -> None:
    known = top_level_domains()

    assert {"com", "xn--p1ai", "\u0440\u0444"} <= known
    assert not known & FILE_EXTENSIONS
    assert all(_fold(name) == name for name in known)


SLOW = {
    "letters": "a",
    "dots": ".",
    "hosts": "a.com.",
    "addresses": "a@b.com ",
    "at signs": "@",
    "address without end": "a@" + "b.",
    "schemes": "https://",
    "allowed": "https://acme.com",
    "closers": "https://acme.com)))))))))",
    "percent": "%2e",
    "broken percent": "%",
    "colons": "a:",
    "spaces": " ",
    "brackets": "[",
    "hyphens": "-.",
    "marks": "\u0301\u0323",
    "voiced marks": "\uff9e\u0301",
    "joiners": "\u200d",
    "tld": ".comx",
    "digits": "1.",
    "wide": "\uff0e\uff43",
    "ligatures": "\ufdfa",
    "references": "&#769;",
    "references without end": "&#0",
    "ampersands": "&",
    "backslashes": "\\<",
    "tags": "<a\t",
    "tag without end": "<" + "a\n" * 45_000,
    "slashes": "//",
    "users": "//a@b.com ",
}


@pytest.mark.parametrize("piece", SLOW.values(), ids=SLOW.keys())
@pytest.mark.parametrize("tail", ["", "x", "\u00e9"])
def test_no_text_takes_long(piece: str, tail: str) -> None:
    value = piece * (100_000 // len(piece.encode())) + tail  # 100 KB
    started = time.process_time()

    judge(text(hosts=["acme.com"]), value)
    judge(text(max=200_000), value)

    assert time.process_time() - started < 2
