"""
Build the deb and the rpm into dist/. `make packages` runs it, in an environment of its own with pinned tools.

    python packaging/build.py [RELEASE]

RELEASE counts the packages of one version, from 1. The same commit and release give the same bytes.
"""

from __future__ import annotations

import gzip
import os
import re
import shutil
import subprocess
import sys
import time
from email.parser import HeaderParser
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
BUILD = ROOT / "build" / "packages"
STAGE = BUILD / "root"
"""What becomes / of the machine, except for zsh/, whose place the two formats disagree on."""

TREE = STAGE / "opt/collector"
SITE = TREE / "lib/python3.11/site-packages"
DOCUMENTATION = "usr/share/doc/crash-collector"
DOC = STAGE / DOCUMENTATION
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
SHELLS = {
    "bash": "usr/share/bash-completion/completions/collector",
    "zsh": "zsh/_collector",
    "fish": "usr/share/fish/vendor_completions.d/collector.fish",
}
FILES = {
    "config/collector.yaml": "etc/collector",
    "config/collector.schema.json": "etc/collector",
    "systemd/*.service": "usr/lib/systemd/system",
    "systemd/*.path": "usr/lib/systemd/system",
    "systemd/tmpfiles.d/collector.conf": "usr/lib/tmpfiles.d",
    "systemd/collector.catalog": "usr/lib/systemd/catalog",
    "systemd/examples/*": "opt/collector/examples",
    "docs/alerts.yml": "opt/collector/examples",
    "README.md": DOCUMENTATION,
    "docs/*.md": f"{DOCUMENTATION}/docs",
    "docs/report.png": f"{DOCUMENTATION}/docs",
    "docs/collectors/*.md": f"{DOCUMENTATION}/docs/collectors",
    "docs/triggers/*.md": f"{DOCUMENTATION}/docs/triggers",
    "docs/decisions/*.md": f"{DOCUMENTATION}/docs/decisions",
}


def main() -> int:
    """Build both packages, and print their names."""
    if sys.version_info[:2] != (3, 11) or os.uname().machine != "x86_64":
        print(
            "the packages are for Python 3.11 on x86-64, and built there: make packages PYTHON311=/path/to/python3.11"
        )
        return 1
    os.umask(0o022)  # whatever the builder's is
    shutil.rmtree(BUILD, ignore_errors=True)
    install_python()
    for pattern, directory in FILES.items():
        for source in sorted(ROOT.glob(pattern)):
            copy(source, STAGE / directory / source.name)
    date = commit_date()
    write_documentation(date)
    write_completion()
    settle(date)
    (ROOT / "dist").mkdir(exist_ok=True)
    for packager in ("deb", "rpm"):
        package(packager, date)
    return 0


def install_python() -> None:
    """Make a virtual environment on /usr/bin/python3.11 with the program and what it imports."""
    to_tree = ["install", "--no-compile", "--no-warn-script-location", "--ignore-installed", "--no-deps"]
    to_tree.append(f"--prefix={TREE}")
    pinned = ["--no-build-isolation", "--require-hashes", "-r", str(HERE / "requirements.txt")]
    run(*PIP, *to_tree, *pinned)
    # First a wheel, then by its name: what is installed from a directory records that directory.
    wheels = BUILD / "wheels"
    run(*PIP, "wheel", "--no-deps", "--no-build-isolation", f"--wheel-dir={wheels}", str(ROOT))
    run(*PIP, *to_tree, "--no-index", f"--find-links={wheels}", "crash-collector")
    (TREE / "bin/python3").symlink_to("/usr/bin/python3.11")
    (TREE / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n", encoding="utf-8")
    # Never compared with the sources, which saves a stat(2) for each module, and never written by a running program.
    compileall = [sys.executable, "-m", "compileall", "-q", "--invalidation-mode=unchecked-hash"]
    run(*compileall, "-s", str(STAGE), "-p", "/", str(SITE))


def write_documentation(date: int) -> None:
    """Write the man pages, the changes, and what is bundled under which licence."""
    pages = BUILD / "man"
    with_tree = os.environ | {"PYTHONPATH": str(SITE), "PYTHONDONTWRITEBYTECODE": "1"}
    day = time.strftime("%Y-%m-%d", time.gmtime(date))
    run(sys.executable, str(HERE / "man.py"), str(pages), day, env=with_tree)
    for page in sorted(pages.iterdir()):
        compress(page, STAGE / f"usr/share/man/man{page.suffix[1:]}/{page.name}.gz")
    compress(ROOT / "CHANGELOG.md", DOC / "NEWS.gz")
    bundled = "".join(f"{line}\n" for line in sorted(map(licence_line, SITE.glob("*.dist-info/METADATA"))) if line)
    text = (
        f"/opt/collector holds the program and these, each with its licence in its .dist-info directory:\n\n{bundled}"
    )
    (DOC / "copyright").write_text(text, encoding="utf-8")


def licence_line(metadata: Path) -> str:
    """Return name, version and licence of a bundled distribution; nothing for the program itself."""
    fields = HeaderParser().parsestr(metadata.read_text(encoding="utf-8"))
    classifiers = [
        one.rpartition(" :: ")[2] for one in fields.get_all("Classifier", []) if one.startswith("License ::")
    ]
    licence = fields["License-Expression"] or ", ".join(classifiers) or fields["License"]
    return "" if fields["Name"] == "crash-collector" else f"{fields['Name']} {fields['Version']}: {licence}"


def write_completion() -> None:
    """Write what click makes for each shell."""
    for shell, path in SHELLS.items():
        asking = {"_COLLECTOR_COMPLETE": f"{shell}_source", "PYTHONPATH": str(SITE), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "-m", "collector.cli.main"]
        made = subprocess.run(command, env=os.environ | asking, check=True, stdout=subprocess.PIPE).stdout
        target = STAGE / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(made)


def commit_date() -> int:
    """Return the date that all files get, in seconds: SOURCE_DATE_EPOCH, else the commit's, else now."""
    if given := os.environ.get("SOURCE_DATE_EPOCH"):
        return int(given)
    command = ["git", "-C", str(ROOT), "log", "-1", "--format=%ct"]
    try:
        return int(subprocess.run(command, check=True, capture_output=True).stdout)
    except (OSError, subprocess.CalledProcessError):
        return int(time.time())


def settle(date: int) -> None:
    """Give all files one date, and modes that do not depend on the builder's umask or checkout."""
    for path in [STAGE, *STAGE.rglob("*")]:
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
        os.utime(path, (date, date), follow_symlinks=False)


def package(packager: str, date: int) -> None:
    """Run nfpm."""
    source = (ROOT / "collector/__init__.py").read_text(encoding="utf-8")
    (version,) = re.findall(r'^__version__ = "(.+)"$', source, re.MULTILINE)
    given = {
        "VERSION": version,
        "RELEASE": sys.argv[1] if len(sys.argv) > 1 else "1",
        "MAINTAINER": os.environ.get("MAINTAINER", "collector <root@localhost>"),
        "SOURCE_DATE_EPOCH": str(date),
    }
    nfpm = [str(Path(sys.executable).parent / "nfpm"), "package", "--config", str(HERE / "nfpm.yaml")]
    run(*nfpm, "--packager", packager, "--target", str(ROOT / "dist"), cwd=ROOT, env=os.environ | given)


def copy(source: Path, target: Path) -> None:
    """Copy a file, and make the directory."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def compress(source: Path, target: Path) -> None:
    """Compress a file, without its name and date."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(gzip.compress(source.read_bytes(), mtime=0))


def run(*command: str, **how: object) -> None:
    """Run a command that must succeed."""
    subprocess.run(command, check=True, **how)  # type: ignore[call-overload]


if __name__ == "__main__":
    sys.exit(main())
