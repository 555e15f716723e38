#!/bin/bash
# Become the systemd of a Debian tree, as PID 1 of the namespaces that this runs in, with the tree's own units. As in a
# container: /sys and /proc/sys are read-only, and there is no device but memory's.
# Usage: boot_tree.sh TREE SCRATCH (SCRATCH on a disk: its upper/ has what is written, archive/ is /var/lib/collector)
set -euo pipefail
tree=$1 scratch=$2 root=$2/root
mount --make-rprivate /
mkdir -p "$scratch"/{root,upper,work,archive}
chmod 0700 "$scratch/archive"
mount -t overlay overlay -o "lowerdir=$tree,upperdir=$scratch/upper,workdir=$scratch/work" "$root"
mount -t proc proc "$root/proc"
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"
mount --bind /proc/sys/kernel/core_pattern "$root/proc/sys/kernel/core_pattern" # a test that sets it takes the lock
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=0755 tmpfs "$root/dev"
mkdir "$root"/dev/{shm,pts}
for device in null zero full random urandom tty; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
ln -s /proc/self/fd "$root/dev/fd"
ln -s pts/ptmx "$root/dev/ptmx"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
mount -t tmpfs -o mode=0755 tmpfs "$root/run"
mkdir -p "$root/var/lib/collector"
mount --bind "$scratch/archive" "$root/var/lib/collector"
cd "$root"
pivot_root . .
umount -l .
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin container=other \
    chroot . /lib/systemd/systemd --system --log-target=journal --show-status=0
