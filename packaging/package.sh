#!/bin/sh
# Builds the packages of a version: package.sh VERSION COMMIT, from what "make install" installs.
# DIST, ARCHES and FORMATS say where to, for which processors, and what.
#
# What a package has depends on the commit and on the versions of Go and of nfpm, which go.mod and
# nfpm.mod have, and on nothing else: not on the folder, the time, the user, the umask or the language.
set -eu
version=$1
commit=$2
dist=${DIST:-dist}
: "${ARCHES:=amd64 arm64}" "${FORMATS:=tar.gz deb rpm}"
export SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}"
export LC_ALL=C TZ=UTC
export GOAMD64=v1 GOARM64=v8.0 GOEXPERIMENT= GOFLAGS='-trimpath -buildvcs=false'
umask 022

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# nfpm's own long list of modules stays out of ours.
go build -modfile=packaging/nfpm.mod -o "$work/nfpm" github.com/goreleaser/nfpm/v2/cmd/nfpm
mkdir -p "$dist"
dist=$(cd "$dist" && pwd)

# Go links what it uses into the programs, so the terms of that go with them, and with ours.
licenses() {
	printf '==== Uplane\n\n'
	cat LICENSE
	echo
	go list -deps -f '{{with .Module}}{{if not .Main}}{{.Path}} {{.Version}} {{.Dir}}{{end}}{{end}}' ./cmd/... |
		sort -u | while read -r module number folder; do
		for file in "$folder"/LICENSE* "$folder"/COPYING* "$folder"/NOTICE*; do
			[ ! -f "$file" ] || { printf '==== %s %s\n\n' "$module" "$number"; cat "$file"; echo; }
		done
	done
	printf '==== Go, its library and runtime\n\n'
	cat "$(go env GOROOT)/LICENSE"
}

for arch in $ARCHES; do
	root=$work/$arch/uplane-$version-linux-$arch
	make --silent install GOARCH="$arch" GOOS=linux BIN="$work/$arch/bin" DESTDIR="$root" PREFIX=/usr \
		VERSION="$version" COMMIT="$commit" LDFLAGS='-s -w -buildid='
	doc=$root/usr/share/doc/uplane
	licenses >"$doc/licenses.txt"
	rm "$doc/LICENSE" # Debian wants no file that is only that
	gzip -9n "$root"/usr/share/man/man*/* "$doc/CHANGELOG.md" "$doc/licenses.txt"
	# Debian's own form of a changelog, which only its package has.
	gzip -9nc >"$work/$arch/changelog.gz" <<-END
		uplane ($version) unstable; urgency=medium

		  * What is new is in CHANGELOG.md.

		 -- Uplane's maintainers <maintainers@uplane.example>  $(date -R -d "@$SOURCE_DATE_EPOCH")
	END
	find "$work/$arch" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
	for format in $FORMATS; do
		if [ "$format" = tar.gz ]; then
			package=$dist/${root##*/}.tar.gz
			tar -C "${root%/*}" --sort=name --owner=0 --group=0 --numeric-owner --format=gnu -c "${root##*/}" | gzip -9n >"$package"
			echo "created package: $package"
		else
			sed "s,@ROOT@,$root,; s,@WORK@,$work/$arch,; s,@ARCH@,$arch,; s,@VERSION@,$version," packaging/nfpm.yaml >"$work/nfpm.yaml"
			"$work/nfpm" package --config "$work/nfpm.yaml" --packager "$format" --target "$dist/" | grep '^created'
		fi
	done
done
