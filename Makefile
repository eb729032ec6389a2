# Coati. `make` lists the targets.

FUZZTIME ?= 10s
GOFUMPT = mvdan.cc/gofumpt@v0.12.0
STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.1
# Real time and real peers are not for the race detector's slowness.
UNIT = $(shell go list ./... | grep -v '^coati/lab')

.DEFAULT_GOAL := help
.PHONY: help build demo test unit lab matrix soak race fuzz lint arch arm64 machines ci bench man clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## bin/coati, one static binary
	CGO_ENABLED=0 go build -trimpath -o bin/coati ./cmd/coati

demo: ## two hosts, a tunnel between them, a file through it (root)
	@lab/demo.sh

test: ## unit tests, and as root the lab: real peers in network namespaces
	@if [ "$$(id -u)" = 0 ]; then lab/install.sh && $(MAKE) --no-print-directory unit lab; \
	else echo "not root: unit tests only; as root, 'make test' also runs the lab against real peers"; \
	$(MAKE) --no-print-directory unit; fi

unit:
	go test $(UNIT)

# From inside the folder, because go test hides the table of a passing package named from outside.
lab: build
	cd lab && COATI_BIN=$(CURDIR)/bin/coati go test -count=1 -timeout 19m -parallel 6

matrix: build ## the lab with SAs of ten seconds for five minutes, and every cipher and way against the kernel's ESP, into docs (root)
	@lab/install.sh
	cd lab && COATI_BIN=$(CURDIR)/bin/coati COATI_LIFETIMES=5m COATI_MATRIX=$(CURDIR)/docs/kernel-matrix-all.md go test -count=1 -timeout 60m -parallel 6

SEEDS ?= 10000
soak: ## the simulator over SEEDS (10000) seeds, into docs/soak.md
	go test -count=1 -timeout 12h ./ike/sim -run '^TestSoak$$' -sim.seeds=$(SEEDS) -sim.out=$(CURDIR)/docs/soak.md

race: ## unit tests under the race detector
	go test -race $(UNIT)

fuzz: ## every fuzz target for FUZZTIME (10s)
	@.ci/fuzz $(FUZZTIME)

lint: ## gofumpt, go vet, staticcheck
	@unformatted=$$(go run $(GOFUMPT) -l .); \
	if [ -n "$$unformatted" ]; then echo "not gofumpt-formatted:"; echo "$$unformatted"; exit 1; fi
	go vet ./...
	go run $(STATICCHECK) ./...

arch: ## who may import whom, and what pure code may not touch
	go test -count=1 -run Arch .

arm64: ## vet and the data path's tests as arm64, by qemu
	@lab/install.sh arm64
	.ci/machines arm64

machines: arm64 ## arm64, and amd64 without the instructions of our kernels, and by each of them
	.ci/machines amd64

ci: lint arch race fuzz machines test ## all that must hold before a merge

bench: build ## throughput, latency, handshakes beside other programs, into docs/benchmarks.md (root, 15 minutes)
	@lab/install.sh bench
	bin/coati bench all --markdown docs/benchmarks.md

man: build ## manual pages, into docs/man
	mkdir -p docs/man
	bin/coati man docs/man

clean: ## remove what was built
	rm -rf bin
