"""
Which arguments of well-known programs are secrets, though nothing in their names says so: ``mysql -p…``, ``curl -u``.

`PROGRAMS` is one declarative table; ``--password``, ``-storepass`` and the like need no line in it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache

# Names (a "*" at the end stands for any rest; "docker-login" is docker's argument "login"), then their options:
#   -x      the value is secret, as the rest of the argument (-xVALUE, only for one letter) or as the next one
#   -x*     only as the rest: without it the program asks, and the next argument is something else
#   -x+     only as the next one
#   -x:     only the part of the value behind the first sign is secret; the sign is one of ":", "%", "=" and ","
#   -x/N    after it, all arguments that are not options, from the Nth on; "/N": of the program
#   /x      /x:VALUE
#   @       arguments are user/password@database
#   !       an argument that is the name of a secret stands before it: config set requirepass ...
#   =  :    the part of any argument that is not an option behind "=" or ":" is secret: chpasswd bob:...
#   p=      so is p=... in an argument like h=host,p=...
#   //      what stands right behind //host/share is a password
#   =abc    options of one letter without a value, which may stand before one that has it (curl -sSu bob:...)
PROGRAMS = """
mysql* mariadb* mytop: -p* =vsBNtEfqrnHXCAbiIGLKQRFlxycw
mycli openfortivpn cypher-shell smbmap fence_* check_mysql* poetry-publish openconnect pt-*: -p
pt-*: p=
poetry-config: /3
check_snmp: -C
check_http: -a: -b:
check_nrpe: -a
check_pgsql: -p
check_ldap: -P
glab-login: -t
sqlplus sqlcl sqlldr rman exp imp expdp impdp tnsping: @
isql osql sqlcmd bcp tsql fisql bsqldb defncopy mssql-cli: -P
isql iusql: /3
iwconfig-enc: /1
virsh-secret-set-value: /2
mongo mongosh mongod mongodump mongorestore mongoexport mongoimport mongostat mongotop mongofiles: -p
cqlsh nodetool: -p -pw
redis-cli valkey-cli keydb-cli redis-benchmark valkey-benchmark: -a !
redis-server valkey-server: --requirepass --masterauth
db2-using: /1
beeline ldapvi: -p -w
sshpass: -p
plink pscp psftp putty: -pw
curl: -u: --user: -U: --proxy-user: -b= -E: --cert: --proxy-cert: --pass --tlspassword =sSfLkivgIjJnNGaO#0123456
http https httpie xh: -a: --auth: =vbhdfFI
ldap*: -w =xvncZLMPWeE
ldappasswd: -w -s -a =xvnSAWZI
slappasswd: -s
openssl: -k+ -K+ -passin -passout -pass -hmac
smbclient smbget smbcacls rpcclient net wmic winexe pdbedit samba-tool: -U% --user% =Nk
net-user: /2
snmp*: -c -A -X
htpasswd: -b/2 =cnmBdsp52vDi
zip unzip zipinfo funzip zipcloak: -P =rqjmoevlyun
7z 7za 7zr 7zz rar unrar: -p* -hp*
docker podman nerdctl buildah skopeo crane: --creds: --src-creds: --dest-creds:
ctr: -u: --user:
gh-secret: -b --body
az-keyvault aws-ssm: --value
vault-kv juju-add-secret flyctl-secrets fly-secrets heroku-config:set supabase-secrets doppler-secrets eb-setenv: =
kubectl-secret oc-secret: --from-literal=
cf-set-env: /3
netlify-env:set pulumi-set samba-tool-create: /2
bw op: --session
dotnet-nuget nuget: -k -p
gitlab-runner: -r -t
k3s influx: -t
ngrok-authtoken ngrok-add-authtoken grafana-cli-reset-admin-password: /1
chpasswd: :
etcdctl-user: :
docker-login podman-login nerdctl-login buildah-login skopeo-login helm-login oras-login az-login oc-login: -p
vault-login vault-unseal vault-unwrap rclone-obscure: /1
consul etcdctl: --user: !
wg rclone grafana-cli: !
wpa_passphrase: /2
aws git-config iw iwconfig nmcli npm pnpm pppd wpa_cli yarn: !
pdftk qpdf: !
lftp open: -u,
ncftp ncftpput ncftpget ncftpls twine racadm redfishtool ilorest aescrypt steghide veracrypt truecrypt: -p
mydumper myloader yt-dlp youtube-dl: -p
ssh-keygen: -N -P
ccrypt ccencrypt ccdecrypt: -K
mcrypt: -k
ipa-client-install ipa-server-install ipa-join: -w -p -a
dsconf dsidm vsql irssi: -w
gbak gfix gsec: -pas -pass
sendemail: -xp
secretsdump psexec wmiexec smbexec atexec dcomexec getnpusers getuserspns lookupsid: -hashes -aeskey -aesKey
evil-winrm crackmapexec netexec nxc: -H
ab: -A: -P: -C=
hey: -a:
knife gobuster: -P
wbinfo: -a%
radtest: /2
mkpasswd: /1
mc-set mc-add: /3
bw-login: /2
bw-unlock cargo-login openssl-passwd: /1
cf-login: -p
vercel netlify doctl: -t
x11vnc vncviewer: -passwd -viewpasswd
rabbitmqctl-add_user rabbitmqctl-change_password rabbitmqctl-authenticate_user: /2
rabbitmqadmin hydra medusa evil-winrm crackmapexec netexec nxc: -p
mosquitto_passwd: -b/3
mosquitto_pub mosquitto_sub mosquitto_rr: -P
iscsiadm: !
smbclient: //
ipmitool ipmiutil: -P -k -y =v
ipmitool-password: /2
ipmi-* ipmipower ipmiconsole bmc-info: -p -k
keytool jarsigner: -storepass -keypass -srcstorepass -deststorepass -srckeypass -destkeypass
xfreerdp* wlfreerdp* sdl-freerdp*: /p /gp /pth /gateway
rdesktop: -p
swaks: -ap
kadmin kadmin.local: -w -pw
useradd usermod groupadd groupmod: -p
send exp_send: /1
"""
# They run what is named in their arguments, so a program of the table there counts.
WRAPPERS = """
autossh bash busybox bwrap catchsegv cgexec chpst chronic chroot chrt crictl daemonize dash dbus-run-session doas docker
docker-compose dumb-init eatmydata env exec faketime fakeroot firejail flock gdb gosu ionice java ksh kubectl ltrace lxc
lxc-attach machinectl nerdctl nice node nohup nsenter numactl oc parallel perl php pkexec podman podman-compose prlimit
proot proxychains proxychains4 python rlwrap ruby run0 runuser screen script setarch setpriv setsid sh ssh sshpass
start-stop-daemon stdbuf strace su su-exec sudo systemd-inhibit systemd-run taskset time timeout tini tmux torsocks
unbuffer unshare valgrind watch xargs xvfb-run zsh
"""
_WRAPPING = frozenset(WRAPPERS.split())
_SIGNS = "*+:%=,"
_VERSION = re.compile(r"[-_.]?v?[0-9][0-9.]*\Z|\.(?:exe|py|sh|pl|bin)\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramOptions:
    """
    What a program's line in `PROGRAMS` says.

    *options* has the sign behind each, *counted* the N, *operands* the N of the program itself, *operand_sign* what
    stands before a secret in an operand, and *flags* the letters of ``=``.
    """

    name: str
    options: dict[bytes, str] = field(default_factory=dict)
    counted: dict[bytes, int] = field(default_factory=dict)
    operands: int | None = None
    has_accounts: bool = False
    takes_names: bool = False
    operand_sign: str = ""
    has_dsn: bool = False
    knows_shares: bool = False
    flags: bytes = b""
    wraps: bool = False


@lru_cache(maxsize=4096)
def program_options(path: bytes, within: str = "") -> ProgramOptions | None:
    """Return what is known of a program, or of its argument *path* *within* it; ``None`` for nothing."""
    exact, prefixes = _table()
    base = path.rpartition(b"/")[2].rpartition(b"\\")[2].lower().decode("ascii", "replace")
    if (part := f"{within}-{base}") in exact:
        return _options(part, exact[part])
    bare = _VERSION.sub("", base)
    for name in (base, bare, _VERSION.sub("", bare)):
        if name in exact or name in _WRAPPING:
            return _options(name, exact.get(name, []))
        for prefix, lines in prefixes.items():
            if name.startswith(prefix):
                return _options(prefix, lines)
    return None


def _options(name: str, lines: list[str]) -> ProgramOptions:
    items = " ".join(lines).split()
    numbered = {item[:-2]: int(item[-1]) for item in items if item[-2:-1] == "/" and item[-1].isdigit()}
    return ProgramOptions(
        name=name,
        options={
            item.rstrip(_SIGNS).encode(): item[len(item.rstrip(_SIGNS)) :]
            for item in items
            if item[0] in "-/" and item != "//"
        },
        counted={option.encode(): number for option, number in numbered.items() if option},
        operands=numbered.get(""),
        has_accounts="@" in items,
        takes_names="!" in items,
        operand_sign=next((item for item in items if item in {"=", ":"}), ""),
        has_dsn="p=" in items,
        knows_shares="//" in items,
        flags="".join(item[1:] for item in items if item.startswith("=")).encode(),
        wraps=name in _WRAPPING,
    )


@lru_cache(maxsize=1)
def _table() -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Return the options of the programs with an exact name, and of those that begin with one."""
    exact: dict[str, list[str]] = {}
    prefixes: dict[str, list[str]] = {}
    for line in PROGRAMS.strip().splitlines():
        names, _, items = line.partition(": ")
        for name in names.split():
            exact.setdefault(name.partition("-")[0], [])
            (prefixes if name.endswith("*") else exact).setdefault(name.rstrip("*"), []).append(items)
    return exact, prefixes
