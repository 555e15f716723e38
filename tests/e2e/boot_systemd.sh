#!/bin/bash
# Become systemd, as PID 1 of the namespaces that this runs in. It sees no unit but those given, so nothing of the
# machine outside is started, cleaned or mounted; and at its start it would raise sysctls: not on this machine.
# Usage: boot_systemd.sh SCRATCH UNITS COLLECTOR (SCRATCH on a disk: its archive/ becomes /var/lib/collector)
set -euo pipefail
scratch=$1 units=$2 collector=$3
mount --make-rprivate /
mount -t proc proc /proc
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
for name in core_pattern core_pipe_limit; do # of the whole machine: a test that has them changed takes the lock
    mount --bind "/proc/sys/kernel/$name" "/proc/sys/kernel/$name"
    mount -o remount,bind,rw "/proc/sys/kernel/$name"
done
umount -R /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir -p "$scratch"/{archive,private}
chmod 0700 "$scratch/archive"
mount -t tmpfs tmpfs "$scratch/private"
exec {archive}<"$scratch/archive" {temporary}</var/tmp # what is below /var is out of reach soon
for directory in /etc /usr/bin /var; do
    layers=$scratch/private$directory
    mkdir -p "$layers"/{upper,work}
    mount -t overlay overlay -o "lowerdir=$directory,upperdir=$layers/upper,workdir=$layers/work" "$directory"
done
mount -c --rbind "/proc/self/fd/$temporary" /var/tmp # SCRATCH may be there
mkdir -p /var/lib/collector /var/crash /var/lib/systemd/coredump # in the overlay: the machine may have none
mount -c --bind "/proc/self/fd/$archive" /var/lib/collector
exec {archive}<&- {temporary}<&-
rm -rf /etc/collector # in the overlay: the machine may have a collector of its own
for directory in /var/crash /var/lib/systemd/coredump; do # the machine's own cores are not the test's
    mount -t tmpfs tmpfs "$directory"
done
mount -t tmpfs tmpfs /run
ln -s "/proc/$outside/ns/mnt" /run/outside # of a process that stays in the first mount namespace
mount --make-rshared / # as systemd does where it is not in a container: services see what is mounted later
ln -s "$collector" /usr/bin/collector
cp -r "$units" /run/units
export SYSTEMD_UNIT_PATH=/run/units container=other
exec /lib/systemd/systemd --system --unit=test.target --log-target=console --show-status=0
