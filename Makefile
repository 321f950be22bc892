# The commands of the README. Everything installs what it needs by itself (`setup`).
SECONDS ?= 60
SEED ?= 0
SEEDS ?= 1000
FROM ?= 0
BUG ?=

.PHONY: setup build build-release demo test s3-moto lint docs guard guard-print sim chaos health house proof proof-quick fresh fresh-quick \
	bench bench-quick bench-full

# Each target has what it needs installed first, and no more: the groups are those of scripts/setup.sh.
setup:
	@scripts/setup.sh build run test

setup-%:
	@scripts/setup.sh $(subst +, ,$*)

build: setup-build
	cargo build --workspace --bins

# The main job on a real PostgreSQL, with kills, and the proof that nothing was lost. Builds the one program that it runs.
# KEEP=1 leaves everything running afterwards; OPTIONS goes to `walfabric demo`.
demo:
	@scripts/demo.sh $(if $(KEEP),--keep) $(OPTIONS)

# The gate: lint, every test, the hot paths' guards, 1000 simulated schedules, a minute of chaos, redo judged by PostgreSQL,
# and the set-up with the build of what needs more than Rust on a machine where nothing is installed.
test: lint build
	cargo test --workspace
	$(MAKE) guard
	$(MAKE) sim SEEDS=1000
	$(MAKE) chaos SECONDS=60
	$(MAKE) health SECONDS=60
	$(MAKE) proof-quick
	$(MAKE) fresh-quick

# A Debian with nothing but its base system, make, git and Rust: the project is cloned into it, and `make demo` and `make test` run there.
# docs/building.md has its settings (FRESH_STEPS, FRESH_USER).
fresh:
	@scripts/fresh.sh

# Only the set-up and the crates whose build asks for more than Rust; says so where no such root can be made.
fresh-quick:
	@scripts/fresh.sh --quick

# The page store against moto, an S3 server that others wrote: protocol, listing, conditional PUT.
s3-moto: setup-build+s3-moto
	scripts/s3-moto.sh

lint: setup
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings

# The code's structure in figures beside their goals: circles of imports, purity, names, docs, sizes.
# LIST=circles|purity|names|docs|rows|sizes gives the places. Plain rustc builds it in two seconds.
house:
	@mkdir -p target/house
	@rustc --edition 2024 -o target/house/house tests/src/bin/house.rs
	@target/house/house $(if $(LIST),--list $(LIST))

# The page of all settings, made from the structs that read them; a test compares it.
docs: setup-build
	cargo run -q -p tests --bin settings > target/settings.md
	mv target/settings.md docs/settings.md

# Instructions of the hot paths against their limits, counted by valgrind (allocations: tests/tests/allocations.rs).
guard: setup
	cargo run -q -p tests --bin hotpath

# The figures of now, to set limits by (tests/src/guard/mod.rs).
guard-print: setup
	cargo run -q -p tests --bin hotpath -- --print
	cargo test -q -p tests --test allocations hot_paths_allocate -- --nocapture

# Deterministic simulation: any number of seeds; one seed replays exactly (FROM=seed SEEDS=1); BUG=name plants a bug.
sim: setup-build
	cargo run -q -p tests --bin sim -- --seeds $(SEEDS) --from $(FROM) $(if $(BUG),--bug $(BUG))

# Real processes, killed at random; SEED=0 draws one and prints it.
chaos: setup-build+run build
	cargo run -q -p tests --bin chaos -- --seconds $(SECONDS) --seed $(SEED)

# Real processes, killed, frozen, cut off and full; every server must tell the truth about its health within 5 s (at least a minute).
health: setup-build+run build
	cargo run -q -p tests --bin health -- --seconds $(SECONDS)

# PostgreSQL as the judge of redo (docs/proof.md): every type of record, every image and every file page, on all majors,
# with PostgreSQL's own regression tests. Installs the other majors into target/postgres; about half an hour.
PROOF_SERVERS ?= 14.23 15 16.14 17.10 17.11 18.4 18.6
proof: setup-build+run+test+proof
	scripts/postgres-majors.sh
	scripts/postgres-regress.sh
	cargo run -q -p oracle --bin proof -- all --regress $(PROOF_SERVERS:%=--server %)

# The same on 15 alone, without the regression tests: about a minute.
proof-quick: setup
	cargo run -q -p oracle --bin proof -- all --server 15

# Ratios against peers run side by side, in a release build; raw results go to target/bench/results.jsonl.
# The table: every part with at least nine pairs where it compares, under 25 minutes after the build.
bench: setup-run+test+bench build-release
	cargo run -q --release -p tests --bin bench -- --extent table

# Every part, short: that it works and roughly where it stands, under 4 minutes after the build. Too short for a claim.
bench-quick: setup-run+test+bench build-release
	cargo run -q --release -p tests --bin bench -- --extent quick

# Longer blocks, more rounds, and what doesn't fit the table's time; `--list` of the program shows each part's budget.
bench-full: setup-run+test+bench build-release
	cargo run -q --release -p tests --bin bench -- --extent full

build-release: setup-build
	cargo build --release --workspace --bins
