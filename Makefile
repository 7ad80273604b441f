# Everything a newcomer needs is `make run` and `make test`.

CARGO ?= cargo
export PATH := $(CURDIR)/.tools/bin:$(PATH)

.PHONY: run fleet test lint fmt build bench bench-micro soak fuzz deny sbom clean

## Build and start the development server on http://127.0.0.1:8000.
run:
	$(CARGO) run --release --locked -- dev

## Three servers on ports 8001 to 8003 of this machine that share a PostgreSQL, to try a fleet.
fleet:
	./deploy/fleet

## Install what the tests need and run everything.
test:
	./tests/run

## Format, lints and docs, without tests.
lint:
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	npx --no-install buf lint

fmt:
	$(CARGO) fmt
	npx --no-install buf format -w

build:
	$(CARGO) build --release --locked

## What a server on this machine costs and how fast it is.
bench:
	$(CARGO) run --release --locked -- bench

## What each step of a delivery costs alone: those that only compute, and the store.
bench-micro:
	$(CARGO) bench --locked --bench hot
	$(CARGO) bench --locked --bench store

## 200 kills with a ledger of what was acknowledged and received: of one server, and of a
## fleet and its PostgreSQL.
soak:
	HOOKWIRE_KILLS=200 $(CARGO) test --release --locked --test it -- crash --nocapture

## Five minutes for each fuzz target; FUZZ_SECONDS says how many seconds instead.
fuzz:
	./fuzz/run

## Bans, licences and sources of dependencies; needs cargo-deny.
deny:
	cargo deny check bans licenses sources

## What the binary is made of, as CycloneDX: target/hookwire.cdx.json. Installs
## cargo-cyclonedx if it is missing.
sbom:
	command -v cargo-cyclonedx >/dev/null || $(CARGO) install --locked --version 0.5.9 --root .tools cargo-cyclonedx
	$(CARGO) cyclonedx --format json --describe binaries --no-build-deps --quiet
	mkdir -p target && mv hookwire_bin.cdx.json target/hookwire.cdx.json

clean:
	$(CARGO) clean
	rm -rf fuzz/target fuzz/artifacts
	rm -rf node_modules .venv .tools
