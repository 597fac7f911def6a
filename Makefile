# What a newcomer guesses: make demo, make test, make build, make install, make package.

PREFIX  ?= /usr
# Where the binaries are built, and installed from. "make -o build install BIN=…" takes those that are there.
BIN     ?= bin
DESTDIR ?=
GO      ?= go
GOFLAGS += -trimpath
export GOFLAGS

# What "uplane version" says. A commit with changes on top of it says so.
VERSION ?= $(shell sh packaging/version.sh)
COMMIT  ?= $(or $(shell git rev-parse --short=12 HEAD 2>/dev/null),unknown)$(if $(shell git status --porcelain 2>/dev/null),-modified)
STAMP    = -X uplane/internal/version.Number=$(VERSION) -X uplane/internal/version.commit=$(COMMIT)
LDFLAGS ?=

FUZZTIME   ?= 30s
# Of make chaos: how long, and which run to repeat.
TIME       ?= 30m
SEED       ?=

.PHONY: all build manual setup setup-wifi demo test test-wifi chaos lint bench fuzz install install-dispatcher install-manual package release picture clean

all: build

build: ## both binaries, into bin/; without C, "uplane run" starts in three quarters of the time
	CGO_ENABLED=0 $(GO) build -ldflags '$(STAMP) $(LDFLAGS)' -o $(BIN)/ ./cmd/...

manual: ## manual pages and shell completions, into bin/manual; by this machine's processor, whatever is built for another
	mkdir -p $(BIN)/manual
	for program in uplane uplaned; do env -u GOARCH $(GO) run -ldflags '$(STAMP)' -tags manual ./cmd/$$program $(BIN)/manual || exit 1; done

setup: ## what the tests and the demo need, from Debian's packages
	sh packaging/setup.sh

setup-wifi: setup ## that, and an emulator with which test-wifi makes radios
	sh packaging/setup.sh qemu-system-x86

demo: setup build ## the main job, live, in a world of its own
	$(GO) run ./test/demo bin

test: setup build ## everything; as root, the kernel's and NetworkManager's side too
	$(GO) test -race -timeout 40m ./...

chaos: setup ## lanes under traffic while everything around them changes at random, for TIME; SEED repeats a run
	CHAOS_TIME=$(TIME) CHAOS_SEED=$(SEED) $(GO) test -race -v -count=1 -timeout 0 -tags chaos -run '^TestChaos$$' ./test/system

test-wifi: setup-wifi ## a lane on real Wi-Fi, in an emulated machine: some minutes
	$(GO) test -v -count=1 -timeout 40m -tags wifi ./test/wifi

lint: ## gofmt, go vet, staticcheck, and which package may import which
	test -z "$$(gofmt -l .)" || { gofmt -l .; exit 1; }
	$(GO) vet -tags wifi,chaos ./...
	$(GO) tool staticcheck -tags wifi,chaos ./...
	$(GO) vet -tags manual ./cmd/...
	$(GO) tool staticcheck -tags manual ./cmd/...
	$(GO) test ./test/imports

bench: setup build ## speed, next to what one would do instead; writes docs/benchmarks.md
	$(GO) run ./test/bench bin

fuzz: ## every parser for FUZZTIME
	@for pkg in $$($(GO) list ./...); do \
		for f in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz'); do \
			echo "== $$pkg $$f"; $(GO) test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) $$pkg || exit 1; \
		done; \
	done

install: build install-dispatcher ## binaries and everything in packaging/, below DESTDIR
	install -D -m 755 $(BIN)/uplane $(DESTDIR)$(PREFIX)/bin/.uplane
	mv $(DESTDIR)$(PREFIX)/bin/.uplane $(DESTDIR)$(PREFIX)/bin/uplane # at once: the scripts run it at any time
	install -D -m 755 $(BIN)/uplaned $(DESTDIR)$(PREFIX)/sbin/uplaned
	install -D -m 644 packaging/dbus/org.uplane.Uplane1.conf $(DESTDIR)$(PREFIX)/share/dbus-1/system.d/org.uplane.Uplane1.conf
	install -D -m 644 packaging/dbus/org.uplane.Uplane1.xml $(DESTDIR)$(PREFIX)/share/dbus-1/interfaces/org.uplane.Uplane1.xml
	install -D -m 644 packaging/dbus/org.uplane.Uplane1.service $(DESTDIR)$(PREFIX)/share/dbus-1/system-services/org.uplane.Uplane1.service
	install -D -m 644 packaging/polkit/org.uplane.policy $(DESTDIR)$(PREFIX)/share/polkit-1/actions/org.uplane.policy
	install -d $(DESTDIR)$(PREFIX)/lib/systemd/system
	sed 's,@PREFIX@,$(PREFIX),' packaging/systemd/uplaned.service > $(DESTDIR)$(PREFIX)/lib/systemd/system/uplaned.service
	install -D -m 644 packaging/systemd/uplane-lane@.target $(DESTDIR)$(PREFIX)/lib/systemd/system/uplane-lane@.target
	install -D -m 644 packaging/iproute2/uplane.conf $(DESTDIR)/etc/iproute2/rt_protos.d/uplane.conf
	install -D -m 644 packaging/networkmanager/90-uplane.conf $(DESTDIR)$(PREFIX)/lib/NetworkManager/conf.d/90-uplane.conf

# NetworkManager runs only scripts that belong to root and that nobody else can write to, and none with a
# dot in front: it shall not find half a one.
install-dispatcher:
	for script in . pre-up.d; do \
		to=$(DESTDIR)$(PREFIX)/lib/NetworkManager/dispatcher.d/$$script; \
		install -d $$to && \
		sed 's,@PREFIX@,$(PREFIX),' packaging/networkmanager/dispatcher.d/$$script/50-uplane > $$to/.50-uplane && \
		chmod 755 $$to/.50-uplane && \
		mv $$to/.50-uplane $$to/50-uplane || exit 1; \
	done

install: install-manual

install-manual: manual
	for page in uplane.1 uplaned.8 uplane.toml.5 org.uplane.Uplane1.5; do \
		install -D -m 644 $(BIN)/manual/$$page $(DESTDIR)$(PREFIX)/share/man/man$${page##*.}/$$page || exit 1; \
	done
	install -D -m 644 $(BIN)/manual/uplane.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/uplane
	install -D -m 644 $(BIN)/manual/uplane.zsh $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_uplane
	install -D -m 644 $(BIN)/manual/uplane.fish $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/uplane.fish
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/doc/uplane README.md README.zh-CN.md CHANGELOG.md LICENSE packaging/copyright
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/doc/uplane/examples packaging/examples/*

package: ## .deb, .rpm and tarball for amd64 and arm64, into dist/; the same commit gives the same bytes
	sh packaging/package.sh '$(VERSION)' '$(COMMIT)'

release: ## checks that VERSION can be released, and says what is left to do
	sh packaging/release.sh '$(VERSION)'

picture: ## README's, out of docs/lane.dot; needs Debian's graphviz
	dot -Tsvg docs/lane.dot -o docs/lane.svg

clean:
	rm -rf bin dist
