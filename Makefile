# Every verb is a script in tools/; this file only names them and says what they need.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help setup demo image test test-vz check bench cluster-up node-up down clean lock

help: ## List the verbs
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile

setup: ## Install what is missing (system packages, .venv, Go); does nothing when all is there
	@tools/setup

demo: setup ## Show the product: cluster, registry, node, a VM pod (KEEP=1 leaves it running)
	@tools/demo

test: setup ## Run all tests: unit first, then conformance, integration and e2e (ARGS="..." for pytest)
	@tools/test $(ARGS)

test-vz: setup ## Run the end-to-end tests with the vz driver, over the double of Apple's frameworks
	@tools/test_vz $(ARGS)

check: setup ## Formatting, lint, types, import contracts, sizes, lock files, Apple's API
	@tools/check

image: setup ## Put the Linux guest of the examples into your image cache
	@tools/image

bench: setup ## Measure the agent, or images (ARGS=images), and print tables and JSON
	@tools/bench $(ARGS)

cluster-up: setup ## Start a control plane on loopback and write .run/env
	@tools/cluster_up

node-up: setup ## Start cluster, registry, Docker engine where none runs, guest image and agent
	@tools/node_up

down: ## Stop exactly what demo, cluster-up and node-up started
	@tools/down

clean: down ## Stop everything, then remove .run, .venv and caches inside this checkout
	@tools/clean

lock: setup ## Resolve the dependencies of pyproject.toml again into requirements/*.lock (network)
	@tools/lock
