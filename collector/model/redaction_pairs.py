"""
Hides what is given to the names of secrets in a text: ``name=value``, ``name: value``, ``"name": "value"``.

Takes time linear in the text, whatever it is: a value is read once if it is hidden, else `_JUDGED` bytes of it.
"""

from __future__ import annotations

import re

from collector.model.redaction_forms import MASK
from collector.model.redaction_names import NameKind, SecretNames

_JUDGED = 256

_MARKUP = re.compile(rb"<([\w.:-]{1,64}+)(?:[ \t][^<>]{0,256}+)?>([^<>]++)(?=<|\Z)")
# A name, or a key in quotes (also escaped ones), before what it is given.
_SITE = re.compile(
    rb"(?:(?<![\w.$%\[\]\x80-\xff-])|(?<=%3[AaDd]))((?:[\w.$\[\]\x80-\xff-]++|%(?!3[AaDd])){1,8192})"
    rb"(\\{0,8}+[\"'])?([ \t]{0,4}+)(=>|:=|==?|:|%3[AaDd]"
    rb"|[,(](?=[ \t]{0,8}\\{0,8}[\"'](?!(?:V|\w{0,16}v)alue\b)))([ \t]{0,8}+)"
)
_SIGN = re.compile(rb"[=:%,(]")
_QUOTE = re.compile(rb"(\\{0,8}+)([\"'`])")
_QUOTED = {
    b'"': re.compile(rb'(?s)(?:[^"\\]++|\\.){0,8192}'),
    b"'": re.compile(rb"(?s)(?:[^'\\]++|\\.){0,8192}"),
    b"`": re.compile(rb"[^`]*+"),
}
# The rest of the line, or what is indented below it (YAML's "|" and ">")
_LINE = re.compile(rb"[|>][-+0-9]{0,2}+(?:\n[ \t]++[^\n]*+){1,8192}|[^\n\"']*+")
_CALL = re.compile(rb"""(?:"(?:[^"\\\n]++|\\.){0,256}"|'(?:[^'\\\n]++|\\.){0,256}'|\\.|[^)\n"'\\]++|["'\\]){0,8192}""")
_OPENING = re.compile(rb"[\w.]{0,64}+\((?=[ \t]{0,4}[\"'])")  # auth=("bob", "..."), auth=HTTPBasicAuth("bob", "...")
_VALUED = re.compile(
    rb"(?i)(\"value\"[ \t]{0,4}:[ \t]{0,4}\")([^\"\\]{1,256}+)"
    rb"(?=\"\s{0,32},\s{0,32}\"(?:name|key)\"[ \t]{0,4}:[ \t]{0,4}\"([\w.:-]{1,64}+)\")"
)
# {"name": "password", "value": "..."}, also in YAML and as Key=password,Value=...
_NAMED = re.compile(
    rb"(?i)(?<![a-z0-9])((\\{0,8}[\"'])?(?:parameter|option)?(?:name|key)(?(2)\2)[ \t]{0,4}[:=][ \t]{0,4}(?(2)\2)[\"']?"
    rb"([\w.:-]{1,64}+)[\"']?(?(2)\2?)[ \t]{0,4}(?:,|\n)\s{0,32}"
    rb"(?:[\"']?(?:type|kind|secure)[\"']?:[ \t]{0,4}[\"']?\w{0,32}+[\"']?,\s{0,32})?"
    rb"(?(2)\2)(?:parameter|option|string|default)?value"
    rb"(?(2)\2)[ \t]{0,4}[:=][ \t]{0,4})(?:(\\{0,8}[\"'])"
    rb"((?:[^\"'\\]++|(?!\4)(?:[^\\]|\\.)){1,8192})|([^\s,}\"'\\]++))",
    re.DOTALL,
)
_NEST = re.compile(rb"[^\]}]*+[\]}]*+")
# Up to what separates it from the next pair: blanks, "&", or ";" and "," if another name or the end follows.
_NEXT = rb"(?:[A-Za-z_][\w.-]{0,32}|[A-Z]\w{0,16}(?: [A-Z]\w{0,16}){1,3})="  # Initial Catalog=
_VALUE = re.compile(
    rb"(?s)(?:\\[^\"']|[^\s\"'\\&;,]++|[,;](?![ \t]{0,2}(?:%b|\s|\Z))|&(?![\w.%%\[\]-]{1,64}=)){0,8192}" % _NEXT
)
_CONNECTION = re.compile(rb"[^;\"'\n]{0,256}(?=;(%b)?)" % _NEXT)
_PORT = re.compile(rb"[0-9]{1,5}(?![^\s/,\"'\])])")
_SCHEME = re.compile(rb"(?i)(?:basic|bearer|token|digest|negotiate|apikey|ntlm|aws4-hmac-sha256)[ \t]")
_DIGEST = re.compile(
    rb"""(?:[^\n"'\w]++|(?:username|realm|nonce|uri|response|opaque|cnonce|oauth_\w{1,24}|signature|keyId|headers)="[^"\n]*+(?:"|\Z)|\w++){0,8192}"""
)
_PROSE = re.compile(
    rb"(?:expired|wrong|invalid|missing|incorrect|rejected|revoked|denied|mismatch|failed|not (?:found|set|valid))"
    rb"(?: [a-z0-9.,]+)*\Z"
)
_HEADER = re.compile(rb"(?i)(?:cookie|authorization)\Z")
_IN_QUERY = frozenset({b"sig", b"code", b"p", b"hash", b"sid", b"ticket", b"otp", b"sign", b"x-amz-credential"})


def hide_pairs(text: bytes, names: SecretNames) -> bytes:
    """Return *text* with `MASK` in place of what *names* hides."""
    if b"<" in text:
        text = _MARKUP.sub(lambda found: _element(found, names), text)
    if b"alue" in text:
        text = _NAMED.sub(lambda found: _named(found, names), text)
        text = _VALUED.sub(lambda found: found[1] + MASK if names.hides(found[3], found[2]) else found[0], text)
    return _assignments(text, names) if _SIGN.search(text) else text


def hide_whole(text: bytes, names: SecretNames) -> bytes | None:
    """Return *text* without all that follows the name of a secret that it begins with; ``None`` if it does not."""
    site = _SITE.match(text)
    if site is None or not _may_be_secret(text, site, names):
        return None
    return text[: site.end()] + MASK if _is_secret(text, site, text[site.end() :], names) else None


def _element(found: re.Match[bytes], names: SecretNames) -> bytes:
    """Hide ``<password>...</password>``."""
    if not names.hides(found[1], found[2]):
        return found[0]
    return found[0][: found.start(2) - found.start()] + MASK


def _named(found: re.Match[bytes], names: SecretNames) -> bytes:
    """Hide the value beside the name of a secret."""
    value = found[5] or found[6]
    if value == MASK or not names.hides(found[3], value):
        return found[0]
    return found[1] + (found[4] or b"") + MASK


def _assignments(text: bytes, names: SecretNames) -> bytes:
    """Hide what is given to names of secrets."""
    shown: list[bytes] = []
    done = at = 0
    while (site := _SITE.search(text, at)) is not None:
        at = site.end()
        if not _may_be_secret(text, site, names):
            continue
        begin, end = _extent(text, site, at + _JUDGED)
        if begin < end and _is_secret(text, site, text[begin:end], names):
            begin, at = _extent(text, site, len(text))
            shown += text[done:begin], MASK
            done = at
    return b"".join((*shown, text[done:])) if shown else text


def _may_be_secret(text: bytes, site: re.Match[bytes], names: SecretNames) -> bool:
    """Whether it depends on the value: the name is one of a secret, and not a part of a path or of a mail address."""
    before = text[max(site.start() - 2, 0) : site.start()]
    if before.endswith(b"*"):
        return False  # LS_COLORS=*.key=00;31
    if site[4] == b":" and before.endswith((b"/", b"@")) and len(before) > 1 and not before[:1].isspace():
        return False
    kind = names.kind(_name(site))
    if site[4] in {b",", b"("}:  # ["--password", "..."], define('DB_PASSWORD', '...'), setPassword("...")
        listed = bool(site[2]) and (site[1].startswith(b"-") or site[1].isupper())
        return kind in {NameKind.ALWAYS, NameKind.SECRET} and (listed if site[4] == b"," else not site[2])
    return kind is not None or _is_in_query(before, site[1])


def _is_secret(text: bytes, site: re.Match[bytes], value: bytes, names: SecretNames) -> bool:
    if value == MASK:
        return False
    if site[4] == b":" and not site[2] and not site[5] and (value.startswith(b"//") or _PORT.match(value)):
        return False  # auth.example.com:443
    if site[4] == b":" and site[5] and _PROSE.match(value):
        return False
    before = text[max(site.start() - 1, 0) : site.start()]
    return _is_in_query(before, site[1]) or names.hides(_name(site), value)


def _name(site: re.Match[bytes]) -> bytes:
    return site[1].removeprefix(b"-D").lstrip(b"-")  # java -Dname=value


def _is_in_query(before: bytes, name: bytes) -> bool:
    return before.endswith((b"?", b"&", b"#")) and name.lower() in _IN_QUERY


def _extent(text: bytes, site: re.Match[bytes], limit: int) -> tuple[int, int]:
    """Return where the value after *site* begins and ends, at most *limit*, without its quotes."""
    at = site.end()
    if site[4] != b"," and (call := _OPENING.match(text, at)) is not None:
        return call.end(), _end(_CALL, text, call.end(), limit)
    if site[4] == b"(":
        return at, _end(_CALL, text, at, limit)
    quote = _QUOTE.match(text, at, limit)
    if quote is None:
        return at, _end_of_bare(text, site, limit)
    begin = quote.end()
    if not quote[1]:
        return begin, _end(_QUOTED[quote[2]], text, begin, limit)
    end = text.find(quote[0], begin, limit)  # the quotes are themselves within quotes
    return begin, end if end >= 0 else min(limit, len(text))


def _end_of_bare(text: bytes, site: re.Match[bytes], limit: int) -> int:
    """Return where a value without quotes ends."""
    at = site.end()
    opener = text[max(site.start() - 1, 0) : site.start()]
    if opener in _QUOTED and not site[2] and (end := text.find(opener, at, at + _JUDGED)) >= 0:
        return end  # '--password=a b'
    if site[2] and text[at : at + 1] in {b"[", b"{"}:
        return _end(_NEST, text, at, limit)
    if site[1].endswith(b"eval") or (site[4] == b":" and site[5]):
        return _end(_DIGEST if _HEADER.search(site[1]) else _LINE, text, at, limit)
    if site[4] == b":" and (_SCHEME.match(text, at) or _HEADER.search(site[1])):
        return _end(_LINE, text, at, limit)
    connection = _CONNECTION.match(text, at)
    if connection and (connection[1] or opener == b";"):
        return min(connection.end(), limit)  # Server=h;Password=a b;
    return _end(_VALUE, text, at, limit)


def _end(pattern: re.Pattern[bytes], text: bytes, at: int, limit: int) -> int:
    found = pattern.match(text, at, limit)
    return found.end() if found else at
