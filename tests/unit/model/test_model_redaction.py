from __future__ import annotations

import re
from operator import attrgetter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redaction_rows import SECRET, arguments_of, rows

from collector.model import redaction_forms
from collector.model.redaction import MAX_ENTRY_BYTES, Redaction
from collector.model.redaction_forms import MASK


def environ(data: bytes, size: int = 7, redaction: Redaction | None = None) -> bytes:
    """Redact *data* as it comes in pieces of *size* bytes."""
    pieces = (data[at : at + size] for at in range(0, len(data), size))
    return b"".join((redaction or Redaction()).environ(pieces))


@pytest.mark.parametrize(
    "name",
    ["PASSWORD", "DB_PASS", "db_password", "AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN", "API_KEY", "HTTP_AUTHORIZATION",
     "SESSION_COOKIE", "SENTRY_DSN", "MY_CREDENTIALS", "ConnectionStrings__main", "SSH_PRIVATE"],
)  # fmt: skip
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_environ_hides_the_values_of_secret_names(name: str, size: int) -> None:
    """By name, ignoring case, wherever a piece ends."""
    raw = f"HOME=/root\0{name}=hunter2\0LANG=C\0".encode()
    assert environ(raw, size) == raw.replace(b"hunter2", MASK)


def test_environ_keeps_what_is_not_secret() -> None:
    """An engineer needs the rest; an empty value hides nothing."""
    raw = b"PATH=/bin\0TERM=xterm\0TOKEN=\0no equals sign\0\0"
    assert environ(raw) == raw


def test_environ_hides_values_that_hold_an_equals_sign() -> None:
    """Only the first one ends the name."""
    assert environ(b"TOKEN=a=b=c\0") == b"TOKEN=" + MASK + b"\0"


def test_environ_hides_passwords_in_urls_whatever_the_name() -> None:
    """DATABASE_URL looks harmless."""
    assert environ(b"DATABASE_URL=postgres://app:hunter2@db/main?x=1\0") == (
        b"DATABASE_URL=postgres://app:" + MASK + b"@db/main?x=1\0"
    )
    assert environ(b"URL=redis://:hunter2@cache\0") == b"URL=redis://:" + MASK + b"@cache\0"


def test_environ_hides_a_string_longer_than_execve_takes() -> None:
    """A process can write anything there; what is too long to be checked is hidden, and takes no memory."""
    raw = b"A=1\0" + b"x" * (3 * MAX_ENTRY_BYTES) + b"TOKEN=hunter2\0B=2\0"
    assert environ(raw, 65_536) == b"A=1\0" + MASK + b"\0B=2\0"


def test_environ_that_was_cut_off_shows_no_secret() -> None:
    """The last entry has no end."""
    assert environ(b"A=1\0TOKEN=hunt") == b"A=1\0TOKEN=" + MASK + b"\0"


@given(st.binary(max_size=300), st.integers(1, 50))
def test_environ_does_not_depend_on_the_pieces(data: bytes, size: int) -> None:
    """The result is the same wherever the reads end."""
    assert environ(data, size) == environ(data, 1000)


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ("app --password=hunter2 -v", "app --password=@ -v"),
        ("app --password hunter2 -v", "app --password @ -v"),
        ("app -Ddb.password=hunter2", "app -Ddb.password=@"),
        ("env API_KEY=hunter2 app", "env API_KEY=@ app"),
        ("app --no-auth --verbose", "app --no-auth --verbose"),
        ("app --token -secretive", "app --token @"),
        ("app --password --password=hunter2", "app --password --password=@"),
        ("app postgres://a:hunter2@h/db", "app postgres://a:@@h/db"),
        ("app password", "app password"),
        ("tar -czf key.tar passwords/", "tar -czf key.tar passwords/"),
    ],
)
def test_arguments_hide_secret_options(arguments: str, shown: str) -> None:
    """Both ways to pass a value to an option; plain words are kept."""
    words = arguments.encode().split(b" ")
    assert b" ".join(Redaction().arguments(words)).replace(MASK, b"@") == shown.encode()


@pytest.mark.parametrize("argument", [b'token,"a"', b'"token"', b"token", b"a/b/token:x", b"token:/etc/x"])
def test_arguments_keep_what_is_only_named_like_a_secret(argument: bytes) -> None:
    assert list(Redaction().arguments([b"app", argument, b"x"])) == [b"app", argument, b"x"]


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ([b"mysql x", b"-pa"], [b"mysql x", b"-p@"]),  # a title, and what is left of the arguments
        ([b"app", b"--token:a", b"b"], [b"app", b"--token:@", b"b"]),
        ([b"app", b"a:", b"b"], [b"app", b"a:", b"b"]),
        ([b"app", b"token:", b"b"], [b"app", b"token:", b"@"]),
        ([b"app", b"show-token:", b"b"], [b"app", b"show-token:", b"b"]),
        ([b"app", b"--password", b"'a", b"b"], [b"app", b"--password", b"@", b"b"]),
        ([b"vault", b"login", b"-", b"a"], [b"vault", b"login", b"-", b"@"]),
    ],
)
def test_arguments_hide_only_what_a_secret_was_awaited_for(arguments: list[bytes], shown: list[bytes]) -> None:
    assert [argument.replace(MASK, b"@") for argument in Redaction().arguments(arguments)] == shown


def test_arguments_hide_a_header() -> None:
    """curl takes secrets as headers."""
    words = [b"curl", b"-H", b"Authorization: Bearer hunter2", b"https://host"]
    assert list(Redaction().arguments(words)) == [b"curl", b"-H", b"Authorization: " + MASK, b"https://host"]


@pytest.mark.parametrize(
    "line",
    [
        b"app: worker --password=hunter2 db",  # setproctitle joins everything with blanks
        b"sh -c\0TOKEN=hunter2 app --verbose",
        b"sh\0-c\0curl -H 'Authorization: Bearer hunter2' https://host",
        b"sh\0-c\0app --password hunter2; true",
        b"psql\0host=db password=hunter2",
    ],
)
def test_command_line_hides_secrets_within_one_argument(line: bytes) -> None:
    """A shell's script and a rewritten title are one argument of many words."""
    assert b"hunter2" not in b"".join(Redaction().command_line([line + b"\0"]))


def test_command_line_keeps_words_around_a_secret() -> None:
    """Only the value is hidden."""
    shown = b"".join(Redaction().command_line([b"sh\0-c\0cat keys.txt; TOKEN=hunter2 app -v\0"]))
    assert shown == b"sh\0-c\0cat keys.txt; TOKEN=" + MASK + b" app -v\0"


def test_redaction_that_is_off_changes_nothing() -> None:
    """The operator decides."""
    off = Redaction(enabled=False)
    assert environ(b"TOKEN=hunter2\0", 5, off) == b"TOKEN=hunter2\0"
    assert list(off.arguments([b"--token", b"x"])) == [b"--token", b"x"]
    assert list(off.command_line([b"--token\0x\0"])) == [b"--token\0x\0"]


def test_redaction_takes_other_keys() -> None:
    """The list is the operator's."""
    own = Redaction(keys=("licen?e",))
    assert environ(b"LICENSE=1\0TOKEN=2\0", 5, own) == b"LICENSE=" + MASK + b"\0TOKEN=2\0"
    assert environ(b"TOKEN=2\0", 5, Redaction(keys=())) == b"TOKEN=2\0"


@pytest.mark.parametrize(("entry", "shown"), rows("environment"))
def test_environ_hides_every_known_kind_of_secret(entry: bytes, shown: bytes) -> None:
    """By its name, by its form, and wherever it stands in the value; nothing else of the entry is lost."""
    assert environ(entry + b"\0") == shown.replace(b"@@", MASK) + b"\0"


@pytest.mark.parametrize(("line", "shown"), rows("arguments") + rows("argument"))
def test_arguments_hide_every_known_kind_of_secret(line: bytes, shown: bytes) -> None:
    """By the option's name, by its form, and by what the program's options mean; nothing else is lost."""
    hidden = Redaction().arguments(arguments_of(line))
    assert b" ".join(b"<%b>" % argument for argument in hidden) == shown.replace(b"@@", MASK)


@pytest.mark.parametrize("line", [line for line, _ in rows("arguments")])
def test_text_hides_every_known_kind_of_secret(line: bytes) -> None:
    """A core's notes, and a process's title, have the arguments joined by blanks."""
    shown = Redaction().text(b" ".join(arguments_of(line)))
    assert SECRET[:2] not in shown
    assert SECRET[2:] not in shown


@pytest.mark.parametrize("line", [line for line, _ in rows("arguments")])
def test_text_that_was_cut_off_shows_no_part_of_a_secret(line: bytes) -> None:
    """A core's notes end after 80 bytes, so what follows a secret may be missing."""
    text = b" ".join(arguments_of(line))
    cut = text[: text.index(SECRET[:2]) + len(SECRET)]
    assert SECRET[:2] not in Redaction().text(cut, is_cut=True)


@pytest.mark.parametrize("entry", [entry for (entry,) in rows("innocent environment")])
def test_environ_keeps_innocent_entries(entry: bytes) -> None:
    """What an engineer looks for, though a part of its name means a secret elsewhere."""
    assert environ(entry + b"\0") == entry + b"\0"


@pytest.mark.parametrize("line", [line for (line,) in rows("innocent arguments")])
def test_arguments_keep_innocent_command_lines(line: bytes) -> None:
    """The same letters are harmless with another program."""
    arguments = line[1:-1].split(b"> <")
    assert list(Redaction().arguments(arguments)) == arguments


def test_redaction_with_own_words_knows_them_within_names() -> None:
    """A word stands for every way to write it, a glob for whole names; forms and programs count whatever the keys."""
    own = Redaction(keys=("badge", "x*y"))
    raw = [b"BADGE=1", b"myBadge=1", b"BADGES=1", b"xAy=1", b"xAyz=1", b"XAY=/etc/passwd", b"BADGE=/etc/passwd"]
    shown = own.environ(entry + b"\0" for entry in raw)
    assert [entry.endswith(MASK + b"\0") for entry in shown] == [True, True, False, True, False, True, False]
    assert own.text(b"mysql -phunter2 --password x") == b"mysql -p" + MASK + b" --password x"
    assert own.text(b"app --badge hunter2") == b"app --badge " + MASK


def test_redaction_with_own_globs_knows_names_of_digits() -> None:
    own = Redaction(keys=("12*",))
    assert list(own.arguments([b"app", b"--123", b"hunter2", b"--password", b"x"])) == [
        b"app", b"--123", MASK, b"--password", b"x",
    ]  # fmt: skip


def test_environ_shows_an_entry_as_long_as_execve_takes() -> None:
    """One byte more, and it is hidden; also where it has no end."""
    longest = b"A=" + b"x" * (MAX_ENTRY_BYTES - 2)
    assert environ(longest + b"\0B=2\0", MAX_ENTRY_BYTES) == longest + b"\0B=2\0"
    assert environ(longest + b"x", MAX_ENTRY_BYTES + 1) == MASK + b"\0"


def test_environ_judges_a_long_name_by_its_end() -> None:
    assert environ(b"a_" * 5000 + b"TOKEN=hunter2\0", 65_536) == b"a_" * 5000 + b"TOKEN=" + MASK + b"\0"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("app --password 'a b c", "app --password @ @ @"),  # its end was cut off
        ("app --password 'a b' c", "app --password @ c"),
        ("app --password ' b' c", "app --password @ c"),
        ("app --password ' b c", "app --password '@"),
        ("x ' mysql -pa", "x ' mysql -p@"),
        ('x "mysql -pa" -pb', 'x "mysql -p@" -pb'),
        ("mysql -pa; zip -pa -P b", "mysql -p@ zip -pa -P @"),
        ("app --password --port 1", "app --password --port 1"),
        ("app --password - x", "app --password @ x"),
        ("key: /etc/a.pem token: a b", "key: @"),
        ("token: a 'b'", "token: @'b'"),
        ("a/token:x b@token:x token:x", "a/token:x b@token:x token:@"),
        ("/token:x @token:x", "/token:@ @token:@"),
        ("a/token=x b@token=x", "a/token=@ b@token=@"),
        ("token:8080 token:8080/x token:808080 token:80x", "token:8080 token:8080/x token:@ token:@"),
        ("token://h/x", "token://h/x"),
        ("token=a;b token=a;b=c token=a;", "token=@ token=@;b=c token=@;"),
        ("token=a,b token=a,b=c token=a&b token=a&b=c", "token=@ token=@,b=c token=@ token=@&b=c"),
        ("a?sig=x a?x=1&sig=y a#sig=z sig=a", "a?sig=@ a?x=1&sig=@ a#sig=@ sig=a"),
        (r'{\"token\": \"a\", \"b\": 1}', r'{\"token\": \"@\", \"b\": 1}'),
        (r'{\"token\": \"a', r'{\"token\": \"@'),
        (r'"token": "a\"b" c', r'"token": "@" c'),
        (r"'token': 'a\'b' c", r"'token': '@' c"),
        ("token=`a b` c", "token=`@` c"),
        ('"tokens": [1, 2] "c"', '"tokens": @ "c"'),
        ('"tokens": {"a": {"b": 1}} "c"', '"tokens": @ "c"'),
        ("token=[redacted] b", "token=[redacted] b"),
        ("'token=a b' c", "'token=@' c"),
        ("x=1;token=a b;c", "x=1;token=@;c"),
        ("token=a b;c=1", "token=@;c=1"),
        ("token == a", "token == @"),
        ("token := a", "token := @"),
        ("token= a", "token= @"),
        ("TOKEN_URL=https://h/?token=a", "TOKEN_URL=https://h/?token=@"),
        ("<token>a</token> <b>c</b> <token>", "<token>@</token> <b>c</b> <token>"),
        ("basic training Basic ZGRkOmFh basic YWJjZGVm x", "basic training Basic @ basic YWJjZGVm x"),
        ("http://u:p@h:80/a@b http://h:80/a@b", "http://u:@@h:80/a@b http://h:80/a@b"),
        ("https://u@h/ ssh://u@h/ https://git@h/", "https://@@h/ ssh://u@h/ https://git@h/"),
        ("https://u:@h/ ssh://:p@h https://u:x@h", "https://@:@h/ ssh://:@@h https://@:x@h"),
        ("http://h:p http://h:80 http://$H:$P/ http://[::1]:80/", "http://h:@ http://h:80 http://$H:$P/ http://[::1]:80/"),
        ("https://git@h/ https://git:x@h/ https://:@h/", "https://git@h/ https://git:@@h/ https://:@h/"),
        ("http://h:80,i:81/ http://h:80,i:p", "http://h:80,i:81/ http://h:@"),
        ("u:p@h u:p@sha256:0 u:p@1.2.3 u:p@1.2", "u:@@h u:p@sha256:0 u:p@1.2.3 u:p@1.2"),
        ("u:p@1.2.3.4 mailto:p@h d/u:p@h", "u:@@1.2.3.4 mailto:p@h d/u:@@h"),
        ("Pwd=a b;Initial Catalog=c token=a;b token=c", "Pwd=@;Initial Catalog=c token=@ token=@"),
        ("x='token=a' y", "x='token=@' y"),
        ("'token' => 'a', 'b' => 'c'", "'token' => '@', 'b' => 'c'"),
        ("token:basic abc 'x'", "token:@'x'"),
        ("basic dTpw Basic dTp abcdef1 basic abcde1 basic abcde", "basic dTpw Basic dTp abcdef1 @ basic abcde"),
        ("a?sig=&x=1", "a?sig=&x=1"),
        ('TOKEN,"a" token,"a" "token","a"', 'TOKEN,"a" token,"a" "token","a"'),
        ('["app","--password","a"]', '["app","--password","@"]'),
        ('"TOKEN","a"', '"TOKEN","@"'),
        ('"token"("a") token ("a") key("a")', '"token"("a") token (@) key("a")'),
        ('"pin":1234,"b":2', '"pin":@"b":2'),
        ("token=8080 pin: 8080", "token=@ pin: @"),
        ('"token"=a b"', '"token"=@ b"'),
        ("'token:a b' c", "'token:@' c"),
        ('"pin": 1, "b": 2}', '"pin": @"b": 2}'),
        ("token = a b", "token = @ b"),
        ("*.key=1;2 .key=1;2", "*.key=1;2 .key=@"),
        ("oracle://u/p oracle:thin:u/p@h", "oracle://u/@ oracle:thin:u/@"),
        ("a\npassword b\npassword = c", "a\npassword @\npassword = @"),
        ("//u:p@h ://u:p@h", "//u:@@h ://u:p@h"),
        ("echo a | passwd --stdin b; echo c | cat", "echo @ | passwd --stdin b; echo c | cat"),
        ("env X=/usr/bin/mysql app -pa", "env X=/usr/bin/mysql app -pa"),
        ("zip -P ' b c", "zip -P @ @ @"),
        ("basic abcdefghi http://@h:x/", "basic abcdefghi http://@h:x/"),
        ("token:abc def", "token:@ def"),
        ("cookie:a=b; c=d", "cookie:@"),
        ("token=[a b] c", "token=@ b] c"),
        ("KeyError: 'price' a.InvalidKeyException: b", "KeyError: 'price' a.InvalidKeyException: b"),
        ("PasswordError: a", "PasswordError: @"),
    ],
)  # fmt: skip
def test_text_hides_exactly_the_value(text: str, shown: str) -> None:
    """Where a value begins and ends, in every way to write it."""
    assert Redaction().text(text.encode()).replace(MASK, b"@").decode() == shown.replace(MASK.decode(), "@")


@pytest.mark.parametrize("text", [b"'" * 50_000, b'"' * 50_000, b"\\" * 50_000, b"a://" * 20_000, b"(" * 50_000])
def test_text_of_nothing_but_signs_is_kept(text: bytes) -> None:
    """Neither recursion nor time grows with it."""
    assert Redaction().text(text) == text
    assert Redaction().text(b"a " + text) == b"a " + text


@pytest.mark.parametrize(
    "module", sorted(Path(redaction_forms.__file__).parent.glob("redaction*.py")), ids=attrgetter("stem")
)
def test_pattern_has_no_possessive_group(module: Path) -> None:
    """Python before 3.11.5 matches with one what does not match, and showed secrets."""
    assert re.findall(r"(?<!\\)\)(?:[*+?]|\{[0-9,]+\})\+", module.read_text(encoding="utf-8")) == []


def test_text_is_kept_when_redaction_is_off() -> None:
    assert Redaction(enabled=False).text(b"app --password x") == b"app --password x"


@given(
    st.lists(
        st.sampled_from([b"key", b"=", b":", b" ", b"'", b'"', b"\\", b"@", b"://", b"a", b"-p", b"&", b";", b"\n"])
    )
)
def test_redaction_of_what_is_redacted_changes_nothing(pieces: list[bytes]) -> None:
    """Masks are not taken for secrets, whatever stands around them."""
    once = Redaction().text(b"".join(pieces))
    assert once.replace(MASK, b"") == Redaction().text(once).replace(MASK, b"")
