# What a newcomer guesses: make demo, make test, make build, make install.

PREFIX  ?= /usr
# Where the binaries are built, and installed from. "make -o build install BIN=…" takes those that are there.
BIN     ?= bin
DESTDIR ?=
GO      ?= go
GOFLAGS += -trimpath
export GOFLAGS

FUZZTIME   ?= 30s

.PHONY: all build setup setup-wifi demo test test-wifi lint bench fuzz install install-dispatcher clean

all: build

build: ## both binaries, into bin/; without C, "uplane run" starts in three quarters of the time
	CGO_ENABLED=0 $(GO) build -o $(BIN)/ ./cmd/...

setup: ## what the tests and the demo need, from Debian's packages
	sh packaging/setup.sh

setup-wifi: ## that, and an emulator with which test-wifi makes radios
	sh packaging/setup.sh qemu-system-x86

demo: setup build ## the main job, live, in a world of its own
	$(GO) run ./internal/lab/demo bin

test: setup build ## everything; as root, the kernel's and NetworkManager's side too
	$(GO) test -race -timeout 20m ./...

test-wifi: setup-wifi ## a lane on real Wi-Fi, in an emulated machine: some minutes
	$(GO) test -v -count=1 -timeout 40m -tags wifi ./internal/lab/wifi

lint: ## go vet and staticcheck
	test -z "$$(gofmt -l .)" || { gofmt -l .; exit 1; }
	$(GO) vet -tags wifi ./...
	$(GO) tool staticcheck -tags wifi ./...

bench: setup build ## speed, next to what one would do instead; writes docs/benchmarks.md
	$(GO) run ./internal/lab/bench bin

fuzz: ## every parser for FUZZTIME
	@for pkg in $$($(GO) list ./...); do \
		for f in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz'); do \
			echo "== $$pkg $$f"; $(GO) test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) $$pkg || exit 1; \
		done; \
	done

install: build install-dispatcher ## binaries and everything in packaging/, below DESTDIR
	install -D -m 755 $(BIN)/uplane $(DESTDIR)$(PREFIX)/bin/uplane
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

# NetworkManager runs only scripts that belong to root and that nobody else can write to.
install-dispatcher:
	for script in 50-uplane pre-up.d/50-uplane; do \
		to=$(DESTDIR)$(PREFIX)/lib/NetworkManager/dispatcher.d/$$script; \
		install -D -m 755 packaging/networkmanager/dispatcher.d/$$script $$to && \
		sed -i 's,@PREFIX@,$(PREFIX),' $$to || exit 1; \
	done

clean:
	rm -rf bin
