"""
Hides secrets that are known by their form, whatever the name before them: tokens, and passwords in URLs and the like.

Every pattern takes time linear in the text, whatever it is: it reads what it matches once, with possessive
quantifiers, and looks ahead a fixed number of bytes. A group is never possessive, since Python before 3.11.5 (Debian
12 has 3.11.2) then matches what does not match (gh-106052), and repeated at most 8,192 times: each takes 130 bytes.
"""

from __future__ import annotations

import base64
import re
from binascii import Error

MASK = b"[redacted]"

# Formats of the services that issue them, whatever the name before them.
_TOKENS = re.compile(
    rb"(?<![A-Za-z0-9_])(?:"
    rb"eyJ[\w-]{8,}+(?:\.[\w-]*+){0,4}"  # JWT, and JSON in base64
    rb"|A(?:KIA|SIA)[A-Za-z0-9]{8,}+"  # AWS
    rb"|gh[oprsu]_\w{8,}+|github_pat_\w{8,}+"
    rb"|gl(?:pat|dt|rt|cbt|ptt|ft|oas|soat|agent|imt|ffct)-[\w.-]{8,}+"  # GitLab
    rb"|xox[a-z]-[\w-]{8,}+|xapp-[\w-]{8,}+"  # Slack
    rb"|AIza[\w-]{8,}+|ya29\.[\w-]{8,}+|GOCSPX-[\w-]{8,}+"  # Google
    rb"|npm_\w{8,}+|pypi-[\w-]{8,}+|dckr_pat_[\w-]{8,}+|hf_\w{8,}+"
    rb"|hv[bsr]\.[\w-]{8,}+|s\.[A-Za-z0-9]{24}(?![\w.])"  # HashiCorp Vault
    rb"|(?:sk|rk|pk)_(?:live|test)_\w{8,}+|whsec_\w{8,}+"  # Stripe
    rb"|sk-(?=[\w-]{0,64}[0-9])[\w-]{8,}+"  # OpenAI, Anthropic
    rb"|SG\.[\w-]{8,}+\.[\w-]{8,}+|key-[0-9a-f]{32}|SK[0-9a-f]{32}"  # SendGrid, Mailgun, Twilio
    rb"|shp(?:at|ca|pa|ss)_\w{8,}+|do[opr]_v1_\w{8,}+|gls[a-z]_\w{8,}+|lin_api_\w{8,}+|ATATT3[\w=-]{8,}+"
    rb"|AGE-SECRET-KEY-1\w{8,}+"
    rb"|(?:bot)?[0-9]{8,10}:[\w-]{35}(?![\w-])"  # Telegram
    rb"|(?i:bearer|basic)[ \t]{1,4}(?=[\w.~+/=-]{0,64}[0-9])[\w.~+/=-]{6,}+"
    rb")"
    rb"|\$(?:2[abxy]?|apr1|argon2[a-z]*|y|gy|[156])\$[^\s\"',;]{8,}+"  # hashes of passwords
    rb"|(?<=hooks\.slack\.com/)[\w/-]++|(?<=/api/webhooks/)[\w/-]++|(?<=webhook\.office\.com/)[^\s\"']++"
    rb"|(?<=-----)BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY[A-Z ]{0,10}+-----(?:[^-]++|-(?!----)){0,8192}"
)
# https://outlook.office.com/webhook/..., .../hooks/... of Mattermost, Zapier and others
_HOOK = re.compile(
    rb"((?:://[\w.:-]{1,160}+(?:/(?!(?:web)?hooks?\w{0,2}/)[\w.-]{1,64}+){0,6}/(?:web)?hooks?\w{0,2}/)"
    rb"|\b(?:api\.telegram\.org/bot|maker\.ifttt\.com/|pagerduty\.com/integration/))(?=[^\s\"'<>?]{0,128}?[0-9A-Z])([^\s\"'<>?]{6,}+)"
)
# DBI->connect(dsn, "user", "password"), ftp.login("user", "password"); the user's name ends the first part
_ARGUMENT = rb"(?:\\{0,4}\"[^\"\n]{0,256}+\"|'[^'\n]{0,256}+'|[^,\"'()\s\\]{1,128}+)[ \t]{0,4},[ \t]{0,4}"
_CALLED = re.compile(
    rb"((?:\b(?:connect(?:_cached)?|getConnection|PDO|FTP|mysqli(?:_connect)?|mysqli?_p?connect|ldap_bind|ftp_login)"
    rb"[ \t]{0,2}\((?:%b){2}|\.(?:login|authenticate|simple_bind_s)\(%b)\\{0,4})([\"'])"
    rb"(?s:(?:[^\"'\\]++|(?!\2).){1,8192})" % (_ARGUMENT, _ARGUMENT)
)
_BASIC = re.compile(rb"(?i)\b(basic[ \t]{1,4})([\w+/-]{6,}+={0,2})")
# ALTER USER u PASSWORD '...', IDENTIFIED BY "..."
_SQL = re.compile(
    rb"(?i)\b(password(?:[ \t]{1,4}for[ \t]{1,4}[^\s=]{1,64}+[ \t]{0,4}=[ \t]{0,4}(?:password\()?|[ \t]{1,4})"
    rb"|identified[ \t]{1,4}(?:with[ \t]{1,4}[\w']{1,32}+[ \t]{1,4})?by[ \t]{1,4})(\\{0,4}['\"])"
    rb"(?s:(?:[^\"'\\]++|(?!\2).){1,8192})"
)
# The lines of a netrc file and the like; qemu -object secret,id=a,data=...; user/password@ of Oracle
_LABELLED = re.compile(
    rb"(\blogin[ \t\n]{1,4}\S{1,64}+[ \t\n]{1,4}password[ \t\n]{1,4}"
    rb"|\n[ \t]{0,8}(?:password|passphrase|secret|token)[ \t]{1,8}(?![=:])"
    rb"|\bsecret,(?:[\w-]{1,32}=[^,\s]{0,64},){0,4}data=|\boracle:(?://|[a-z0-9]{1,8}:)[^/@:\s]{1,64}/)(\S++)"
)
# echo user:password | chpasswd
_PIPED = re.compile(
    rb"\b((?:echo|printf)[ \t]{1,4})[^|\n]{1,256}+"
    rb"(?=\|[^|\n]{0,128}?(?:passwd|--?\S{0,32}stdin|sudo -S|kinit|cryptsetup|gpg|openssl))"
)
# user:password@tcp(host)/db, DOMAIN/user:password@host; not image:tag@sha256:..., npm:name@1.2.3, mailto:a@b
_ACCOUNT = re.compile(
    rb"(?:(?<![\w.%:/@\\+-])|(?<=(?<![:\w])//))(?!(?:mailto|sips?|xmpp|npm|acct|im|file|link|workspace|patch|unix):)"
    rb"([\w.%\\+-]{1,64}+(?:/[\w.%\\+-]{1,64}+)?:)([^\s:/@\"']{1,256}+)(?=@(?!sha[0-9]|[0-9]+\.[0-9]+(?:\.[0-9]+)?(?![\w.]))[\w(\[])"
)
_URL = re.compile(rb"(?<![A-Za-z0-9+.-])([A-Za-z][A-Za-z0-9+.-]{0,30}+)://((?:[^\s\"'<>`:]++|:(?!//)){1,8192})")
_HOST = rb"(?:\[[^\]]*+\]|[^:,\[]*+)(?::(?:[$%{*][\w(){}$]*+|[0-9]{0,5}+))?"
_HOSTS = re.compile(rb"%b(?:,%b){0,8192}\Z" % (_HOST, _HOST))
_AUTHORITY = re.compile(rb"[^/?#]*+")
# A user without a password is only that in these; elsewhere (https://TOKEN@host) it is the secret.
_WITH_USERS = frozenset(
    b"amqp amqps ftp git git+ssh imap imaps ldap ldaps mongodb mongodb+srv mysql nfs postgres postgresql qemu+ssh rdp "
    b"rsync scp sftp smb smtp smtps ssh ssh+git svn svn+ssh telnet vnc".split()
)
_STAND_INS = frozenset({b"", b"x", b"X", b"x-oauth-basic"})  # https://TOKEN:x-oauth-basic@github.com


def hide_forms(text: bytes) -> bytes:
    """Return *text* with `MASK` in place of what has the form of a secret."""
    if b":" in text:
        text = _urls(text)
        if b"@" in text:
            text = _ACCOUNT.sub(_account, text)
    text = _LABELLED.sub(rb"\1" + MASK, _TOKENS.sub(_token, text))
    if b"hook" in text or b".org/bot" in text or b".ifttt." in text or b"pagerduty" in text:
        text = _HOOK.sub(rb"\1" + MASK, text)
    if b"(" in text:
        text = _CALLED.sub(rb"\1\2" + MASK, text)
    if b"|" in text:
        text = _PIPED.sub(rb"\1" + MASK + b" ", text)
    return _SQL.sub(rb"\1\2" + MASK, _BASIC.sub(_basic, text))


def _token(found: re.Match[bytes]) -> bytes:
    return found[0][: found[0].index(b"-----")] + b"-----" + MASK if found[0].startswith(b"BEGIN ") else MASK


def _basic(found: re.Match[bytes]) -> bytes:
    """Hide ``Basic`` credentials, which are ``user:password`` in base64; "basic training" stays."""
    try:
        told = base64.b64decode(found[2] + b"==", altchars=b"-_")
    except Error:
        return found[0]
    return found[1] + MASK if b":" in told else found[0]


def _account(found: re.Match[bytes]) -> bytes:
    return found[1] + MASK


def _urls(text: bytes) -> bytes:
    shown: list[bytes] = []
    done = at = 0
    while (found := _URL.search(text, at)) is not None:
        length = _user_info_length(found[2])
        at = found.start(2) + max(length, 1)
        if length:
            shown += text[done : found.start(2)], _user_info(found[1].lower(), found[2][:length])
            done = at
    return b"".join((*shown, text[done:])) if shown else text


def _user_info_length(rest: bytes) -> int:
    """Return how long ``user:password`` is before ``@``; also if it holds ``@`` or ``/``, or its end was cut off."""
    authority = _AUTHORITY.match(rest)[0]  # type: ignore[index]
    at = authority.rfind(b"@")
    if at >= 0 or _HOSTS.match(authority) is not None:
        return max(at, 0)
    at = rest.rfind(b"@")
    return at if at > 0 else len(authority)


def _user_info(scheme: bytes, told: bytes) -> bytes:
    """Return ``user:password`` without its secret, which is the user where no password is asked for."""
    user, colon, password = told.partition(b":")
    token = password in _STAND_INS if colon else scheme not in _WITH_USERS
    if token and user not in {b"", b"git"}:
        return MASK + colon + password
    return user + colon + (MASK if password else b"")
