#!/bin/bash
# Become systemd, as PID 1 of the namespaces that this runs in. Nothing of the machine outside is touched:
# what systemd writes to, or sets up at boot, is private here or masked.
# Usage: boot_systemd.sh SCRATCH UNITS COLLECTOR (SCRATCH on a disk: its archive/ becomes /var/lib/collector)
set -euo pipefail
scratch=$1 units=$2 collector=$3
mount --make-rprivate /
umount -R /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t proc proc /proc
mkdir -p "$scratch"/{archive,private} /var/lib/collector
chmod 0700 "$scratch/archive"
mount --bind "$scratch/archive" /var/lib/collector
mount -t tmpfs tmpfs "$scratch/private"
for directory in /etc /usr/bin; do
    layers=$scratch/private$directory
    mkdir -p "$layers"/{upper,work}
    mount -t overlay overlay -o "lowerdir=$directory,upperdir=$layers/upper,workdir=$layers/work" "$directory"
done
for directory in /run /var/tmp /var/lib/systemd /var/crash; do
    mkdir -p "$directory"
    mount -t tmpfs tmpfs "$directory"
done
for masked in systemd-{udevd,udev-trigger,journal-flush,logind,timesyncd,networkd,resolved,random-seed,update-utmp}.service \
    systemd-{sysusers,tmpfiles-setup,tmpfiles-setup-dev,tmpfiles-clean,sysctl,remount-fs,modules-load,binfmt}.service \
    systemd-pstore.service e2scrub_reap.service \
    {dev-hugepages,dev-mqueue,sys-kernel-debug,sys-kernel-tracing,sys-kernel-config,sys-fs-fuse-connections}.mount; do
    ln -sf /dev/null "/etc/systemd/system/$masked"
done
ln -s "$collector" /usr/bin/collector
cp "$units"/* /etc/systemd/system/
printf '[Unit]\nRequires=collector.service\nAfter=collector.service\n' >/etc/systemd/system/test.target
exec /lib/systemd/systemd --system --unit=test.target --log-target=console --show-status=0
