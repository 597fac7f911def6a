#!/bin/sh
# Checks that a version can be released, by "make release VERSION=1.2.3", and says what is left for a person.
set -eu
version=$1

stop() {
	echo "release: $*" >&2
	exit 1
}

case $version in
*[!0-9.]* | *.*.*.* | '') stop "name the version: make release VERSION=1.2.3" ;;
*.*.*) ;;
*) stop "$version: a version has three numbers" ;;
esac
[ -z "$(git status --porcelain)" ] || stop "there are changes that no commit has: git status"
! git rev-parse --quiet --verify "refs/tags/v$version" >/dev/null || stop "v$version is released: git show v$version"
grep -qE "^## \[$version\] - [0-9]{4}-[0-9]{2}-[0-9]{2}\$" CHANGELOG.md ||
	stop "CHANGELOG.md has no line \"## [$version] - $(date +%Y-%m-%d)\": what is under Unreleased belongs there"

export CI=true
make --silent lint
make --silent test
sh packaging/reproducible.sh
make --silent package
sh packaging/setup.sh lintian
lintian --fail-on error,warning dist/uplane_"${version}"_*.deb

cat <<-END

	Uplane $version can be released. What is left:

	  1. read what lintian said, and the manual: make manual && man -l bin/manual/uplane.1
	  2. install it where you work, and use it for a day: apt install ./dist/uplane_${version}_amd64.deb
	  3. git tag --sign v$version --message "Uplane $version" && git push origin v$version
	  4. sign the sums: (cd dist && sha256sum *$version* >SHA256SUMS && gpg --clearsign SHA256SUMS)
	  5. publish what is in dist/, with this version's part of CHANGELOG.md
	  6. begin the next "## [Unreleased]" in CHANGELOG.md
END
