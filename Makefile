# What a person or a build server does with this project. `make help` lists it.
.PHONY: help build demo test golden lint format fuzz soak bench clean

help:
	@echo 'make build   builds .build/release/ospite, ospite-vmm and ospite-display'
	@echo 'make demo    boots a Linux guest here: a shell on a terminal, else a short proof'
	@echo 'make test    builds and runs all tests (at most 40 minutes on two cores)'
	@echo 'make golden  writes the pinned tables and host code anew (Tests/*/Golden): read the difference'
	@echo 'make lint    checks the formatting of all sources'
	@echo 'make format  formats all sources'
	@echo 'make fuzz    runs the mutation tests for longer: ROUNDS=n per test (default 1000000), the bus fuzzer'
	@echo '             with new seeds for MINUTES=n (default 0), then compares the software CPU with this'
	@echo '             processor until you stop it'
	@echo 'make soak    memory testers, then hundreds of boots and kills, resumable: ROUNDS=n (default 200)'
	@echo 'make bench   compares the software CPU with QEMU and the host in one run: ROUNDS=n (default 7),'
	@echo '             ROWS="sha256 boot" for some rows of Scripts/guest/bench/rows only, SHORT=20 for a'
	@echo '             twentieth of the operations'
	@echo 'make clean   removes what was built'

build:
	@command -v swift >/dev/null || { echo 'Swift is missing: install Swift 6.2 or newer (swift.org/install).' >&2; exit 1; }
	@Scripts/install-packages build
	swift build -c release --product ospite
	swift build -c release --product ospite-vmm
	swift build -c release --product ospite-display

demo:
	@Scripts/install-packages demo
	@$(MAKE) --no-print-directory build
	@Scripts/demo

test:
	@Scripts/install-packages test
	@Scripts/run-tests

golden:
	@Scripts/install-packages test
	OSPITE_BLESS=1 Scripts/run-tests Golden
	@git diff --stat -- 'Tests/*/Golden'

lint:
	swift format lint --strict --recursive Package.swift Sources Tests

format:
	swift format --in-place --recursive Package.swift Sources Tests

fuzz:
	@Scripts/install-packages fuzz
	OSPITE_FUZZ_ROUNDS=$(or $(ROUNDS),1000000) Scripts/run-tests '[Mm]utation|[Ff]uzz'
	@Scripts/fuzz-seeds $(or $(MINUTES),0)
	swift build -c release --product ospite-oracle
	.build/release/ospite-oracle --cases $(or $(ROUNDS),1000000) --forever

soak: build
	@Scripts/install-packages soak
	@Scripts/soak-memory
	@Scripts/soak

bench: build
	@Scripts/install-packages bench
	@Scripts/bench

clean:
	rm -rf .build out
