# The place of a world: makes the mounts, says "ready", and lives until its standard input closes.
# It runs as process 1 in fresh network, PID and mount namespaces. With the folder of an image as
# its argument it also makes the disk and the control group of a machine.
set -eu
image=$1

# First of all: no mount made here may travel to the machine.
mount --make-rprivate /
mount -t proc proc /proc
mount -t tmpfs -o mode=755,nosuid,nodev tmpfs /run
mkdir -p /run/lab /run/lock /run/dbus /run/netns
if [ -n "$image" ]; then
	# The machine's own, kept from under the new /sys: to mount it again changes its options for all.
	mkdir /run/lab/cgroup
	if cgroups=$(findmnt --noheadings --first-only --output TARGET --types cgroup2); then
		mount --bind "$cgroups" /run/lab/cgroup
	else
		mount -t cgroup2 cgroup2 /run/lab/cgroup
	fi
fi
# Read-only, or NetworkManager waits for a udev that never comes.
mount -t sysfs -o ro,nosuid,nodev,noexec sysfs /sys

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

if [ -z "$image" ]; then
	echo ready
	# With SIGCHLD ignored the kernel reaps the orphans that process 1 inherits. A shell would not do:
	# dash catches that signal always, and its "read" then ends.
	exec env --ignore-signal=CHLD cat
fi

mkdir -p /run/lab/disk /run/lab/changes/upper /run/lab/changes/work
mount -t overlay -o "lowerdir=$image,upperdir=/run/lab/changes/upper,workdir=/run/lab/changes/work" overlay /run/lab/disk

mount --move /run/lab/cgroup /sys/fs/cgroup
own=$(sed -n 's/^0:://p' /proc/self/cgroup)
cgroup=$(mktemp -d "/sys/fs/cgroup${own%/}/uplane-lab.XXXXXX")
echo "ready $cgroup"
cat
# A control group outlives its processes, so they have to go first.
kill -KILL -1
tries=0
until find "$cgroup" -depth -type d -exec rmdir {} + || [ "$tries" -ge 200 ]; do
	tries=$((tries + 1))
	sleep 0.02
done 2>/dev/null
