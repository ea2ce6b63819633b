# hallpass: what there is to do. `make help` lists it.
#
# bin/hallpass-dev holds a whole Temporal server, whose first compilation takes
# minutes on a small machine. No test binary links it: end-to-end tests run
# bin/hallpass, which becomes bin/hallpass-dev where it needs the server.

.SHELLFLAGS := -o pipefail -c
SHELL      := /bin/bash
GO         ?= go
TAGS       := disable_grpc_modules
VERSION    ?= $(shell git describe --tags --always --dirty 2>/dev/null)
# Where git doesn't work here, neither does Go's asking it for the revision.
ifeq ($(VERSION),)
export GOFLAGS += -buildvcs=false
endif
LDFLAGS    := -s -w $(if $(VERSION),-X hallpass/cli.version=$(VERSION))
HOSTFLAGS  := -s -w $(if $(VERSION),-X main.version=$(VERSION))
BUILDFLAGS := -tags $(TAGS) -ldflags '$(LDFLAGS)'
BIN        := bin/hallpass
KMS_BIN    := bin/hallpass-kms
VAULT_BIN  := bin/vault-for-tests
S3_BIN     := bin/s3-for-tests
TOOLS      := bin/tools
PROGRAMS   ?= hallpass hallpass-dev hallpass-host hallpass-kms
PLATFORMS  ?= linux/amd64 linux/arm64 darwin/amd64 darwin/arm64
FUZZTIME   ?= 3s
E2E        ?= .
REQUESTS   ?= 500
# What make test sets: the steps before this one have vetted and built what they do.
IN_ORDER   ?=
VETTED     := $(if $(IN_ORDER),-vet=off)
SCALE      ?= 1
# Of make chaos: the length of each of its plays; no SEED: any.
MINUTES    ?= 2
STACKS     ?= embedded processes

# The packages that don't link the Temporal server: all but a few.
LIGHT = $(shell $(GO) list -tags $(TAGS) -f '{{$$s := false}}{{range .Deps}}{{if eq . "go.temporal.io/server/temporal"}}{{$$s = true}}{{end}}{{end}}{{if not $$s}}{{.ImportPath}}{{end}}' ./...)
# Packages whose tests need a Vault server.
VAULTED = ./testsuite/vaulttest/grants ./vault ./testsuite/vaulttest/... ./testsuite/issuers
# Of the light ones, those whose tests have no step of their own below. What takes
# longest begins first, or it would run alone at the end.
LONG  = hallpass/workflows hallpass/audit hallpass/cli
UNIT  = $(LONG) $(filter-out $(LONG) hallpass/testsuite hallpass/testsuite/histories hallpass/testsuite/vaulttest% hallpass/testsuite/s3test hallpass/testsuite/issuers hallpass/vault hallpass/host hallpass/testsuite/topology,$(LIGHT))

comma := ,
# A step's heading, on a terminal in bold.
say = @if [ -t 1 ]; then printf '\n\033[1m==> %s\033[0m\n' "$(1)"; else printf '\n==> %s\n' "$(1)"; fi

export PATH := $(PATH):/usr/sbin:/sbin

# One setting for all but the race detector, so that everything is compiled
# once: linters, tests and binary share Go's build cache.
export CGO_ENABLED := 0

# hallpass-kms is for Linux, and loads PKCS#11 modules with cgo: compiled in one
# way for building, tests and linters as well.
FOR_KMS = GOOS=linux CGO_ENABLED=$(if $(filter linux,$(shell $(GO) env GOOS)),1,0)

.PHONY: build
build: ## build bin/hallpass, bin/hallpass-dev and bin/hallpass-host
	$(call say,$(BIN) (the first time this takes some minutes))
	@$(GO) build $(BUILDFLAGS) -o $(BIN) ./cmd/hallpass
	@$(GO) build $(BUILDFLAGS) -o $(BIN)-dev ./cmd/hallpass-dev
	@GOOS=linux $(GO) build -trimpath -ldflags '$(HOSTFLAGS)' -o $(BIN)-host ./cmd/hallpass-host
	@ls -lh $(BIN) $(BIN)-dev $(BIN)-host | awk '{print $$NF ", " $$5}'

.PHONY: vault
vault: ## build a Vault server for tests, from HashiCorp's source; nothing of it gets into hallpass
	$(call say,$(VAULT_BIN) (the first time this takes some minutes))
	@$(GO) -C testsuite/vault build -ldflags '-s -w' -o $(CURDIR)/$(VAULT_BIN) .
	@ls -lh $(VAULT_BIN) | awk '{print $$NF ", " $$5}'

.PHONY: s3
s3: ## build an S3 server for tests, Versity's S3 Gateway, from its Go module; nothing of it gets into hallpass
	$(call say,$(S3_BIN) (the first time this takes a minute))
	@$(GO) -C testsuite/s3 build -ldflags '-s -w' -o $(CURDIR)/$(S3_BIN) github.com/versity/versitygw/cmd/versitygw
	@ls -lh $(S3_BIN) | awk '{print $$NF ", " $$5}'

.PHONY: kms
kms: ## build bin/hallpass-kms, the agent for CA keys in a KMS, from a module of its own
	$(call say,$(KMS_BIN) (the first time this takes some minutes))
	@$(FOR_KMS) $(GO) -C kms build -ldflags '$(HOSTFLAGS)' -o $(CURDIR)/$(KMS_BIN) .
	@ls -lh $(KMS_BIN) | awk '{print $$NF ", " $$5}'

.PHONY: step-ca
step-ca: ## build a step-ca to measure beside hallpass, from its Go module
	$(call say,bin/step-ca-for-tests (the first time this takes some minutes))
	@$(GO) -C testsuite/stepca build -ldflags '-s -w' -o $(CURDIR)/bin/step-ca-for-tests github.com/smallstep/certificates/cmd/step-ca
	@ls -lh bin/step-ca-for-tests | awk '{print $$NF ", " $$5}'

.PHONY: temporal
temporal: ## build Temporal's server and its schema tool from its Go modules, for the test of the topology
	$(call say,bin/temporal-server)
	@$(GO) build -tags $(TAGS) -ldflags '-s -w' -o bin/temporal-server go.temporal.io/server/cmd/server
	@$(GO) build -tags $(TAGS) -ldflags '-s -w' -o bin/temporal-sql-tool go.temporal.io/server/cmd/tools/sql
	@ls -lh bin/temporal-server bin/temporal-sql-tool | awk '{print $$NF ", " $$5}'

.PHONY: demo
demo: deps build $(if $(VAULT),vault) ## tell the story of one access request, on real parts; KEEP=1 leaves it running, VAULT=1 adds a database
	@$(BIN) demo $(if $(KEEP),--keep) $(if $(VAULT),--vault $(VAULT_BIN))

# The steps of `make test`, in order: what is quick and what is wrong most
# often comes first.
STEPS := fmt vet lint workflowcheck floors unit hosts histories-replay build kms-tests licences vault-tests s3-tests e2e attack-stack topology chaos fuzz vuln

.PHONY: test
test: deps ## run all that a change has to pass: lint, tests, end to end, fuzzing
	@start=$$(date +%s); took=; export HALLPASS_LEFT_OUT=$$(mktemp); trap 'rm -f "$$HALLPASS_LEFT_OUT"' EXIT; \
	for step in $(STEPS); do \
		began=$$(date +%s); \
		$(MAKE) --no-print-directory REQUESTS=$(if $(CI),500,60) SEED=1 MINUTES=0.5 IN_ORDER=1 $$step || { printf '\nFAILED in step %s; again with: make %s\n' $$step $$step; exit 1; }; \
		took="$$took $$step $$(($$(date +%s)-began)) s,"; \
	done; \
	total=$$(($$(date +%s)-start)); \
	[ ! -s "$$HALLPASS_LEFT_OUT" ] || { printf '\nLEFT OUT on this machine:\n'; sed 's/^/  /' "$$HALLPASS_LEFT_OUT"; }; \
	printf '\nPASSED:%s in all %dm%02ds\n' "$$took" $$((total/60)) $$((total%60))

.PHONY: fmt
fmt: ## fail on files that gofmt would change
	$(call say,gofmt)
	@files=$$(gofmt -l $$(find . -name '*.go' -not -path './bin/*' -not -path './dist/*')); \
	if [ -n "$$files" ]; then echo "gofmt -w $$files"; exit 1; fi; echo clean

.PHONY: vet
vet: ## go vet
	$(call say,go vet (the first time Temporal is compiled for it: some minutes))
	@$(GO) vet -tags $(TAGS) ./... && $(FOR_KMS) $(GO) -C kms vet ./... && echo clean

# Those of staticcheck itself, and two that golangci-lint has beside them.
CHECKS := inherit,SA9003,ST1023

.PHONY: lint
lint: $(TOOLS)/.built ## staticcheck and golangci-lint
	$(call say,staticcheck)
	@$(TOOLS)/staticcheck -checks $(CHECKS) -tags $(TAGS) ./... && cd kms && $(FOR_KMS) ../$(TOOLS)/staticcheck -checks $(CHECKS) ./... && echo clean
	$(call say,golangci-lint)
	@$(TOOLS)/golangci-lint run --allow-parallel-runners && cd kms && $(FOR_KMS) ../$(TOOLS)/golangci-lint run --allow-parallel-runners

.PHONY: workflowcheck
workflowcheck: $(TOOLS)/.built ## prove that the workflows are deterministic
	$(call say,workflowcheck: no clock and no random in workflows)
	@$(TOOLS)/workflowcheck -config workflows/workflowcheck.yaml ./workflows/... && echo clean

.PHONY: floors
floors: ## check that imports go down, never up
	$(call say,floors: who may import whom)
	@$(GO) test $(VETTED) -count=1 -v -run '^TestFloors' ./testsuite | grep -v '^=== '

.PHONY: unit
unit: ## all package tests, with the race detector, in random order
	$(call say,tests of the packages with the race detector)
	@CGO_ENABLED=1 $(GO) test $(VETTED) -race -shuffle=on -timeout 40m $(UNIT)

.PHONY: hosts
hosts: ## the host agent with a real sshd, PAM and ssh; as root, and with nothing beside it: it measures time
	$(call say,the host agent with a real sshd$(comma) PAM and ssh)
	@$(GO) test $(VETTED) -count=1 -shuffle=on -parallel 6 -timeout 40m ./host

.PHONY: histories-replay
histories-replay: ## replay the recorded workflow histories
	$(call say,replay of recorded histories)
	@$(GO) test $(VETTED) -count=1 ./testsuite/histories/...

.PHONY: vault-tests
vault-tests: vault ## the tests that need a real Vault, with the race detector
	$(call say,tests with a real Vault and a real PostgreSQL)
	@HALLPASS_VAULT_BIN=$(CURDIR)/$(VAULT_BIN) CGO_ENABLED=1 $(GO) test $(VETTED) -race -count=1 -shuffle=on -timeout 40m $(VAULTED)

.PHONY: s3-tests
s3-tests: s3 ## checkpoints on a real S3 server, with the race detector
	$(call say,checkpoints on a real S3 server)
	@HALLPASS_S3_BIN=$(CURDIR)/$(S3_BIN) CGO_ENABLED=1 $(GO) test $(VETTED) -race -count=1 -shuffle=on ./testsuite/s3test

.PHONY: kms-tests
kms-tests: ## the agent for keys in a KMS, with SoftHSM, and with AWS, Google and Azure as their SDKs see them
	$(call say,the agent for CA keys in a KMS)
	@if [ "$$($(GO) env GOOS)" != linux ]; then echo "it is for Linux"; else $(FOR_KMS) $(GO) -C kms test $(VETTED) -race -count=1 -shuffle=on ./...; fi

.PHONY: e2e
e2e: ## end-to-end scripts with bin/hallpass, a real sshd and ssh, and a real Vault, S3 server and hallpass-kms once make vault, s3 and kms have built them; E2E=name runs one
	$(call say,end to end: bin/hallpass with Temporal inside and a real sshd and ssh)
	@ls testsuite/testdata/scripts | grep -qE '$(E2E)' || { echo "no script is named like $(E2E)"; exit 1; }
	@HALLPASS_BIN=$(CURDIR)/$(BIN) $(GO) test $(VETTED) -count=1 -timeout 40m $(if $(HALLPASS_FIGURES),-v) -run '^Test(Vault)?Scripts$$/$(E2E)' ./testsuite
	@$(if $(filter .,$(E2E)),HALLPASS_BIN=$(CURDIR)/$(BIN) $(GO) test $(VETTED) -count=1 ./testsuite/histories/record)
	@cd testsuite/testdata/scripts && echo $$(ls | grep -Ec '$(E2E)') scripts: $$(ls | grep -E '$(E2E)' | sed 's/\.txtar$$//')

.PHONY: attack-stack
attack-stack: ## the attacks that take a whole running hallpass
	$(call say,attacks on a whole running hallpass)
	@HALLPASS_BIN=$(CURDIR)/$(BIN) $(GO) test $(VETTED) -count=1 -timeout 40m ./testsuite/attacks

.PHONY: topology
topology: temporal $(if $(IN_ORDER),,vault) ## Temporal's roles, PostgreSQL, Vault, hallpass's roles and two hosts as processes, each killed -9 in turn under REQUESTS (500) requests; as root
	$(call say,topology: each process killed and started again under $(REQUESTS) requests; rolling and versioned upgrades; another key for the SSH CA)
	$(if $(IN_ORDER),,@$(GO) build $(BUILDFLAGS) -o $(BIN) ./cmd/hallpass)
	$(if $(IN_ORDER),,@GOOS=linux $(GO) build -trimpath -ldflags '$(HOSTFLAGS)' -o $(BIN)-host ./cmd/hallpass-host)
	@HALLPASS_BIN=$(CURDIR)/$(BIN) HALLPASS_VAULT_BIN=$(CURDIR)/$(VAULT_BIN) HALLPASS_TOPOLOGY_REQUESTS=$(REQUESTS) $(GO) test $(VETTED) -count=1 -timeout 60m -v ./testsuite/topology | grep -Ev '^=== '

.PHONY: attack
attack: build vault ## carry out the known attacks and say what held; ONLY=name; TABLE=1 writes the table in the threat model
	$(call say,attacks)
	@HALLPASS_BIN=$(CURDIR)/$(BIN) $(GO) run -tags $(TAGS) ./testsuite/attacks/run $(if $(TABLE),-table) -only '$(ONLY)'

.PHONY: chaos
chaos: $(if $(IN_ORDER),,build $(if $(filter processes,$(STACKS)),temporal vault)) ## work and faults as a SEED plans them, for MINUTES, on hallpass dev and on processes (STACKS), judged from outside; PLAN=file plays what one run planned
	$(call say,chaos$(comma) on $(STACKS))
	$(if $(MINUTES),,$(error MINUTES is empty))
	@export HALLPASS_BIN=$(CURDIR)/$(BIN) HALLPASS_VAULT_BIN=$(CURDIR)/$(VAULT_BIN) HALLPASS_CHAOS_SEED='$(SEED)' HALLPASS_CHAOS_MINUTES='$(MINUTES)' HALLPASS_CHAOS_PLAN='$(abspath $(PLAN))'; mkdir -p bin/chaos; \
	for stack in $(STACKS); do \
		case $$stack in embedded) play='TestEmbedded ./testsuite/chaos';; processes) play='TestChaos ./testsuite/topology';; \
		*) echo "STACKS is embedded, processes, or both: not $$stack"; exit 1;; esac; \
		$(GO) test $(VETTED) -tags $(TAGS) -count=1 -timeout 0 -v -artifacts -outputdir $(CURDIR)/bin/chaos -run $$play | grep -Ev '^=== (RUN|CONT|NAME|PAUSE)' || exit 1; \
	done

.PHONY: histories
histories: build ## record the workflow histories that aren't there yet, those of a release with OUT=testsuite/histories/vX.Y.Z
	$(call say,recording histories)
	@$(GO) run ./testsuite/histories/record -hallpass $(BIN) $(if $(OUT),-out $(OUT))

.PHONY: fuzz
fuzz: ## every fuzz target for FUZZTIME (3s)
	$(call say,fuzzing)
	@FUZZTIME=$(FUZZTIME) .ci/fuzz $(VETTED)

.PHONY: vuln
vuln: $(TOOLS)/.built ## known vulnerabilities in reachable code
	$(call say,govulncheck)
	@.ci/vulnerabilities $(TOOLS)/govulncheck -tags $(TAGS)
	@$(FOR_KMS) .ci/vulnerabilities $(TOOLS)/govulncheck -C kms

.PHONY: bench
bench: build $(if $(ONLY),$(if $(filter postgres postgres-steps revoke,$(subst $(comma), ,$(ONLY))),temporal),temporal) ## measure hallpass beside what it can't be faster than; ONLY=policy,ca SCALE=0.1; DOCS=1 writes docs/performance.md
	$(call say,measurements)
	@$(GO) run -tags $(TAGS) ./testsuite/bench -hallpass $(BIN) -only '$(ONLY)' -scale $(SCALE) $(if $(DOCS),-docs)

.PHONY: bench-compare
bench-compare: $(TOOLS)/.built ## compare the Go benchmarks with those of BASE=revision; BENCH=name PKG=./policy COUNT=6
	$(call say,benchmarks beside those of $(BASE))
	@BASE='$(BASE)' BENCH='$(BENCH)' PKG='$(PKG)' COUNT='$(COUNT)' .ci/bench-compare $(TOOLS)/benchstat

.PHONY: screenshot
screenshot: build ## take the README's picture of the Temporal UI anew; needs chromium
	$(call say,screenshot)
	@command -v chromium >/dev/null || { echo "please install, as root: apt-get install chromium"; exit 1; }
	@$(GO) run ./testsuite/screenshot -hallpass $(BIN) -o docs/images/temporal-ui.png

.PHONY: release
release: programs ## build for Linux and macOS, amd64 and arm64, into dist/, with bills of materials; PROGRAMS and PLATFORMS choose
	@$(MAKE) --no-print-directory sbom BINARIES="$$(echo dist/*/hallpass*)"
	@cd dist && sha256sum */* >SHA256SUMS && cat SHA256SUMS

.PHONY: programs
programs: # of a release
	$(call say,release $(VERSION))
	@rm -rf dist && mkdir -p dist
	@for p in $(PLATFORMS); do for program in $(PROGRAMS); do \
		case $$program-$$p in hallpass-host-darwin/*|hallpass-kms-darwin/*) continue; esac; \
		out=dist/$$(echo $$p | tr / -)/$$program; echo $$out; \
		export GOOS=$${p%/*} GOARCH=$${p#*/}; \
		case $$program in \
		hallpass-host) $(GO) build -trimpath -ldflags '$(HOSTFLAGS)' -o $$out ./cmd/$$program;; \
		hallpass-kms) $(GO) -C kms build -trimpath -ldflags '$(HOSTFLAGS)' -o $(CURDIR)/$$out .;; \
		*) $(GO) build -trimpath $(BUILDFLAGS) -o $$out ./cmd/$$program;; \
		esac || exit 1; \
	done; done

BINARIES ?= $(BIN) $(BIN)-dev $(BIN)-host $(KMS_BIN)

.PHONY: sbom
sbom: $(TOOLS)/.built ## write a bill of materials (CycloneDX) beside each program
	$(call say,bills of materials)
	@for b in $(BINARIES); do \
		$(TOOLS)/cyclonedx-gomod bin -json -licenses -std -noserial -version '$(or $(VERSION),unknown)' -output $$b.cdx.json $$b 2>$$b.cdx.log \
			|| { cat $$b.cdx.log; exit 1; }; rm $$b.cdx.log; echo $$b.cdx.json; \
	done

.PHONY: licences
licences: $(if $(IN_ORDER),,build) kms sbom ## list the licences of all that is in the programs, and fail on one that nobody has looked at
	$(call say,licences)
	@$(GO) run ./testsuite/licences $(BINARIES:%=%.cdx.json)

.PHONY: reproducible
reproducible: ## build what is committed twice, in two folders and from nothing, and compare; PROGRAMS chooses
	$(call say,the same build twice)
	@dir=$$(mktemp -d); trap "rm -rf $$dir" EXIT; \
	for copy in one another/of/them; do \
		git clone -q . $$dir/$$copy && GOCACHE=$$dir/cache-$${copy%%/*} $(MAKE) -s -C $$dir/$$copy programs \
			PROGRAMS='$(PROGRAMS)' PLATFORMS=$$($(GO) env GOOS)/$$($(GO) env GOARCH) VERSION='$(VERSION)' || exit 1; \
		(cd $$dir/$$copy/dist && sha256sum */*) >$$dir/$${copy%%/*}.sums; cat $$dir/$${copy%%/*}.sums; \
	done; \
	cmp $$dir/one.sums $$dir/another.sums && echo the same

.PHONY: deps
deps: # what the machine needs beside Go; installed with apt
	@.ci/install

$(TOOLS)/.built: tools/go.mod tools/go.sum
	$(call say,linters of tools/go.mod (the first time this takes some minutes))
	@mkdir -p $(TOOLS) && $(GO) -C tools build -o ../$(TOOLS)/ tool && touch $@

.PHONY: clean
clean: ## remove what was built
	rm -rf bin dist

.PHONY: help
help: ## this text
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
