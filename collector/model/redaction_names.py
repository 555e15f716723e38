"""
Which names promise a secret: of environment variables, options, keys in JSON and headers.

A name is taken apart into words, whatever joins them (``DB_PASS``, ``db-pass``, ``dbPass``, ``db.pass``), so that
``PASSENGER_COUNT`` and ``KEYBOARD`` stay readable. So does a value that by its form is not a secret: a path, ``true``.
"""

from __future__ import annotations

import re
import unicodedata
from enum import Enum, auto
from functools import lru_cache


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


DEFAULT_KEYS = (
    "pass", "passwd", "password", "passwords", "passphrase", "passcode", "passkey", "pwd", "pswd", "psw", "pw",
    "secret", "secrets", "token", "tokens", "key", "keys", "apikey", "psk", "pin", "pat", "otp", "totp", "mfa",
    "credential", "credentials", "cred", "creds", "auth", "authorization", "authentication", "oauth", "bearer",
    "cookie", "cookies", "sessid", "jwt", "hmac", "signature", "sas", "salt", "pepper", "seed", "private", "unseal",
    "pem", "pfx", "cert", "keytab", "netrc", "pgpass", "htpasswd", "license", "licence", "webhook", "dsn",
    "connectionstring", "connectionstrings", "connstr", "community", "kubeconfig", "keystore", "truststore", "csrf",
    "xsrf", "sessionid", "cvv", "cvc", "ssn", "phrase", "mnemonic", "plaintext", "unlock", "authinfo", "preshared",
    "recoverycode", "backupcode", "activationcode", "accesscode", "passwrd", "pword", "sonarlogin", "accesskey",
    "bwsession", "opsession", "stripesk", "userpin", "sopin", "keyfilecontent",
    # The same in Spanish, Catalan, Portuguese, French, Italian, German, Dutch, Danish, Norwegian, Swedish, Icelandic,
    # Finnish, Estonian, Lithuanian, Polish, Czech, Croatian, Hungarian, Turkish, Basque, Greek, Indonesian, Vietnamese,
    # Russian, Chinese, Japanese and Korean; accents are ignored.
    "contrasena", "clave", "secreto", "senha", "segredo", "chave", "mdp", "passwort", "kennwort",
    "geheim", "geheimnis", "schluessel", "schlussel", "wachtwoord", "adgangskode", "passord", "losenord", "salasana",
    "contrasenya", "contrasenia", "llave", "passe", "jeton", "chiave", "segreto", "geheimwort",
    "zugangsdaten", "kodeord", "lykilord", "klucz", "lozinka", "zaporka", "parool", "slaptazodis", "matkhau",
    "pasahitza", "kodikos",
    "haslo", "heslo", "jelszo", "sifre", "parola", "katasandi", "parol",
    "пароль", "密码", "密碼", "パスワード", "비밀번호",
)  # fmt: skip
# Also where they end a longer word (PGPASSWORD, SSHPASS, AUTHTOKEN), or, for the long ones, stand anywhere in it.
_ENDINGS = (
    "pass", "pwd", "pw", "key", "keys", "token", "secret", "auth", "creds", "cookie", "sessid", "sessionid", "jwt",
    "psk", "dsn",
)  # fmt: skip
_ANYWHERE = (
    "password", "passwd", "passphrase", "credential", "apikey", "accesskey", "contrasena", "passwort", "kennwort",
    "wachtwoord", "passord", "losenord", "salasana", "jelszo", "senha", "haslo", "heslo",
)  # fmt: skip
_LONG = ("password", "passphrase", "credentials")  # which many programs know by their first letters: --passw
_MIN_ABBREVIATED = 5
_INNOCENT = _set(
    "askpass bypass genkey compass encompass multipass overpass surpass trespass underpass donkey hockey hotkey "
    "hotkeys jockey lesskey mickey monkey monkeys pubkey publickey turkey whiskey"
)
# These are secrets only as a name's last word: LICENSE_SERVER, CERT_NAME and SALT_MASTER say where or what it is.
_LAST_ONLY = _set("cert community licence license pat pin salt sas seed signature")
# Often a number, a file's name or a label.
_WEAK = _set("cert key keys keystore kubeconfig licence license pem pfx private salt seed signature tokens truststore")
# What the last word says of a secret that it is not.
_PLACES = _set(
    "agent askpass bin cmd command dir directory endpoint file filename files folder location path root socket sock "
    "tty uri url"
)
_SECRET_PLACES = frozenset({"dsn", "webhook"})  # the URL itself is the secret
_DIRECTORIES = frozenset({b"PWD", b"OLDPWD"})  # of a shell; Pwd= in a connection string is a password
_MEASURES = _set(
    "age attempts bits bytes count days fd expiration expires expiry hours interval iterations len length lifetime "
    "limit max min minutes rate retries rounds rotation seconds size timeout ttl"
)
_LABELS = _set(
    "alg algorithm algo backend class cipher domain driver encoding encryption format header host hostname issuer kind "
    "method mode mechanism module modules name namespace order plugin policy port prefix prompt protocol provider "
    "realm region repeat samesite scheme scope scopes server service storage style type types user username "
    "version zone"
)
_MESSAGES = _set("error errors exception")  # Python's KeyError: 'price' is what a program died of
_PUBLIC = _set("public pub foreign primary partition sort routing host known")  # ... KEY
_DESKTOP = _set("desktop gnome xdg")  # ... SESSION_ID
# ``--no-password``, ``--list-keys``: what follows is not their value.
_FLAGS = _set(
    "no ask disable enable skip without require required allow list show print generate gen rotate reset verify check "
    "validate recv import export delete refresh send prompt use"
)
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[^\W\d_A-Za-z]+")
_BOOLEAN = re.compile(
    rb"(?:true|false|yes|no|on|off|none|null|nil|auto|always|never|optional|required|enabled?|disabled?|basic)\Z", re.I
)
_MECHANISM = re.compile(
    rb"(?i)(?:anonymous|bearer|cert|cram-md5|digest|external|gssapi|iam|kerberos|krb5|ldap|login|md5|negotiate|ntlm|oauth2?"
    rb"|oidc|pam|password|peer|plain|radius|saml|scram-sha-(?:1|256)|spnego|sso|token|trust)\Z"
)
_REFERENCE = re.compile(rb"(?:id|type|src|source)=")  # docker build --secret id=a,src=/b
_NUMBER = re.compile(rb"[-+]?[0-9][0-9.,:]*(?:[smhdwkMGT]i?B?|ms|min|days?)?\Z")
_TOP = rb"app|bin|boot|data|dev|etc|home|lib|lib64|media|mnt|nix|opt|proc|root|run|sbin|snap|srv|sys|tmp|usr|var"
_EXTENSION = (
    rb"\.(?:pem|key|pub|crt|cer|der|csr|p12|pfx|jks|json|ya?ml|toml|txt|conf|cnf|cfg|ini|env|gpg|asc|lic|dat|keytab"
    rb"|sock)"
)
_PATH = re.compile(rb"~?/(?:(?:%b)/[^\s=;&@]*|[\w./-]+%b)\Z|~/[\w./-]+\Z|\.{1,2}/[\w./-]+\Z" % (_TOP, _EXTENSION))
_FILE = re.compile(rb"[\w./-]+%b\Z" % _EXTENSION)
_PLACE = re.compile(rb"[/~.]|[\w.-]+/|[a-z][a-z0-9+.-]*:|[\w./-]+\.\w+\Z")
# Longer names are judged by their end: a process may write 128 KiB before its "=".
_MAX_NAME_BYTES = 64


class NameKind(Enum):
    """How sure a name's secret is, which decides what its value may be and stay readable."""

    ALWAYS = auto()
    SECRET = auto()
    WEAK = auto()
    PLACE = auto()
    MEASURE = auto()


class SecretNames:
    """
    The names whose values are hidden.

    Args:
        keys: Those with ``*`` or ``?`` are compared with the whole name, ignoring case; others with its words too.
    """

    def __init__(self, keys: tuple[str, ...]) -> None:
        plain = {_folded(key.encode()).lower() for key in keys if not _is_glob(key)}
        self._words = frozenset(plain)
        self._endings = tuple(stem for stem in _ENDINGS if stem in plain)
        self._anywhere = tuple(stem for stem in _ANYWHERE if stem in plain)
        globs = [_regex(key) for key in keys if _is_glob(key)]
        self._globs = re.compile(b"|".join(globs), re.IGNORECASE) if globs else None
        self._remembered = lru_cache(maxsize=4096)(self._kind)

    def hides(self, name: bytes, value: bytes) -> bool:
        """Whether *value* is the secret that *name* promises."""
        kind = self.kind(name)
        if kind is None or not value or kind is NameKind.ALWAYS:
            return kind is NameKind.ALWAYS and bool(value)
        if _BOOLEAN.match(value) or _PATH.match(value) or _REFERENCE.match(value):
            return False
        if name.lower().endswith((b"auth", b"authentication")) and _MECHANISM.match(value):
            return False
        if kind is NameKind.WEAK:
            return not (_NUMBER.match(value) or _FILE.match(value))
        if kind is NameKind.PLACE:
            return not _PLACE.match(value)
        return not (kind is NameKind.MEASURE and _NUMBER.match(value))

    def awaits(self, option: bytes) -> bool:
        """Whether the word after *option* (``--password``) is a secret, unless `hides` knows it by its form."""
        if self.kind(option.lstrip(b"-")) is None:
            return False
        words = _words(option)
        return not words or words[0] not in _FLAGS

    def kind(self, name: bytes) -> NameKind | None:
        """Return what *name* promises; ``None`` for nothing secret."""
        return self._remembered(name[-_MAX_NAME_BYTES:])

    def _kind(self, name: bytes) -> NameKind | None:
        if self._globs is not None and self._globs.fullmatch(name):
            return NameKind.ALWAYS
        words = _words(name)
        found = self._found(words)
        if not found or words[-1] in _LABELS or (words[-1] in _MESSAGES and found <= _WEAK):
            return None
        if words[-1] in _MEASURES or words[0] in _FLAGS:
            return NameKind.MEASURE
        if name in _DIRECTORIES or (words[-1] in _PLACES and not found & _SECRET_PLACES):
            return NameKind.PLACE
        return NameKind.SECRET if found - _WEAK else NameKind.WEAK

    def _found(self, words: list[str]) -> set[str]:
        """Return the keys that are words of a name, or two in a row (``API_KEY``), or end one of its words."""
        found = set()
        for at, word in enumerate(words):
            last = at == len(words) - 1
            for key in (word, "".join(words[at : at + 2])):
                if key in self._words and (last or key not in _LAST_ONLY):
                    found.add(key)
            if word not in _INNOCENT:
                found.update(stem for stem in self._endings if word.endswith(stem))
                found.update(stem for stem in self._anywhere if stem in word)
            if last and len(word) >= _MIN_ABBREVIATED:
                found.update(key for key in _LONG if key in self._words and key.startswith(word))
        if not _PUBLIC.isdisjoint(words):
            found -= {"key", "keys", "cert", "pem"}
        if not _DESKTOP.isdisjoint(words):
            found.discard("sessionid")
        return found


@lru_cache(maxsize=8)
def secret_names(keys: tuple[str, ...]) -> SecretNames:
    """Return the names for *keys*, compiled once."""
    return SecretNames(keys)


def _words(name: bytes) -> list[str]:
    """Return the words of a name in lower case, without its digits: ``dbPassword2`` has ``db`` and ``password``."""
    return [word.lower() for word in _WORD.findall(_folded(name))]


def _folded(name: bytes) -> str:
    """Return *name* without accents."""
    if name.isascii():
        return name.decode("ascii")
    apart = unicodedata.normalize("NFKD", name.decode("utf-8", "replace"))
    return unicodedata.normalize("NFC", "".join(sign for sign in apart if not "\u0300" <= sign <= "\u036f"))


def _is_glob(key: str) -> bool:
    return "*" in key or "?" in key


def _regex(key: str) -> bytes:
    return re.escape(key.encode()).replace(rb"\*", rb"[^=\0]*").replace(rb"\?", rb"[^=\0]")
