# Makes the disk, kernel and initrd of the Wi-Fi guest: image.sh RELEASE FOLDER
set -eu
release=$1
folder=$2
root=$folder/root
mkdir -p "$folder"

packages=systemd-sysv,libpam-systemd,udev,dbus,qemu-guest-agent,linux-image-amd64,kmod,busybox-static
packages=$packages,network-manager,wpasupplicant,hostapd,iw,wireless-regdb,rfkill,dnsmasq-base
packages=$packages,iptables,nftables,iproute2,conntrack,iputils-ping,procps,curl
# The initrd is our own, see below.
INITRD=No mmdebstrap --quiet --mode=root --variant=minbase --include="$packages" \
	--dpkgopt='path-exclude=/usr/share/doc/*' \
	--dpkgopt='path-exclude=/usr/share/man/*' \
	--dpkgopt='path-exclude=/usr/share/locale/*' \
	--dpkgopt='path-exclude=/lib/modules/*/kernel/drivers/gpu/*' \
	--dpkgopt='path-exclude=/lib/modules/*/kernel/drivers/media/*' \
	--dpkgopt='path-exclude=/lib/modules/*/kernel/sound/*' \
	"$release" "$root"

rm -f "$root/etc/resolv.conf"
echo host >"$root/etc/hostname"
echo '127.0.0.1 localhost host' >"$root/etc/hosts"
echo 0123456789abcdef0123456789abcdef >"$root/etc/machine-id"
mkdir -p "$root/var/log/journal"
# NetworkManager makes no profiles of its own, asks nobody on the internet, and takes the veth that stands for a card.
cat >"$root/etc/NetworkManager/conf.d/lab.conf" <<'CONF'
[main]
no-auto-default=*
[connectivity]
enabled=false
[device-enp7s0]
match-device=interface-name:enp7s0
managed=1
CONF
# hostapd runs elsewhere; the rest would take time at every boot, or run some day in the background.
chroot "$root" systemctl --quiet mask hostapd.service getty@tty1.service serial-getty@ttyS0.service modprobe@.service \
	dev-hugepages.mount dev-mqueue.mount sys-kernel-debug.mount sys-kernel-tracing.mount sys-kernel-config.mount \
	sys-fs-fuse-connections.mount kmod-static-nodes.service systemd-modules-load.service systemd-remount-fs.service \
	systemd-random-seed.service systemd-update-utmp.service systemd-update-utmp-runlevel.service \
	systemd-timesyncd.service e2scrub_reap.service e2scrub_all.timer fstrim.timer \
	apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer systemd-tmpfiles-clean.timer
touch "$root/etc/.updated" "$root/var/.updated"

# What is around the host will be there when the first boot begins.
mkdir -p "$root/etc/systemd/system/multi-user.target.wants"
ln -s /etc/systemd/system/outside.service "$root/etc/systemd/system/multi-user.target.wants/"

# The kernel as ELF: the emulated processor would unpack it at every boot for seconds.
kernel=$(echo "$root"/boot/vmlinuz-*)
version=${kernel##*/vmlinuz-}
number() { od -An -t "u$2" -j "$1" -N "$2" "$kernel" | tr -d ' '; } # at this offset of the boot protocol's header
start=$((($(number 497 1) + 1) * 512 + $(number 584 4)))
tail -c +$((start + 1)) "$kernel" | head -c "$(number 588 4)" >"$folder/packed"
for unpack in 'xz --single-stream' zstd; do
	! $unpack -dc <"$folder/packed" >"$folder/kernel" 2>/dev/null || break
done
head -c 4 "$folder/kernel" | grep -q ELF

# An initrd that knows the one disk: no udev, a second instead of ten.
initrd=$folder/tree
mkdir -p "$initrd/dev" "$initrd/proc" "$initrd/mnt"
cp "$root/bin/busybox" "$initrd/"
for module in virtio_pci virtio_blk ext4 crc32c_generic; do
	chroot "$root" modprobe --set-version "$version" --show-depends "$module"
done | sed -n 's/^insmod //p' | awk '!seen[$1]++' >"$folder/modules"
{
	echo '#!/busybox sh'
	while read -r module; do
		cp "$root$module" "$initrd/"
		echo "/busybox insmod /${module##*/}"
	done <"$folder/modules"
	echo '/busybox mount -t devtmpfs dev /dev'
	echo 'until /busybox mount -t ext4 -o noatime /dev/vda /mnt; do /busybox usleep 50000; done'
	# What the test installs is on the second disk, as a tar file.
	echo '[ -e /mnt/installed ] || /busybox tar -x -f /dev/vdb -C /mnt'
	echo '>/mnt/installed'
	echo 'exec /busybox switch_root /mnt /sbin/init'
} >"$initrd/init"
chmod 755 "$initrd/init"
(cd "$initrd" && find . | ./busybox cpio -o -H newc) >"$folder/initrd"

# As a file system, sparse.
rm -rf "$root"/boot/* "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/*
mke2fs -q -t ext4 -O ^has_journal -d "$root" "$folder/disk" 2G
rm -rf "$root" "$initrd" "$folder/packed" "$folder/modules"
