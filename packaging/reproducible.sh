#!/bin/sh
# Builds the packages of the present commit twice, from two folders and under different circumstances,
# and fails unless they are the same.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

git clone --quiet --no-local . "$work/one"
git clone --quiet --no-local . "$work/another-folder"
(cd "$work/one" && umask 022 && make --silent package DIST="$work/1")
# Nothing that was compiled for the first.
(cd "$work/another-folder" && umask 077 && TZ=Asia/Tokyo LC_ALL=C.UTF-8 GOCACHE="$work/cache" make --silent package DIST="$work/2")
(cd "$work/1" && sha256sum ./*) >"$work/sums"
cat "$work/sums"
(cd "$work/2" && sha256sum --quiet --strict --check "$work/sums")
echo 'the same bytes twice'
