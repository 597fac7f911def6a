# The host's process 1: makes the mounts, says "ready", and lives until its standard input closes.
# It runs in fresh network, PID and mount namespaces.
set -eu

# First of all: no mount made here may travel to the machine.
mount --make-rprivate /
mount -t proc proc /proc
# Read-only, or NetworkManager waits for a udev that never comes.
mount -t sysfs -o ro,nosuid,nodev,noexec sysfs /sys
mount -t tmpfs -o mode=755,nosuid,nodev tmpfs /run

mkdir -p /run/lab /run/lock /run/dbus /run/netns
for dir in etc usr var; do
	mkdir -p "/run/lab/$dir/upper" "/run/lab/$dir/work"
	mount -t overlay -o "lowerdir=/$dir,upperdir=/run/lab/$dir/upper,workdir=/run/lab/$dir/work" overlay "/$dir"
done

# The machine's own settings and state must not show through the overlays.
mkdir -p /etc/NetworkManager /var/lib/NetworkManager
for dir in /etc/NetworkManager /var/lib/NetworkManager /etc/netns /etc/uplane /var/lib/uplane; do
	if [ -d "$dir" ]; then
		mount -t tmpfs -o mode=755 tmpfs "$dir"
	fi
done

echo ready
# With SIGCHLD ignored the kernel reaps the orphans that process 1 inherits. A shell would not do:
# dash catches that signal always, and its "read" then ends.
exec env --ignore-signal=CHLD cat
