#!/bin/sh
# Installs the Debian packages that the tests and the demo need, or those that are named, and starts none of
# them: a NetworkManager in the machine's own network namespace would take over its cards.
# Prints one line per step, and nothing when everything is there. Run as root ("make setup").
set -eu

packages='network-manager dnsmasq-base iptables nftables iproute2 dbus iputils-ping conntrack
tcpdump util-linux procps netcat-openbsd make mmdebstrap gpg debian-archive-keyring
systemd-container libglib2.0-bin python3-dbus polkitd desktop-file-utils'
packages=${*:-$packages}

missing=
for package in $packages; do
	status=$(dpkg-query -W -f='${Status}' "$package" 2>/dev/null || true)
	[ "$status" = 'install ok installed' ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" -ne 0 ]; then
	echo "setup: must be root to install:$missing" >&2
	exit 1
fi

# dpkg asks policy-rc.d before it starts a service; 101 means "don't". One that is there already
# is put back afterwards.
policy=/usr/sbin/policy-rc.d
saved=
log=$(mktemp)
restore() {
	rm -f "$policy" "$log"
	if [ -n "$saved" ]; then
		mv "$saved" "$policy"
	fi
}
trap restore EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
if [ -e "$policy" ] || [ -L "$policy" ]; then
	# Moved only after saved is set: a signal in between must find the old one either way.
	saved=$policy.uplane-saved
	mv "$policy" "$saved"
fi
printf '#!/bin/sh\nexit 101\n' >"$policy"
chmod 755 "$policy"

export DEBIAN_FRONTEND=noninteractive
# step TEXT COMMAND... runs quietly; what it said is shown only when it fails.
step() {
	echo "setup: $1"
	shift
	if ! "$@" >"$log" 2>&1; then
		cat "$log" >&2
		echo "setup: failed: $*" >&2
		exit 1
	fi
}
step 'updating the package lists' apt-get -qq update
# shellcheck disable=SC2086 # one word per package
step "installing$missing" apt-get -qq -y --no-install-recommends install $missing
