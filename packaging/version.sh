#!/bin/sh
# Prints the version of what is checked out: of a tag v1.2.3 it is 1.2.3; of the fifth commit
# after it, 1.2.3+5.g0e58bbf, which package managers take for newer than 1.2.3 and older than 1.2.4.
set -eu
if ! git rev-parse --verify --quiet HEAD >/dev/null 2>&1; then
	echo 0.0.0 # not a clone
	exit
fi
tag=$(git describe --tags --abbrev=0 --match 'v[0-9]*' 2>/dev/null || true)
count=$(git rev-list --count "${tag:+$tag..}HEAD")
version=${tag:-v0.0.0}
version=${version#v}
[ "$count" -eq 0 ] || version="$version+$count.g$(git rev-parse --short=7 HEAD)"
echo "$version"
