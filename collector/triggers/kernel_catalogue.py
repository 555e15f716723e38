"""
The lines in which the kernel reports crashes and errors: Linux 4.18 to 6.19 on x86, arm64, ppc64, riscv and s390.

A group that is named gives a fact: ``pid``, ``comm``, ``uid``, ``cpu``, and ``fault_…`` or ``oom_…`` for attributes.
"""

from __future__ import annotations

from typing import Literal, get_args

EventName = Literal[
    "core_lost",
    "segfault",
    "oom_kill",
    "hung_task",
    "soft_lockup",
    "hard_lockup",
    "rcu_stall",
    "oops",
    "bug",
    "machine_check",
    "io_error",
    "warning",
    "ubsan",
    "list_corruption",
    "md",
    "multipath",
    "ata",
    "netdev_watchdog",
]
ON_REQUEST: tuple[EventName, ...] = ("warning", "ubsan", "list_corruption", "md", "multipath", "ata", "netdev_watchdog")
"""Events that are markers only where the file names them: they repeat, and nothing has crashed."""
IN_CONTEXT: frozenset[str] = frozenset(
    {"oops", "bug", "warning", "ubsan", "list_corruption", "hard_lockup", "rcu_stall"}
)
"""Events of the machine: a process that their lines name is the one in whose context they happened."""
DEFAULT: tuple[EventName, ...] = tuple(name for name in get_args(EventName) if name not in ON_REQUEST)

# Lines about processes are read like ``stat``: by the kernel's whole format, with a name of at most 15 bytes, whatever
# it looks like. No format fits into 15 bytes, so no name can hold a PID that would be read as the line's.
COMM = r"(?P<comm>.{0,15})"
PID = r"(?P<pid>[0-9]{1,10})"
HEX = r"(?:0x)?[0-9a-f]+"
_POINTER = rf" *(?:{HEX}|\(null\))"
_AT = rf"(?P<fault_address>{HEX})"
_IP = rf" *(?P<fault_ip>{HEX}|\(null\))"
# print_vma_addr() in mm/memory.c; with the offset in the file since 6.10.
_MODULE = r"(?: in (?P<fault_module>.{1,255})\[[0-9a-f,]+\+[0-9a-f]+\])?"
# fs/coredump.c prints it with %*pE, which escapes what is not printable.
_COMM_PE = r"(?P<comm>(?:\\(?:[0-7]{3}|[abefnrtv])|.){0,15})"
# What die() appends: how often, and what the kernel was built with; s390 leaves no space between.
DIED = r" ?\[#[0-9]+\](?::|(?:[A-Z][A-Za-z0-9_()+-]*)?(?: [A-Z][A-Za-z0-9_()+-]*)* *)\Z"

EVENTS: dict[EventName, tuple[str, ...]] = {
    # fs/coredump.c, coredump_report_failure(); other wording before 6.11. An unsafe core_pattern is no crash.
    "core_lost": (
        rf"Pid {PID}\({COMM}\) (?:over core_pipe_limit|can only dump core to fully qualified path)",
        rf"Process {PID}\({COMM}\) has RLIMIT_CORE set to ",
        rf"coredump: {PID}\({_COMM_PE}\): (?:over core_pipe_limit|RLIMIT_CORE is set to |Core dump |Coredump socket "
        r"|\||(?!written to |Unsafe core_pattern )(?:(?!\): ).)*"
        r"(?:failed|abort|skipping|cannot|disabled|truncated|exceed|has not been created))",
        r"Core dump to .* (?:aborted: |pipe failed|disabled)|(?:format_corename|do_coredump) failed",
    ),
    "segfault": (
        # arch/x86/mm/fault.c, arch/sparc/mm/fault_64.c
        rf"{COMM}\[{PID}\]: segfault at {_AT} ip {_IP} (?:\(rpc {_POINTER}\) )?sp {_POINTER} "
        rf"error (?P<fault_error>[0-9a-f]+){_MODULE}",
        # arch/x86/kernel/traps.c, cet.c, signal.c, umip.c
        rf"traps: {COMM}\[{PID}\] (?:trap [A-Za-z0-9 /#-]+|general protection(?: fault)?) ip:{_IP} sp:{_POINTER} "
        rf"error:(?P<fault_error>[0-9a-f]+){_MODULE}",
        rf"(?:traps: |(?!traps: )){COMM}\[{PID}\] control protection ip:{_IP} sp:",
        rf"{COMM}\[{PID}\] bad frame in [A-Za-z0-9_ ]+ frame:{_POINTER} ip:{_IP} ",
        rf"(?:signal: |(?!signal: )){COMM}\[{PID}\] overflowed sigaltstack\Z",
        rf"(?:umip: |(?!umip: )){COMM}\[{PID}\] (?:umip emulation segfault ip:|"
        rf"ip:{HEX} sp:{HEX}: segfault in emulation)",
        # arch/arm64/kernel/traps.c; before 4.17 arch/arm64/mm/fault.c. The ESR is appended, and can be cut off.
        rf"{COMM}\[{PID}\]: unhandled exception:(?: [A-Za-z0-9 (),/-]+)?{_MODULE}",
        rf"{COMM}\[{PID}\]: unhandled [a-zA-Z0-9 (),/-]+ \([0-9]+\) at {_AT}, esr ",
        rf"{COMM}\[{PID}\]: undefined instruction: pc=",
        # arch/arm/mm/fault.c and kernel/traps.c, with user_debug
        rf"{COMM}: unhandled page fault \([0-9]+\) at {_AT}, code ",
        rf"{COMM} \({PID}\): undefined instruction: pc=",
        # arch/powerpc/kernel/traps.c, arch/riscv/kernel/traps.c, and signal.c of arm64, powerpc and riscv
        rf"{COMM}\[{PID}\]: (?:[A-Za-z ]+ \([0-9]+\)|unhandled signal [0-9]+) at {_AT} nip{_IP} lr {HEX} "
        rf"code [0-9a-f]+{_MODULE}",
        rf"{COMM}\[{PID}\]: bad frame in [A-Za-z0-9_ ]+: (?:{_POINTER} nip |pc=|frame=)",
        rf"{COMM}\[{PID}\]: unhandled signal [0-9]+ code {HEX} at {_AT}{_MODULE}",
        # arch/mips/mm/fault.c, arch/loongarch/mm/fault.c
        rf"do_page_fault\(\): sending SIGSEGV to {COMM} for invalid (?:read access from|write access to) {_AT}",
        # kernel/signal.c, with kernel.print-fatal-signals, of those that dump core. What newer kernels put in front is
        # the name of a file, which may hold anything.
        r"(?:.{1,300}: )?potentially unexpected fatal signal [0-9]+\.\Z",
        # arch/s390/mm/fault.c and kernel/traps.c name nobody
        rf"User process fault: interruption code (?:0x)?[0-9A-Fa-f]{{2,4}} (?:ilc:[0-9])?{_MODULE}",
    ),
    # mm/oom_kill.c, __oom_kill_process(); alone on the line before 5.0, ", UID 1000, " in RHEL 7. "Kill process", which
    # those kernels print first, may be about the parent of the process killed.
    "oom_kill": (
        r"(?:(?:Out of memory|Memory cgroup out of memory|Out of memory \(oom_kill_allocating_task\)): )?"
        rf"Killed process {PID} \({COMM}\),? (?:UID (?P<uid_before>[0-9]+), )?"
        r"total-vm:[0-9]+kB, anon-rss:[0-9]+kB, file-rss:[0-9]+kB(?:, shmem-rss:[0-9]+kB)?(?:, UID:(?P<uid>[0-9]+))?",
        r"(?:Out of memory|Memory cgroup out of memory) and no killable processes",
    ),
    # kernel/hung_task.c
    "hung_task": (
        rf"INFO: task {COMM}:{PID} blocked (?:in I/O wait )?for more than [0-9]+ seconds",
        rf"INFO: task {COMM}:{PID} (?:is|<(?:reader|writer)>) blocked on an? [a-z-]+(?: likely |, but )",
    ),
    # kernel/watchdog.c; "NMI watchdog" until 4.9
    "soft_lockup": (rf"(?:(?:NMI )?watchdog: )?BUG: soft lockup - CPU#[0-9]+ stuck for [0-9]+s! \[{COMM}:{PID}\]\Z",),
    # kernel/watchdog.c, arch/powerpc/kernel/watchdog.c, arch/x86/kernel/apic; kernel/smp.c: a CPU that does not answer
    "hard_lockup": (
        r"(?:NMI )?watchdog: (?:CPU ?[0-9]+:? )?Watchdog detected hard LOCKUP on cpu (?P<cpu>[0-9]+)",
        r"(?:NMI )?watchdog: CPU ?(?P<cpu>[0-9]+):? self-detected hard LOCKUP",
        r"(?:NMI )?watchdog: (?:CPU ?[0-9]+:? )?(?:Watchdog )?detected hard LOCKUP",
        r"[Ww]atchdog:? CPU[: ](?P<cpu>[0-9]+) Hard LOCKUP",
        r"[Ww]atchdog:? CPU[: ][0-9]+ detected Hard LOCKUP|BUG: NMI Watchdog detected LOCKUP",
        r"(?:smp: )?csd: Detected non-responsive CSD lock (?:.* for CPU#(?P<cpu>[0-9]+))?",
    ),
    # kernel/rcu/tree_stall.h, tree_exp.h and tasks.h; without "rcu: " until 4.18
    "rcu_stall": (r"(?:rcu: )?INFO: [A-Za-z0-9_-]+ (?:self-)?detected (?:expedited )?stalls?\b",),
    # arch/*/kernel/traps.c and dumpstack.c, arch/*/mm/fault.c, kernel/exit.c. What die() prints ends with a number.
    "oops": (
        rf"Kernel stack overflow in process {COMM}\[{PID}\]",
        r"BUG: (?:unable to handle |Unable to handle kernel |[Kk]ernel NULL pointer dereference"
        r"|(?:[A-Z]+ )?stack guard page was hit)",
        r"(?:CPU [0-9]+ )?Unable to handle kernel |Bad mode in [A-Za-z ]+ handler detected|Bad kernel stack pointer "
        r"|Unhandled (?:prefetch abort|fault)(?:: | at 0x)|Insufficient stack space to handle exception!",
        r"(?:traps: )?PANIC: double fault|Unrecoverable [A-Za-z/ ]*[Ee]xception [0-9a-f]+ at "
        r"|Fixing recursive fault but reboot is needed",
        rf"(?:Oops\b[^\[]*|general protection fault[,:][^\[]*|Internal error: [^\[]*: [0-9a-f]+|"
        rf"[A-Za-z][A-Za-z0-9 #,/().-]*: [0-9a-f]{{4,16}}(?: ilc:[0-9])?){DIED}",
        rf"(?:Kernel bug detected|[A-Za-z ]+ in kernel code|Unhandled kernel unaligned access){DIED}",
    ),
    # kernel/sched/core.c; lib/bug.c; mm/slub.c, slab_bug(); mm/slab.c until 6.7; mm/kasan, mm/kfence; fs/super.c
    "bug": (
        rf"BUG: scheduling while atomic: {COMM}/{PID}/0x[0-9a-f]{{8}}\Z",
        rf"BUG: using [A-Za-z0-9_]+\(\) in preemptible \[[0-9a-f]{{8}}\] code: {COMM}/{PID}\Z",
        rf"BUG: (?:spin|rw)lock [a-z ]+ on CPU#[0-9]+, {COMM}/{PID}(?:, [0-9a-f]+)?\Z",
        rf"[Kk]ernel BUG (?:at |{DIED})|BUG: (?!soft lockup)|BUG [^ :][^ ]* \(.*\): |CFI failure (?:at |\()",
        r"(?:Slab corruption|slab error in ).*: |[^ ]+:[0-9]+: bad p(?:gd|4d|ud|md|te) |"
        r"VFS: Busy inodes after unmount of |usercopy: Kernel memory ",
    ),
    # mm/memory-failure.c, arch/x86/kernel/cpu/mce/core.c and kernel/nmi.c, drivers/acpi/apei/ghes.c, drivers/edac,
    # arch/arm64/kernel/traps.c and mm/fault.c, arch/powerpc/kernel/mce.c
    "machine_check": (
        rf"(?:Memory failure: {HEX}|MCE {HEX}|MCE): (?:Sending SIGBUS to|Killing|forcibly killing) {COMM}:{PID} "
        r"(?:(?:early )?due to hardware memory corruption|because of failure to unmap)",
        r"(?:mce: |\{[0-9]+\})?\[Hardware Error\]|"
        r"mce: (?:Uncorrected hardware memory error|CPUs not responding to |Memory error )|"
        r"EDAC .*(?:\b(?:CE|UE)\b|HANDLING MCE MEMORY ERROR)",
        rf"Memory failure: {HEX}: |SError Interrupt on CPU[0-9]+|MCE: CPU[0-9]+: machine check |"
        r"(?:Severe|Fatal|Warning|Harmless) Machine check interrupt|Synchronous External Abort: |"
        r"NMI: (?:PCI system error|IOCK error|memory parity)",
    ),
    # block/blk-core.c and blk-mq.c (a request that is not supported, or is tried again, is no error), fs/buffer.c,
    # mm/page_io.c, fs/ext4/super.c, fs/jbd2, fs/xfs, fs/btrfs/messages.c, fs/f2fs, net/sunrpc/clnt.c, drivers/nvme,
    # drivers/md, drivers/scsi, drivers/mmc, drivers/pci/pcie, arch/powerpc/kernel/eeh.c
    "io_error": (
        rf"(?:{COMM}: )?attempt to access beyond end of device\Z",
        r"(?:(?:blk_update_request|print_req_error|end_request): )?"
        r"(?:I/O|timeout|critical [a-z ]+|recoverable transport|reservation conflict|protection|device offline|"
        r"duration limit exceeded) error, dev |Buffer I/O error on |(?:Read|Write)-error on swap-device |"
        r"loop[0-9]*: Write error at |lost page write due to I/O error on ",
        r"EXT[234]-fs (?:error |\([^ ]+\): (?:Remounting filesystem read-only|(?:previous )?I/O error |"
        r"failed to convert|Delayed block allocation failed |ext4_(?:do_)?writepages: jbd2_start: )|"
        r"warning .*(?:I/O error |error -5 ))",
        r"FAT-fs \([^ ]+\): (?:error|FAT read failed|Filesystem has been set read-only)|SQUASHFS error: |"
        r"F2FS-fs \([^ ]+\): .*(?:read-only|inconsistent|[Cc]orrupt|I/O error)|gfs2: fsid=[^ ]*: fatal: |"
        r"OCFS2: ERROR \(device |UBIFS error \(|ubi[0-9]+ error: ",
        r"Aborting journal on device |jbd2_journal_bmap: |"
        r"JBD2: (?:Detected IO errors|I/?O error|Error -[0-9]+|recovery failed|Spotted dirty metadata)",
        r"XFS \([^ ]+\): (?:[Cc]orrupt|Metadata (?:corruption|CRC error)|Internal error|[Mm]etadata I/O [Ee]rror|"
        r"[Ll]og I/O [Ee]rror|writeback error|I/O Error Detected|Filesystem has been shut down|Block device removal |"
        r"log mount/recovery failed|Failing async write|page discard on |xfs_do_force_shutdown|"
        r"xfs_.*(?:I/O error|error -?[0-9]+))",
        r"BTRFS:? (?:error|critical|alert|emergency) \(|BTRFS: Transaction aborted|BTRFS warning \(.*\): "
        r"(?:csum failed|checksum|lost (?:page|super block) write|i/o error|.* has bad )",
        r"nvme [^ ]+: (?:I/O .* timeout|Removing after probe failure|Disabling device after reset failure|"
        r"controller is down|Device not ready|frozen state error|starting error recovery|queue [0-9]+: timeout|"
        r"failed nvme_keep_alive)|nvme[^ ]+: [^ ]+.* @ LBA .* \(sct 0x",
        r"(?:sd|sr|st|scsi) [0-9:]+: (?:\[[a-z]+\] )?(?:tag#[0-9]+ )?(?:Device offlined|"
        r"rejecting I/O to (?:offline|dead) device|Medium access timeout failure|timing out command)|"
        r" ?rport-[0-9:-]+: blocked FC remote port time ?out|"
        r" ?session[0-9]+: session recovery timed out| ?connection[0-9:]+: (?:ping timeout of |detected conn error)|"
        r"mmcblk[^ ]+: (?:error -|timed out )|mmc[0-9]+: (?:Timeout waiting for hardware |cache flush error)|"
        r"block nbd[0-9]+: (?:Connection timed out|Receive control failed|Possible stuck request)",
        r"device-mapper: (?:thin: .*: switching pool to (?:out-of-data-space|read-only|fail)|integrity: .*failed at |"
        r"crypt: .*INTEGRITY AEAD ERROR|"
        r"verity: .* is corrupted|snapshots: Invalidating snapshot)",
        r"[^ ]+ [0-9a-f:.]+: (?:AER: (?:Multiple )?Uncorrect|PCIe Bus Error: severity=Uncorrect|DPC: containment|"
        r"AER: device recovery failed)|EEH: (?:Frozen |PHB.* failure)",
        r"nfs: server .* not responding, |CIFS: .* has not responded in ",
    ),
    # kernel/panic.c, __warn(), and its wording of 6.19; kernel/locking/lockdep.c, kernel/rcu/update.c
    "warning": (
        rf"WARNING: CPU: (?P<cpu>[0-9]+) PID: {PID} at ",
        rf"WARNING: (?:[^ ]+:[0-9]+ )?at [^ ]+(?: \[[^ ]+\])?, CPU#(?P<cpu>[0-9]+): {COMM}/{PID}\Z",
        r"WARNING: (?:possible |inconsistent lock |suspicious RCU |bad unlock |held lock |lock held |Nested lock |"
        r"[a-zA-Z]+-safe -> )",
    ),
    # lib/ubsan.c; lib/list_debug.c, followed by a warning or a kernel BUG
    "ubsan": (r"UBSAN: ",),
    "list_corruption": (r"list_(?:add|del) (?:corruption|double add)",),
    # drivers/md. An error that is corrected is none.
    "md": (
        r"md/[a-z0-9]+:[^ ]* .*(?:Disk failure on |not correctable|unrecoverable I/O|[Tt]oo many read errors|"
        r"Cannot continue operation|not enough operational)|md: (?:super_written gets error|kicking non-fresh )",
    ),
    # drivers/md/dm-mpath.c, drivers/nvme/host/multipath.c
    "multipath": (
        r"device-mapper: multipath: .*(?:Failing path |queue_if_no_path timeout on )|"
        r"block nvme[^ ]+: no (?:usable|available) path",
    ),
    # drivers/ata/libata-eh.c and libata-core.c
    "ata": (
        r"ata[0-9.]+: (?:exception Emask |disable|(?:COMRESET|SRST|softreset|hardreset|reset) failed|"
        r"revalidation failed|qc timeout)",
    ),
    # net/sched/sch_generic.c; behind the device's name since 6.8
    "netdev_watchdog": (r"(?:[^ ]+ (?:[^ ]+ )?[^ ]+: )?NETDEV WATCHDOG: ",),
}

NO_EVENT = (
    # mm/oom_kill.c, mm/page_alloc.c, fs/drop_caches.c, kernel/exit.c: lines that begin with a name, which may be chosen
    # to look like any other line.
    rf"{COMM} invoked oom-killer: gfp_mask=",
    rf"{COMM}: page allocation (?:failure|stalls)",
    rf"{COMM} \({PID}\): drop_caches: ",
    rf"{COMM} \({PID}\) used greatest stack depth: ",
)
