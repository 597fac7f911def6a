# Makes the image of a test machine: debian.sh RELEASE FOLDER
set -eu
release=$1
root=$2

# What a desktop has that Uplane meets, and what a test says before this line that it needs. Without manuals and translations it is half the size.
packages=systemd-sysv,libpam-systemd,dbus,dbus-user-session,polkitd,pkexec,network-manager
packages=$packages,iptables,nftables,iproute2,conntrack,iputils-ping,procps,sudo,python3-minimal${more:+,$more}
mmdebstrap --quiet --mode=root --variant=minbase --include="$packages" \
	--dpkgopt='path-exclude=/usr/share/doc/*' \
	--dpkgopt='path-exclude=/usr/share/man/*' \
	--dpkgopt='path-exclude=/usr/share/locale/*' \
	"$release" "$root"

# The maker's own name and resolver do not belong in it.
rm -f "$root/etc/resolv.conf"
echo host >"$root/etc/hostname"
echo '127.0.1.1 host' >>"$root/etc/hosts"
# Without an ID every boot is a first one.
echo 0123456789abcdef0123456789abcdef >"$root/etc/machine-id"
mkdir -p "$root/var/log/journal"
# What Debian's scripts look for, and complain of in every log.
touch "$root/etc/default/locale"
for event in up down post-down; do
	mkdir -p "$root/etc/network/if-$event.d"
done

for user in alice bob; do
	chroot "$root" useradd --create-home --shell /bin/sh --user-group "$user"
done
# A login at the console is one at seat0, and active.
cat >"$root/etc/systemd/system/alice.service" <<'END'
[Unit]
Description=Alice, who sits in front of the machine
After=systemd-user-sessions.service systemd-logind.service

[Service]
User=alice
PAMName=login
TTYPath=/dev/console
ExecStart=sleep infinity
# Her programs inherit this one's environment, which shall be a session's.
UnsetEnvironment=INVOCATION_ID JOURNAL_STREAM SYSTEMD_EXEC_PID MEMORY_PRESSURE_WATCH MEMORY_PRESSURE_WRITE

[Install]
WantedBy=multi-user.target
END
chroot "$root" systemctl --quiet enable alice.service

# NetworkManager makes no profiles of its own, and asks nobody on the internet.
cat >"$root/etc/NetworkManager/conf.d/lab.conf" <<'END'
[main]
no-auto-default=*
[connectivity]
enabled=false
END

# What can't work in a container, would take Alice's console, or runs some day in the background.
chroot "$root" systemctl --quiet mask console-getty.service systemd-modules-load.service \
	modprobe@.service sys-kernel-debug.mount sys-kernel-tracing.mount dev-hugepages.mount \
	apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer systemd-tmpfiles-clean.timer
# There is nothing to update at the first boot.
touch "$root/etc/.updated" "$root/var/.updated"
